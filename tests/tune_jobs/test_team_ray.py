"""Quotas on a real Ray: two members at once, lending and giving back, a window that closes in mid-trial."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Literal, cast
from zoneinfo import ZoneInfo

import pytest

from tests.waiting import ended, stretched, wait_until
from tune_jobs.records.ledger import SweepFolder
from tuning_common.files import read_jsonl

pytestmark = [pytest.mark.ray, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]
SEOUL = ZoneInfo("Asia/Seoul")
NOON = datetime(2026, 11, 25, 12, 0, tzinfo=SEOUL).timestamp()
NIGHT = datetime(2026, 11, 25, 23, 0, tzinfo=SEOUL).timestamp()
LENDING = "members:\n  ann: {quota_gpus: 1}\n  bob: {quota_gpus: 1}\n"
STRICT = (
    "lend_idle: false\nmembers:\n  carl: {quota_gpus: 1}\n"
    "windows:\n  - {name: night, start: '22:00', end: '07:00', quota_gpus: {carl: 2}}\n"
)
Driver = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def clock(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The broker's clock: a file with the hour that it believes it is. No driver of this file starts the broker."""
    import ray

    from cluster.scheduling.broker_process import NAME, NAMESPACE, BrokerProcess

    path = tmp_path_factory.mktemp("clock") / "now"
    path.write_text(str(NOON))

    def now() -> float:
        return float(path.read_text())

    end_broker()  # one with the real clock, which a sweep of an earlier file started on the shared cluster
    ray.remote(BrokerProcess).options(name=NAME, namespace=NAMESPACE, lifetime="detached", num_cpus=0).remote(now)
    yield path
    end_broker()


def end_broker() -> None:
    """Ends the cluster's broker where there is one, and waits until its name is free."""
    import ray

    from cluster.scheduling.broker_process import NAME, NAMESPACE

    def is_gone() -> bool:
        try:
            ray.kill(ray.get_actor(NAME, namespace=NAMESPACE))
        except ValueError:
            return True
        return False

    wait_until(is_gone, "the broker has ended")


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    """Starts drivers and ends those that are left."""
    import ray

    processes = []

    def start(member: str, *, trials: int, gib: float, steps: int, team: str) -> "subprocess.Popen[str]":
        path = tmp_path / "team.yaml"
        path.write_text(team)
        address = ray.get_runtime_context().gcs_address
        numbers = [str(trials), str(gib), str(steps)]
        driver = [sys.executable, str(ROOT / "tests/tune_jobs/team_driver.py"), address, str(tmp_path / member)]
        processes.append(
            subprocess.Popen(
                [*driver, member, *numbers, str(path)],
                env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        )
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def events(folder: Path, kind: str) -> list[dict[str, object]]:
    return [event for event in read_jsonl(folder / "journal.jsonl")[0] if event["event"] == kind]


def ended_well(process: "subprocess.Popen[str]") -> str:
    said, _ = ended(process)
    assert process.returncode == 0, said
    return said


def runs(process: "subprocess.Popen[str]") -> None:
    """Fails with what a driver said, where it has ended: nothing more will come of it."""
    assert process.poll() is None, process.communicate()[0]


def reporters(folder: Path) -> set[object]:
    """Numbers of the trials that have reported: one may start long after the other."""
    return {event["number"] for event in events(folder, "reported")}


def gaps_of(folder: Path, number: int) -> list[float]:
    """The seconds between any two reports of a trial that went through without a pause."""
    at = [float(str(event["at"])) for event in events(folder, "reported") if event["number"] == number]
    return [later - earlier for earlier, later in pairwise(at)]


def held_spans(folder: Path, clock: Literal["at", "elapsed_s"] = "at") -> list[tuple[float, float, float]]:
    """(from, to, GPUs) of every start by the journal; hours of the wall, or the seconds that GPU time is counted by."""
    spans, since = [], {}
    for event in read_jsonl(folder / "journal.jsonl")[0]:
        if event["event"] == "started":
            bundle = cast("dict[str, float]", event["bundle"])
            since[event["number"]] = (cast("float", event[clock]), bundle["gpus"])
        elif event["event"] in ("paused", "ended"):
            begun, gpus = since.pop(event["number"])
            spans.append((begun, cast("float", event[clock]), gpus))
    assert not since
    return spans


def check_nothing_lost(folder: Path, trials: int, steps: int) -> None:
    """Each trial stands in the ledger once, with every evaluation once, and its GPU-seconds are those it ran."""
    records = SweepFolder(folder).load().trials
    assert [record.status for record in records] == ["finished"] * trials
    assert len((folder / "all_results.jsonl").read_text().splitlines()) == trials
    assert all([row["iteration"] for row in record.history] == list(range(1, steps + 1)) for record in records)
    reports = [(event["number"], event["evaluation"]) for event in events(folder, "reported")]
    assert len(reports) == len(set(reports)) == trials * steps, "a step was made twice or not at all"
    spans = held_spans(folder, "elapsed_s")
    assert sum(record.gpu_seconds for record in records) == pytest.approx(
        sum((to - begun) * gpus for begun, to, gpus in spans)
    )
    assert all(record.retries == 0 for record in records)
    assert not list((folder / "tune").rglob("checkpoint_*")), "checkpoints of trials that are over"


def test_two_members_share_two_cards_and_what_was_lent_comes_back_within_a_rung(
    clock: Path, driver: Driver, tmp_path: Path
) -> None:
    bob = driver("bob", trials=3, gib=23.0, steps=16, team=LENDING)
    folder = tmp_path / "bob/results"
    wait_until(
        lambda: reporters(folder) == {1, 2}, "two trials of bob's run, one on a lent card", alive=lambda: runs(bob)
    )
    assert {event["number"] for event in events(folder, "started")} == {1, 2}

    ann = driver("ann", trials=2, gib=11.0, steps=6, team=LENDING)
    wait_until(lambda: bool(events(tmp_path / "ann/results", "submitted")), "ann asks", alive=lambda: runs(ann))
    asked = time.time()
    wait_until(lambda: bool(events(folder, "paused")), "bob gives back")
    gave_back_s = time.time() - asked
    ended_well(ann)
    check_nothing_lost(tmp_path / "ann/results", 2, 6)
    said_by_bob = ended_well(bob)
    check_nothing_lost(folder, 3, 16)

    (paused,) = events(folder, "paused")
    assert paused["number"] == 2, "the youngest loses least"
    reason = str(paused["reason"])
    assert reason.startswith("bob holds 2 of 1 GPUs and ann asked for what is theirs")
    assert f"trial 2 pauses after evaluation {len_before(folder, paused)}: {reason}" in said_by_bob
    assert "trial 2 continues after a pause" in said_by_bob
    # On a quiet machine a step takes less than half a second and an exchange at most one; else as long as steps take.
    assert gave_back_s < 5 * max(1.0, max(gaps_of(folder, 1)))
    changes = sorted(
        change
        for member in ("ann", "bob")
        for begun, to, gpus in held_spans(tmp_path / member / "results")
        for change in ((begun, gpus), (to, -gpus))
    )
    total = 0.0
    for _, change in changes:
        total += change
        assert total <= 2.0


def len_before(folder: Path, paused: dict[str, object]) -> int:
    """Counts the evaluations of a trial before its pause."""
    journal = read_jsonl(folder / "journal.jsonl")[0]
    before = journal[: journal.index(paused)]
    return sum(1 for event in before if event["event"] == "reported" and event["number"] == paused["number"])


def test_a_window_closes_in_mid_trial_and_the_next_one_goes_on(clock: Path, driver: Driver, tmp_path: Path) -> None:
    import ray

    from cluster.scheduling.broker_process import NAME, NAMESPACE

    clock.write_text(str(NIGHT))
    carl = driver("carl", trials=2, gib=23.0, steps=24, team=STRICT)
    folder = tmp_path / "carl/results"
    wait_until(lambda: reporters(folder) == {1, 2}, "both run in the night", alive=lambda: runs(carl))
    clock.write_text(str(NIGHT + 9 * 3600))  # 08:00
    wait_until(lambda: bool(events(folder, "paused")), "one pauses in the morning", alive=lambda: runs(carl))
    broker = ray.get_actor(NAME, NAMESPACE)

    def status() -> dict[str, list[dict[str, object]]]:
        return cast("dict[str, list[dict[str, object]]]", ray.get(broker.status.remote()))

    wait_until(lambda: bool(status()["waiting"]), "and asks to go on")
    assert [(entry["trial"], entry["kind"]) for entry in status()["held"]] == [("carls/1", "own")]
    assert [(entry["trial"], entry["reason"]) for entry in status()["waiting"]] == [
        (
            "carls/2",
            "carl holds 1 of 1 GPUs; the team does not lend idle GPUs (quotas change at Thu 22:00)",
        )
    ]
    shown = subprocess.run(
        [sys.executable, "-m", "tune_jobs", "team", "--address", ray.get_runtime_context().gcs_address],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert shown.startswith("Thu 08:00 (Asia/Seoul)   ordinary hours   quotas change Thu 22:00, in 14 h 00 min\n2 GPUs")
    clock.write_text(str(NIGHT + 24 * 3600))
    said = ended_well(carl)
    check_nothing_lost(folder, 2, 24)
    assert len(events(folder, "paused")) == 1
    assert "trial 2 pauses after evaluation" in said
    starts = [event["number"] for event in events(folder, "started")]
    assert (starts.count(1), starts.count(2)) == (1, 2), "the trial inside the quota never noticed"
    gaps_s = gaps_of(folder, 1)
    assert max(gaps_s) < stretched(4, quiet_s=0.5, took_s=median(gaps_s)), "nor did it have to wait"
    assert json.loads((folder / "all_results.jsonl").read_text().splitlines()[0])["member"] == "carl"
