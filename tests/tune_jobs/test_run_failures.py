"""A sweep conducted without Ray: trials that fail, run out of memory or hang, and which of them start again."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tests.tune_jobs.conducted import HALF, ActorDiedError, Driver, OutOfMemoryError
from tune_jobs.config.anomalies import STALL_FACTOR, STALL_FLOOR_S, Anomalies
from tune_jobs.records.journal import Journal
from tune_jobs.records.trial_spec import WAITS_KEY, Bundle


def test_an_out_of_memory_leads_to_a_larger_share_with_the_same_labels_and_another_failure_does_not(
    tmp_path: Path,
) -> None:
    driver = Driver(tmp_path)
    order = driver.start()
    assert driver.conductor.retried(order, ValueError("odd"), HALF) == HALF
    assert driver.conductor.retried(order, None, HALF) == HALF
    assert driver.conductor.retried(order, OutOfMemoryError("no bytes"), HALF) is None, "not with so little again"
    driver.conductor.ended("key", order, None)
    assert driver.folder.load().trials == (), "it only gave its place back"
    again = driver.conductor.next_order("key")
    assert isinstance(again, Mapping)
    assert (again["number"], again["bundle"]) == (1, asdict(replace(HALF, gpus=0.75)))
    driver.conductor.started(again, replace(HALF, gpus=0.75))
    driver.report(again, 1, 5.0)
    driver.conductor.ended("key", again, None)
    (record,) = driver.folder.load().trials
    assert (record.status, record.share, record.retries) == ("finished", 0.75, 1)
    assert "starts again: out of memory; 0.5 -> 0.75 of a card" in driver.said.getvalue()


def test_a_failure_that_the_trial_sends_is_its_outcome(tmp_path: Path) -> None:
    driver = Driver(tmp_path)
    order = driver.start()
    sent = {"trial/failure": "work_failed", "trial/failure_message": "WorkError: the loss became nan"}
    assert driver.conductor.reported(order, sent)
    driver.conductor.ended("key", order, None)
    (record,) = driver.folder.load().trials
    assert record.status == "failed"
    assert record.error is not None
    assert (record.error.type, record.error.message) == ("work_failed", "WorkError: the loss became nan")
    assert driver.proposer.lessons[1].outcome == "failed"


def test_a_training_that_diverged_teaches_that_its_configuration_is_bad(tmp_path: Path) -> None:
    driver = Driver(tmp_path)
    order = driver.start()
    sent = {"trial/failure": "diverged", "trial/failure_message": "DivergedError: the training loss exploded"}
    assert driver.conductor.reported(order, sent)
    driver.conductor.ended("key", order, None)
    assert driver.proposer.lessons[1].outcome == "failed"


def test_a_trial_that_does_not_report_for_long_is_ended_once(tmp_path: Path) -> None:
    driver = Driver(tmp_path)
    silent, speaking = driver.start(), driver.start()
    driver.now += STALL_FLOOR_S - 100
    assert driver.conductor.tick() == []
    driver.report(speaking, 1, 5.0)
    driver.now += 200
    assert (
        driver.conductor.tick() == []
    )  # the longest silence so far was nearly half an hour: ten times that is allowed
    driver.now += STALL_FACTOR * STALL_FLOOR_S - 250
    driver.report(speaking, 2, 5.0)
    assert driver.conductor.tick() == []
    driver.now += 10 * STALL_FACTOR * STALL_FLOOR_S
    assert driver.conductor.tick() == [1, 2]
    assert driver.conductor.tick() == []
    assert "trial 1 hangs: no report for" in driver.said.getvalue()
    driver.conductor.retried(silent, None, Bundle(cpus=1, gpus=0.5))
    driver.conductor.started(silent, Bundle(cpus=1, gpus=0.5))
    assert driver.conductor.tick() == []


def test_a_trial_that_hung_and_is_started_again_says_so(tmp_path: Path) -> None:
    driver = Driver(tmp_path, anomalies=Anomalies(stall_after="20m"))
    order = driver.start()
    driver.now += 1201
    assert driver.conductor.tick() == [1]
    half = Bundle(cpus=1, gpus=0.5)
    assert driver.conductor.retried(order, ActorDiedError("killed"), half) == half
    assert "trial 1 failed and starts again: stalled (no report for 20 min" in driver.said.getvalue()
    assert Journal(tmp_path / "journal.jsonl").trials[1].retries == ["stalled"]
    driver.conductor.started(order, half)
    assert driver.conductor.retried(order, ActorDiedError("killed"), half) == half
    assert Journal(tmp_path / "journal.jsonl").trials[1].retries == ["stalled", "worker_lost"]


@pytest.mark.parametrize(
    ("policy", "hangs", "kind", "message"),
    [
        (Anomalies(stalled="stop", stall_after="20m"), True, "stalled", "no report for 20 min 00 s: its process hung"),
        (Anomalies(lost_worker="stop"), False, "worker_lost", "ActorDiedError: node gone"),
    ],
)
def test_by_policy_a_trial_that_went_wrong_is_not_started_again(
    tmp_path: Path, policy: Anomalies, hangs: bool, kind: str, message: str
) -> None:
    driver = Driver(tmp_path, anomalies=policy)
    order = driver.start()
    if hangs:
        driver.now += 1201
        assert driver.conductor.tick() == [1]
    assert driver.conductor.retried(order, ActorDiedError("node gone"), Bundle(cpus=1, gpus=0.5)) is None
    driver.conductor.ended("key", order, None)
    (record,) = driver.folder.load().trials
    assert (record.status, record.retries) == ("failed", 0)
    assert record.error is not None
    assert record.error.type == kind
    assert record.error.message.startswith(message)
    assert driver.proposer.lessons[1].outcome == "out_of_memory", "it says nothing about the configuration"


def test_a_trial_that_waits_for_its_storage_is_not_taken_for_hanging(tmp_path: Path) -> None:
    driver = Driver(tmp_path)
    order = driver.start()
    for _ in range(70):  # minutes
        driver.now += 60.0
        assert not driver.conductor.reported(order, {WAITS_KEY: "no space left"})
        assert driver.conductor.tick() == []
    assert driver.said.getvalue().count("trial 1 waits with what it holds: no space left") == 1
    assert driver.progress.trials[1].reason == "no space left"
    driver.report(order, 1, 20.0)
    assert driver.progress.trials[1].reason == ""
