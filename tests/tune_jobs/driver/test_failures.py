"""Trials that fail, run out of memory, hang or lose their process, and which of them start again."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tune_jobs.driver.driven_sweep import DrivenSweep, ObservedList, Setup
from tests.tune_jobs.driver.schedulers import LONGEST, SCHEDULERS, score_of
from tune_jobs.config.anomalies import STALL_FACTOR, STALL_FLOOR_S, Anomalies
from tune_jobs.driver.recovery import MOST_LOST_IN_A_ROW, RetryPolicy
from tune_jobs.driver.sweep_driver import MOST_DEATHS, SweepDriver
from tune_jobs.records.journal import Journal
from tune_jobs.records.trial_spec import FailureKind
from tune_jobs.search.samplers import ListSampler
from tuning_common.errors import WorkError
from tuning_common.storage import LIMIT_S


def outcome(sweep: DrivenSweep, number: int) -> str:
    """What the sampler observed of a trial."""
    assert isinstance(sweep.sampler, ObservedList)
    return sweep.sampler.completed[number].outcome


def with_policy(**anomalies: object) -> Setup:
    return Setup(retry=RetryPolicy(anomalies=Anomalies(**anomalies)))  # type: ignore[arg-type]


def test_a_sweep_whose_first_trials_fail_alike_stops(tmp_path: Path) -> None:
    setup = Setup(cards="1xA:24GiB", sampler=lambda: ObservedList(8))
    sweep = DrivenSweep(tmp_path, setup)
    sweep.start_all()
    for number in (1, 2, 3):
        assert not sweep.state.stopping
        sweep.fail(number, "error", "FileNotFoundError: no tokenizer.json")
        sweep.start_all()
    assert sweep.state.stopping
    assert sweep.state.leaves_stop_file
    assert "the first 3 trials failed alike, so the others are not tried: FileNotFoundError: no tokeni" in sweep.text
    assert [number for number, status in sweep.statuses.items() if status == "failed"] == [1, 2, 3]
    again = DrivenSweep(tmp_path, setup)  # the cause is corrected
    again.finish(lambda number, evaluation: 1.0)
    assert len(again.statuses) == 8


@pytest.mark.parametrize("third", ["ValueError: another reason", None])
def test_trials_that_fail_for_several_reasons_or_beside_a_score_stop_nobody(tmp_path: Path, third: str | None) -> None:
    sweep = DrivenSweep(tmp_path, Setup(cards="1xA:24GiB", sampler=lambda: ObservedList(8)))
    sweep.start_all()
    for number, message in ((1, "ValueError: odd"), (2, "ValueError: odd"), (3, third)):
        if message is None:
            sweep.report(number, 1.0)
        sweep.fail(number, "error", message or "ValueError: odd")
        sweep.start_all()
    assert not sweep.state.stopping


def test_an_out_of_memory_leads_to_a_larger_share_of_the_same_model(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path)
    assert sweep.start(1).bundle.gpus == 0.5
    sweep.fail(1, "out_of_memory", "no bytes")
    assert sweep.statuses == {}
    assert sweep.broker.requests["sample/1"].first, "it goes before the others"
    again = sweep.start(1)
    assert (again.bundle.gpus, again.gpu_model) == (0.75, "A")
    sweep.report(1, 5.0)
    sweep.end(1)
    record = sweep.records[1]
    assert (record.status, record.share, record.retries) == ("finished", 0.75, 1)
    assert "trial 1 failed and starts again: out of memory; 0.5 -> 0.75 of a card (no bytes)" in sweep.shown
    assert "trial 1 starts again (attempt 2), 0.75 of a card: bs1" in sweep.shown


def test_a_second_driver_gives_more_after_an_out_of_memory(tmp_path: Path) -> None:
    first = DrivenSweep(tmp_path)
    first.start(1)
    first.fail(1, "out_of_memory")
    assert DrivenSweep(tmp_path).start(1).bundle.gpus == 0.75


@pytest.mark.parametrize(
    ("kind", "observed"),
    [
        ("work_failed", "failed"),
        ("diverged", "failed"),
        ("error", "out_of_memory"),
        ("wrong_request", "out_of_memory"),
    ],
)
def test_what_a_trial_reports_of_its_failure_is_its_outcome(tmp_path: Path, kind: FailureKind, observed: str) -> None:
    sweep = DrivenSweep(tmp_path)
    sweep.start(1)
    sweep.fail(1, kind, "WorkError: the loss became nan")
    record = sweep.records[1]
    assert record.status == "failed"
    assert record.error is not None
    assert (record.error.type, record.error.message) == (kind, "WorkError: the loss became nan")
    assert outcome(sweep, 1) == observed, "only a training that broke down is a result of its configuration"


@pytest.mark.parametrize(
    ("kind", "anomalies", "attempts"),
    [("error", Anomalies(), 3), ("diverged", Anomalies(), 1), ("diverged", Anomalies(diverged="retry"), 3)],
)
def test_retries_are_those_of_the_sweep_file(
    tmp_path: Path, kind: FailureKind, anomalies: Anomalies, attempts: int
) -> None:
    sweep = DrivenSweep(tmp_path, Setup(retry=RetryPolicy(retries=2, anomalies=anomalies)))
    for _ in range(attempts):
        assert 1 not in sweep.statuses
        sweep.start(1)
        sweep.fail(1, kind)
    assert (sweep.statuses, sweep.records[1].retries) == ({1: "failed"}, attempts - 1)


def test_a_trial_without_a_report_for_long_is_killed_once_and_starts_again(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path, Setup(sampler=lambda: ObservedList(2)))
    sweep.start_all()
    sweep.tick(STALL_FLOOR_S - 100)
    sweep.report(2, 5.0)
    sweep.tick(200)
    assert sweep.killed == [], "the longest silence so far was nearly half an hour: ten times that is allowed"
    sweep.now_s += STALL_FACTOR * STALL_FLOOR_S - 250
    sweep.report(2, 5.0)
    sweep.tick()
    assert sweep.killed == []
    sweep.tick(10 * STALL_FACTOR * STALL_FLOOR_S)
    sweep.tick()
    assert [location["pid"] for location in sweep.killed] == [101, 201]
    assert "trial 1 hangs: no report for" in sweep.text
    sweep.lose(1)
    sweep.start(1)
    sweep.tick()
    assert len(sweep.killed) == 2
    assert sweep.trials[1].retries == ["stalled"]
    sweep.lose(1)
    assert Journal(tmp_path / "journal.jsonl").trials[1].retries == ["stalled", "worker_lost"]


@pytest.mark.parametrize(
    ("policy", "hangs", "kind", "message"),
    [
        ({"stalled": "stop", "stall_after": "20m"}, True, "stalled", "no report for 20 min 00 s: its process hung"),
        ({"lost_worker": "stop"}, False, "worker_lost", "ActorDiedError: node gone"),
    ],
)
def test_by_policy_a_trial_that_lost_its_process_is_not_started_again(
    tmp_path: Path, policy: dict[str, object], hangs: bool, kind: str, message: str
) -> None:
    sweep = DrivenSweep(tmp_path, with_policy(**policy))
    sweep.start(1)
    if hangs:
        sweep.tick(1201)
        assert len(sweep.killed) == 1
    sweep.lose(1, "ActorDiedError: node gone")
    record = sweep.records[1]
    assert (record.status, record.retries) == ("failed", 0)
    assert record.error is not None
    assert record.error.type == kind
    assert record.error.message.startswith(message)
    assert outcome(sweep, 1) == "out_of_memory", "a lost process is no result of the configuration"


def test_a_trial_that_waits_for_its_storage_is_not_taken_for_hanging(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path)
    sweep.start(1)
    for _ in range(70):  # minutes
        sweep.now_s += 60.0
        assert not sweep.report_other(1, waiting="no space left")
        sweep.tick()
    assert sweep.killed == []
    assert sweep.shown.count("trial 1 waits with its share: no space left") == 1
    assert sweep.progress().trials[1].reason == "no space left"
    sweep.report(1, 20.0)
    assert sweep.progress().trials[1].reason == ""


def test_a_trial_may_lose_its_process_as_often_as_it_makes_progress_between(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path, Setup(sampler=lambda: ObservedList(1), longest=20))
    for _ in range(3):
        for _ in range(MOST_LOST_IN_A_ROW - 1):
            sweep.start(1)
            sweep.lose(1)
        sweep.start(1)
        sweep.report(1, 5.0)
        sweep.save(1)
        sweep.lose(1)
    assert sweep.statuses == {}
    for _ in range(MOST_LOST_IN_A_ROW - 1):
        sweep.start(1)
        sweep.lose(1)
    assert sweep.statuses == {}, "the loss after its last evaluation was the first in a row"
    sweep.start(1)
    sweep.lose(1)
    error = sweep.records[1].error
    assert error is not None
    assert error.message == (
        f"ActorDiedError: the process died; lost {MOST_LOST_IN_A_ROW + 1} times in a row, last on A-node0"
    )


def test_an_evaluation_made_again_is_no_progress(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path, Setup(sampler=lambda: ObservedList(1)))
    for _ in range(MOST_LOST_IN_A_ROW + 1):
        assert sweep.statuses == {}
        sweep.start(1)
        sweep.report(1, 5.0)  # its process dies before the checkpoint is complete
        sweep.lose(1)
    assert sweep.statuses == {1: "failed"}


def test_a_trial_that_failed_by_lost_processes_is_taken_up_by_the_next_driver(tmp_path: Path) -> None:
    setup = Setup(sampler=lambda: ObservedList(2), retry=RetryPolicy(anomalies=Anomalies(lost_worker="stop")))
    first = DrivenSweep(tmp_path, setup)
    first.start_all()
    first.run_evaluation(1, 5.0)
    first.lose(1)
    first.fail(2, "error")
    assert first.statuses == {1: "failed", 2: "failed"}
    second = DrivenSweep(tmp_path, setup)
    assert second.send() == [1], "another kind of failure is final"
    assert "trial 1 had failed with its process and is tried again" in second.shown
    spec = second.start(1)
    assert str(spec.resume_from).endswith("checkpoint_1")
    second.report(1, 6.0)
    second.report(1, 7.0)
    second.end(1)
    assert second.statuses == {1: "finished", 2: "failed"}
    third = DrivenSweep(tmp_path, setup)
    assert third.state.is_over


def test_a_machine_that_loses_the_processes_of_three_trials_is_named_once(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path, Setup(cards="1xA:24GiB,2xB:24GiB", sampler=lambda: ObservedList(6)))
    numbers = sweep.start_all()
    node_of = {number: sweep.running[number].spec.bundle.nodes[0] for number in numbers}
    (node,) = {node for node in node_of.values() if node.startswith("B")}
    on_node = [number for number in numbers if node_of[number] == node]
    assert len(on_node) == 4
    first, second, third, fourth = on_node
    for number in (first, second):
        sweep.lose(number)
    assert node not in sweep.text
    sweep.lose(third)
    sweep.lose(fourth)
    named = [line for line in sweep.shown if line.startswith("machine ")]
    assert named == [
        f"machine {node} lost the processes of trials {first}, {second} and {third} one after another: look at its"
        " memory and its logs"
    ]


def test_a_machine_on_which_a_trial_reports_between_losses_is_not_named(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path, Setup(cards="2xA:24GiB"))
    sweep.start_all()
    sweep.lose(1)
    sweep.lose(2)
    sweep.report(4, 5.0)
    sweep.lose(3)
    assert "machine" not in sweep.text


def test_the_end_of_a_lost_process_may_be_reported_twice(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path)
    sweep.start(1)
    sweep.lose(1)
    sweep.driver.ended(1, "ActorDiedError: the process died")
    assert sweep.trials[1].retries == ["worker_lost"]
    assert sweep.send() == [1]
    assert sweep.holding == {1, 2, 3, 4}


class DyingTuner:
    """Stands in for run_tuner: takes the launches, and ends with an error as long as a test says so."""

    def __init__(self, sweep: DrivenSweep, *errors: Callable[[], Exception]) -> None:
        self._sweep, self._errors = sweep, list(errors)

    def __call__(self, driver: SweepDriver) -> None:
        """Runs attempts."""
        sweep = self._sweep
        sweep.sent.clear()
        sweep.running.clear()
        sweep.start_all()
        if self._errors:
            raise self._errors.pop(0)()
        sweep.finish(lambda number, evaluation: 5.0)


def memory_error(*processes: int) -> Exception:
    return type("OutOfMemoryError", (Exception,), {})(
        "Task was killed due to the node running low on memory.\n"
        + "\n".join(f"where the task (actor ID: 1a, name=ImplicitFunc, pid={pid}) was running" for pid in processes)
    )


def test_the_death_of_tunes_controller_costs_only_the_trial_that_caused_it(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path)
    sweep.driver.run(DyingTuner(sweep, lambda: memory_error(201)))
    assert sweep.statuses == dict.fromkeys((1, 2, 3, 4), "finished")
    assert {number: (trial.retries, trial.pauses) for number, trial in sweep.trials.items()} == {
        1: ([], 1),
        2: (["host_memory"], 0),
        3: ([], 1),
        4: ([], 1),
    }
    assert "Ray Tune ended with an error (OutOfMemoryError: where the task" in sweep.text
    assert not sweep.holding


def test_a_trial_that_had_made_all_its_evaluations_ends_after_the_death_of_tunes_controller(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path, Setup(sampler=lambda: ObservedList(2)))

    def last_evaluation() -> Exception:
        for _ in range(3):
            sweep.report(1, 5.0)
            sweep.save(1)
        return memory_error(201)

    sweep.driver.run(DyingTuner(sweep, last_evaluation))
    assert sweep.statuses == {1: "finished", 2: "finished"}
    assert (sweep.trials[1].retries, sweep.trials[2].retries) == ([], ["host_memory"])


def test_where_nobody_knows_who_caused_it_every_attempt_was_lost(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path)
    sweep.driver.run(DyingTuner(sweep, lambda: RuntimeError("actor unavailable")))
    assert [trial.retries for trial in sweep.trials.values()] == [["worker_lost"]] * 4
    assert sweep.statuses == dict.fromkeys((1, 2, 3, 4), "finished")


def test_a_controller_that_dies_again_and_again_without_a_report_ends_the_driver(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path)

    class SilentTuner(DyingTuner):
        def __call__(self, driver: SweepDriver) -> None:
            while driver.has_launch():
                driver.next_launch()
            raise RuntimeError("no cluster")

    with pytest.raises(WorkError, match=f"Ray Tune failed {MOST_DEATHS} times in a row: RuntimeError: no cluster"):
        sweep.driver.run(SilentTuner(sweep))
    assert not sweep.holding or sweep.waiting == []


def test_attempts_that_only_start_are_no_progress_of_a_controller_that_dies(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path)
    dying = DyingTuner(sweep, *[lambda: RuntimeError("no cluster")] * 2 * MOST_DEATHS)
    with pytest.raises(WorkError, match=f"Ray Tune failed {MOST_DEATHS} times in a row: RuntimeError: no cluster"):
        sweep.driver.run(dying)
    assert sweep.statuses == {}, "--resume continues every trial"


def full_disk() -> Exception:
    return OSError(errno.ENOSPC, "No space left on device", "/scratch/ray/searcher.pkl")


def sleeps_of(sweep: DrivenSweep, monkeypatch: pytest.MonkeyPatch) -> None:
    def sleep(seconds: float) -> None:
        sweep.now_s += seconds

    monkeypatch.setattr("tune_jobs.driver.sweep_driver.time.sleep", sleep)


def test_a_full_temporary_folder_is_waited_for_with_pauses_that_grow_and_costs_no_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = DrivenSweep(tmp_path)
    sleeps_of(sweep, monkeypatch)
    began_s = sweep.now_s
    sweep.driver.run(DyingTuner(sweep, *[full_disk] * 6))
    assert sweep.statuses == dict.fromkeys((1, 2, 3, 4), "finished")
    assert [trial.retries for trial in sweep.trials.values()] == [[]] * 4
    assert [line for line in sweep.shown if "tries again" in line] == [
        f"/scratch/ray/searcher.pkl: no space left; the sweep waits and tries again in {pause}"
        for pause in ("5.0 s", "10 s", "20 s", "40 s", "1 min 00 s", "1 min 00 s")
    ]
    assert sweep.now_s - began_s >= 5 + 10 + 20 + 40 + 60 + 60


def test_a_temporary_folder_that_stays_full_ends_the_driver_after_one_limit_over_all_tries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = DrivenSweep(tmp_path)
    sleeps_of(sweep, monkeypatch)
    began_s = sweep.now_s
    with pytest.raises(WorkError, match=r"/scratch/ray/searcher.pkl: no space left, for 1 h"):
        sweep.driver.run(DyingTuner(sweep, *[full_disk] * 1000))
    assert LIMIT_S <= sweep.now_s - began_s < LIMIT_S + 120


@pytest.mark.parametrize("scheduler", ["HyperBandScheduler", "asha", "median", "synchronous pbt"])
def test_a_scheduler_takes_a_trial_up_again_that_had_failed_with_its_process(tmp_path: Path, scheduler: str) -> None:
    setup = Setup(
        sampler=lambda: ListSampler([{"learning_rate": 1e-4 * number} for number in range(1, 6)]),
        scheduler=SCHEDULERS[scheduler],
        longest=LONGEST,
        retry=RetryPolicy(anomalies=Anomalies(lost_worker="stop")),
    )
    first = DrivenSweep(tmp_path, setup)
    first.start_all()
    first.run_evaluation(1, 5.0)
    first.start_all()
    if 1 in first.running:
        first.lose(1)
    first.lose(2)
    first.finish(score_of(1))
    lost = {number for number, trial in first.trials.items() if trial.failure == "worker_lost"}
    assert 2 in lost
    second = DrivenSweep(tmp_path, setup).finish(score_of(1))
    assert set(second.statuses.values()) <= {"finished", "stopped"}
    assert {number for number, trial in second.trials.items() if trial.starts > first.trials[number].starts} == lost
    assert DrivenSweep(tmp_path, setup).state.is_over
