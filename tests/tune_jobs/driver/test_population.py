"""Trials of a population continue with the weights of better ones: when the copy is made, and what is shown."""

import shutil
from pathlib import Path

from tests.tune_jobs.driver.driven_sweep import DrivenSweep, Setup
from tests.tune_jobs.driver.schedulers import LONGEST, SCHEDULERS
from tune_jobs.records.trial_spec import TrialSpec
from tune_jobs.search.samplers import ListSampler

PAIR = Setup(
    sampler=lambda: ListSampler([{"learning_rate": 1e-4}, {"learning_rate": 2e-4}]),
    scheduler=SCHEDULERS["pbt of two"],
    longest=LONGEST,
)


def begin(sweep: DrivenSweep) -> None:
    """Both make their first evaluation; nobody is compared yet."""
    sweep.start_all()
    sweep.run_evaluation(1, 20.0)
    sweep.run_evaluation(2, 10.0)


def exchanged(sweep: DrivenSweep) -> None:
    """At its second evaluation the second trial is asked to continue with the weights of the first."""
    begin(sweep)
    assert not sweep.report(1, 20.0)
    assert sweep.report(2, 10.0)
    sweep.save(2)
    sweep.end(2)


def test_a_copy_waits_for_the_checkpoint_of_its_donor(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path, PAIR)
    exchanged(sweep)
    assert (sweep.holding, sweep.waiting) == ({1}, [])
    assert sweep.trials[2].copies == []
    reason = sweep.progress().trials[2].reason
    assert reason.startswith("continues with the weights of trial 1; learning_rate 0.0001 -> ")
    assert f"trial 2 pauses after evaluation 2: {reason}" in sweep.shown
    sweep.save(1)
    spec = sweep.start(2)
    assert spec.resume_from == str(tmp_path / "population" / "2_2" / "checkpoint")
    assert (Path(spec.resume_from) / "weights").read_text() == "trial 1 evaluation 2"
    assert spec.sampled["learning_rate"] == spec.config["learning_rate"] != 2e-4
    (copy,) = sweep.trials[2].copies
    assert (copy["donor"], copy["evaluation"], copy["donor_evaluation"]) == (1, 2, 2)
    assert copy["before"] == {"learning_rate": 2e-4}


def test_the_copy_goes_when_the_trial_has_two_checkpoints_of_its_own(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path, PAIR)
    exchanged(sweep)
    sweep.save(1)
    copied = Path(str(sweep.start(2).resume_from))
    assert copied.exists()
    for value in (30.0, 31.0):
        assert copied.exists()
        sweep.report(2, value)
        sweep.save(2)
    assert not copied.exists()


def test_a_trial_that_was_lost_when_it_should_pause_copies_all_the_same(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path, PAIR)
    begin(sweep)
    sweep.report(1, 20.0)
    sweep.save(1)
    assert sweep.report(2, 10.0)
    sweep.lose(2)
    assert str(sweep.start(2).resume_from) == str(tmp_path / "population" / "2_2" / "checkpoint")


def test_a_trial_that_failed_for_good_copies_nothing(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path, PAIR)
    begin(sweep)
    sweep.report(1, 20.0)
    sweep.report(2, 10.0)
    sweep.fail(2, "work_failed")
    sweep.save(1)
    assert (sweep.statuses, sweep.trials[2].copies, sweep.waiting) == ({2: "failed"}, [], [])


def test_a_donor_that_failed_gives_its_last_checkpoint(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path, PAIR)
    exchanged(sweep)
    sweep.fail(1, "work_failed")
    assert (Path(str(sweep.start(2).resume_from)) / "weights").read_text() == "trial 1 evaluation 1"
    assert [(copy["donor"], copy["donor_evaluation"]) for copy in sweep.trials[2].copies] == [(1, 1)]


def test_where_the_donor_has_no_checkpoint_the_trial_continues_with_its_own_values(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path, PAIR)
    exchanged(sweep)
    shutil.rmtree(str(sweep.trials[1].checkpoint))
    sweep.fail(1, "work_failed")
    spec = sweep.start(2)
    assert (spec.sampled, spec.resume_from) == ({"learning_rate": 2e-4}, str(sweep.trials[2].checkpoint))
    assert sweep.trials[2].copies == []


def test_the_next_driver_makes_a_copy_that_was_decided_when_the_donor_has_made_its_checkpoint(tmp_path: Path) -> None:
    exchanged(DrivenSweep(tmp_path, PAIR))
    second = DrivenSweep(tmp_path, PAIR)
    assert second.send() == [1], "the donor makes its evaluation again, as its checkpoint was lost"
    second.start(1)
    assert not second.report(1, 20.0)
    second.save(1)
    assert (second.start(2).number, len(second.trials[2].copies)) == (2, 1)
    assert TrialSpec.from_dict(second.trials[2].spec).sampled != {"learning_rate": 2e-4}


def test_the_next_driver_does_not_make_a_copy_that_could_not_be_made(tmp_path: Path) -> None:
    first = DrivenSweep(tmp_path, PAIR)
    exchanged(first)
    first.driver.saved(1, tmp_path / "tune" / "bs1_a" / "checkpoint_2")  # Tune has just replaced it
    assert first.start(2).sampled == {"learning_rate": 2e-4}
    first.run_evaluation(2, 30.0)
    first.save(1)
    second = DrivenSweep(tmp_path, PAIR)
    spec = second.start(2)
    assert (spec.sampled, Path(str(spec.resume_from)).name) == ({"learning_rate": 2e-4}, "checkpoint_3")
