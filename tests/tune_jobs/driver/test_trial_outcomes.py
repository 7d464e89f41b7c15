"""What is written and kept of trials that end, also by a second driver."""

import json
from pathlib import Path

import pytest
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from tests.tune_jobs.driver.driven_sweep import DrivenSweep, ObservedList, Setup
from tests.tune_jobs.specs_of import METRIC
from tune_jobs.driver.callbacks import REMOVAL_S
from tune_jobs.driver.housekeeping import KEPT_MODELS
from tune_jobs.records.journal import Journal
from tune_jobs.records.trial_spec import FailureKind


def one_rung() -> TrialScheduler:
    """Compares at evaluation 1; a trial behind the best quarter is stopped."""
    scheduler = ASHAScheduler(time_attr="training_iteration", grace_period=1, max_t=3, reduction_factor=4)
    scheduler.set_search_properties(METRIC, "max")
    return scheduler


UNFIT = {3: 30.0}  # batch 3 fits nowhere


def compared(count: int = 4) -> Setup:
    return Setup(sampler=lambda: ObservedList(count), scheduler=one_rung, needs_gib=UNFIT)


def test_trials_finish_stop_fail_and_are_refused_and_the_ledger_tells_them_apart(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path, compared())
    assert sweep.start_all() == [1, 2, 4]
    assert not sweep.report(1, 20.0, memory__device_bytes=9e9, trial__held_bytes=5e9)
    assert sweep.report(2, 10.0)
    sweep.end(2)
    assert not sweep.report(1, 30.0)
    assert not sweep.report(1, 25.0)
    sweep.end(1)
    sweep.fail(4, "error", "ValueError: odd")
    assert sweep.state.is_over
    assert sweep.statuses == {1: "finished", 2: "stopped", 3: "refused", 4: "failed"}
    first, third, fourth = sweep.records[1], sweep.records[3], sweep.records[4]
    assert (first.metrics[METRIC], first.best_metrics[METRIC]) == (25.0, 30.0)
    assert [(row["rung"], row["iteration"], row[METRIC]) for row in first.history] == [
        (0.0, 1.0, 20.0),
        (None, 2.0, 30.0),
        (None, 3.0, 25.0),
    ]
    assert (first.wall_s, first.gpu_seconds, first.gpu_model) == (40.0, 20.0, "A")
    assert first.measured == {"device_bytes": 5e9}
    assert third.error is not None
    assert third.error.message.startswith("bs3: needs 30.0 GiB on one card, found 8 x A")
    assert fourth.error is not None
    assert (fourth.error.type, fourth.error.message) == ("error", "ValueError: odd")
    assert isinstance(sweep.sampler, ObservedList)
    assert {number: (one.outcome, one.value) for number, one in sweep.sampler.completed.items()} == {
        1: ("finished", 30.0),
        2: ("stopped", 10.0),
        3: ("out_of_memory", None),
        4: ("out_of_memory", None),
    }
    assert "trial 2 stopped, best 10.000 after 1 evaluation: asha stopped it at evaluation 1" in sweep.shown
    assert not sweep.holding


def test_a_second_driver_continues_from_checkpoints_and_repeats_nothing_that_has_ended(tmp_path: Path) -> None:
    first = DrivenSweep(tmp_path, compared())
    first.start_all()
    first.report(1, 20.0)
    first.report(2, 30.0)
    first.save(2, "bs2_a/checkpoint_000000")
    first.end(1)

    second = DrivenSweep(tmp_path, compared())
    assert second.progress().count("finished") == 1
    assert isinstance(second.sampler, ObservedList)
    assert second.sampler.completed[1].value == 20.0
    assert second.send() == [2, 4]
    spec = second.start(2)
    assert (spec.name, Path(str(spec.resume_from)).relative_to(tmp_path)) == (
        "bs2",
        Path("tune/bs2_a/checkpoint_000000"),
    )
    second.start(4)
    assert second.report(4, 15.0), "the rung still holds both values of the first driver"
    second.end(4)
    second.report(2, 31.0)
    second.end(2)
    assert second.state.is_over
    assert len((tmp_path / "all_results.jsonl").read_text().splitlines()) == 4
    assert [row["iteration"] for row in second.records[2].history] == [1.0, 2.0]


def test_a_trial_that_was_stopped_when_its_driver_was_killed_ends_in_the_next_driver(tmp_path: Path) -> None:
    first = DrivenSweep(tmp_path, compared(2))
    first.start_all()
    assert not first.report(1, 20.0)
    assert first.report(2, 10.0)
    second = DrivenSweep(tmp_path, compared(2))
    assert second.statuses == {2: "stopped"}
    assert second.send() == [1]


def test_what_a_driver_wrote_to_the_journal_and_not_to_the_ledger_is_written_by_the_next(tmp_path: Path) -> None:
    first = DrivenSweep(tmp_path)
    first.start_all()
    first.report(1, 20.0)
    first.end(1)
    (tmp_path / "all_results.jsonl").unlink()
    assert DrivenSweep(tmp_path).statuses == {1: "finished"}


def test_checkpoints_go_when_a_trial_has_ended_and_its_best_model_stays(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path)
    folder = Path(sweep.start(1).folder)
    for path in (folder / "checkpoint-8", folder / "models" / "best_model"):
        path.mkdir(parents=True)
    checkpoint = sweep.save(1)
    sweep.report(1, 20.0)
    sweep.end(1)
    assert sorted(path.name for path in folder.iterdir()) == ["metrics.json", "models"]
    assert not checkpoint.parent.exists()


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_numbers_that_json_does_not_have_do_not_stop_the_sweep(tmp_path: Path, value: float) -> None:
    sweep = DrivenSweep(tmp_path)
    sweep.start(1)
    sweep.report(1, 1.0, train__grad_norm=value)
    (evaluation,) = Journal(tmp_path / "journal.jsonl").trials[1].evaluations.values()
    assert "train/grad_norm" not in evaluation.metrics


def test_the_weights_of_the_best_trials_stay_and_all_numbers(tmp_path: Path) -> None:
    setup = Setup(sampler=lambda: ObservedList(12), needs_gib=UNFIT)
    sweep = DrivenSweep(tmp_path, setup)
    for index in range(9):
        spec = sweep.start()
        (Path(spec.folder) / "models" / "best_model").mkdir(parents=True)
        sweep.report(spec.number, 100.0 - 7 * (index % 4) - index)
        sweep.end(spec.number)
        sweep.tick(REMOVAL_S)
    records = sorted(sweep.records.values(), key=lambda record: -record.best_metrics.get(METRIC, 0.0))
    kept = [(Path(record.experiment_dir) / "models").exists() for record in records if record.status != "refused"]
    assert kept == [True] * KEPT_MODELS + [False] * (9 - KEPT_MODELS)
    assert all((Path(record.experiment_dir) / "metrics.json").exists() for record in records if record.experiment_dir)


def test_a_trial_that_has_made_all_its_evaluations_is_finished_whatever_the_scheduler_decides(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path, compared(2))
    sweep.start_all()
    assert [sweep.report(1, 20.0), sweep.report(2, 1.0, evaluation=3)] == [False, False]
    sweep.end(2)
    assert sweep.statuses == {2: "finished"}


def test_the_checkpoints_of_an_earlier_attempt_go_when_the_next_attempt_has_two(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path)
    sweep.start(1)
    before = [sweep.save(1, "bs1_a/checkpoint_0"), sweep.save(1, "bs1_a/checkpoint_1")]
    after = [sweep.save(1, "bs1_b/checkpoint_0")]
    assert all(folder.exists() for folder in (*before, *after)), "the one before the last may be needed"
    after.append(sweep.save(1, "bs1_b/checkpoint_1"))
    assert [folder.exists() for folder in (*before, *after)] == [False, False, True, True]


def test_the_driver_is_told_of_a_damaged_checkpoint_and_everybody_can_read_it(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path)
    sweep.start(1)
    saved = []
    for value in (20.0, 21.0):
        sweep.report(1, value)
        saved.append(sweep.save(1))
    sweep.lose(1)
    spec = sweep.start(1)
    assert (spec.resume_from, spec.resume_before) == (str(saved[1]), str(saved[0]))
    why = "checkpoint bs1_101/checkpoint_2 is damaged: weights has another checksum"
    sweep.report_other(1, damaged=[why], damaged_start=str(saved[0]), damaged_evaluation=1)
    assert f"trial 1: {why}; it continues from evaluation 1" in sweep.text
    sweep.lose(1)
    spec = sweep.start(1)
    assert (spec.resume_from, spec.resume_before) == (str(saved[0]), None)
    sweep.report_other(1, damaged=[why], damaged_start=None, damaged_evaluation=0)
    assert f"trial 1: {why}; it starts anew" in sweep.text
    second = DrivenSweep(tmp_path)
    assert second.start(1).resume_from is None
    assert saved[0].exists(), "nothing is erased before the trial is whole"
    second.finish(lambda number, evaluation: 20.0)
    assert [row["iteration"] for row in second.records[1].history] == [1.0, 2.0, 3.0]
    assert second.records[1].damaged == [why, why]
    assert not saved[0].parent.exists()


@pytest.mark.parametrize(("kind", "stays"), [("error", True), ("diverged", False)])
def test_a_trial_that_failed_by_no_fault_of_its_own_keeps_its_checkpoints(
    tmp_path: Path, kind: FailureKind, stays: bool
) -> None:
    sweep = DrivenSweep(tmp_path)
    sweep.start(1)
    sweep.report(1, 20.0)
    checkpoint = sweep.save(1)
    sweep.fail(1, kind)
    assert sweep.statuses == {1: "failed"}
    assert checkpoint.exists() == stays


def test_a_refusal_that_was_half_written_is_written_again(tmp_path: Path) -> None:
    DrivenSweep(tmp_path, compared())
    path = tmp_path / "journal.jsonl"
    lines = path.read_text().splitlines()
    written = [json.loads(line) for line in lines[:2]]
    assert [(event["event"], event["number"]) for event in written] == [("submitted", 3), ("ended", 3)]
    path.write_text(lines[0] + "\n")
    (tmp_path / "all_results.jsonl").unlink()
    assert DrivenSweep(tmp_path, compared()).statuses == {3: "refused"}
