"""A journal that was removed is rebuilt from ledger and checkpoints as far as they go."""

from pathlib import Path

import pytest

from tests.tune_jobs.driver.driven_sweep import DrivenSweep
from tests.tune_jobs.specs_of import METRIC
from tune_jobs.driver.rebuild import rebuild_journal
from tune_jobs.records.journal import Journal


def score(number: int, evaluation: int) -> float:
    return 10.0 * number + evaluation


@pytest.fixture
def killed(tmp_path: Path) -> DrivenSweep:
    """Trial 1 has finished, 2 has failed, 3 has two checkpoints and one evaluation behind them, 4 has none."""
    sweep = DrivenSweep(tmp_path / "outputs" / "sweep_results" / "small")
    sweep.start_all()
    for evaluation in (1, 2, 3):
        sweep.run_evaluation(1, score(1, evaluation))
    sweep.report(2, score(2, 1))
    sweep.fail(2, "diverged", "too steep")
    for evaluation in (1, 2):
        sweep.report(3, score(3, evaluation))
        sweep.save(3)
    sweep.report(4, score(4, 1))
    return sweep


def rebuilt(killed: DrivenSweep) -> tuple[Journal, list[str]]:
    path = killed.folder.path / "journal.jsonl"
    path.unlink()
    shown: list[str] = []
    rebuild_journal(Journal(path), killed.folder, METRIC, shown.append)
    return Journal(path), shown


def test_what_ledger_and_checkpoints_hold_is_there_again(killed: DrivenSweep) -> None:
    before = {number: trial.values for number, trial in killed.trials.items()}
    saved = killed.trials[3].checkpoint, killed.trials[3].earlier_checkpoint
    journal, shown = rebuilt(killed)
    assert shown == [
        "the journal is gone; it was rebuilt from the ledger (2 ended trials) and from checkpoints (1 unfinished"
        " trials)"
    ]
    assert {number: trial.values for number, trial in journal.trials.items()} == {
        number: before[number] for number in (1, 2, 3)
    }
    ends = {number: (trial.status, trial.failure, trial.reason) for number, trial in journal.trials.items()}
    assert ends == {1: ("finished", None, ""), 2: ("failed", "diverged", "too steep"), 3: (None, None, "")}
    assert (journal.trials[3].checkpoint, journal.trials[3].earlier_checkpoint) == saved
    assert journal.torn == {}


def test_the_next_driver_repeats_nothing_that_is_known(killed: DrivenSweep) -> None:
    records = killed.records
    rebuilt(killed)
    second = DrivenSweep(killed.folder.path)
    assert sorted(second.send()) == [3, 4]
    assert second.start(3).resume_from == str(killed.trials[3].checkpoint)
    second.finish(score)
    assert second.statuses == {1: "finished", 2: "failed", 3: "finished", 4: "finished"}
    assert {number: second.records[number] for number in (1, 2)} == records
    assert [row[METRIC] for row in second.records[3].history] == [score(3, one) for one in (1, 2, 3)]


def test_a_damaged_checkpoint_is_not_taken(killed: DrivenSweep) -> None:
    last, before = killed.trials[3].checkpoint, killed.trials[3].earlier_checkpoint
    assert last is not None
    (last / "weights").write_text("other")
    journal, _ = rebuilt(killed)
    assert (journal.trials[3].checkpoint, len(journal.trials[3].values)) == (before, 1)


def test_where_nothing_is_known_everything_starts(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path / "outputs" / "sweep_results" / "small")
    journal, shown = rebuilt(sweep)
    assert (journal.trials, shown) == ({}, [])
