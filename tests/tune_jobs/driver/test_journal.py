"""The journal: a second driver reads what the first wrote."""

from pathlib import Path

import pytest

from tune_jobs.records.journal import Journal
from tune_jobs.records.outcomes import record_of
from tuning_common.storage import StorageGoneError, StorageRetry


def at(seconds: float) -> dict[str, float]:
    """The times of an event."""
    return {"at": 1000.0 + seconds, "elapsed_s": seconds}


def written(path: Path) -> Journal:
    """Two trials, of which one has ended."""
    journal = Journal(path)
    journal.write("submitted", 1, spec={"name": "one"})
    journal.write("started", 1, bundle={"gpus": 0.25}, **at(10))
    journal.write("reported", 1, evaluation=1, value=3.0, metrics={"eval/loss": 1.0}, **at(11))
    journal.write("saved", 1, folder=str(path.parent / "tune" / "one" / "checkpoint_1"))
    journal.write("retried", 1, kind="out_of_memory", message="no bytes", **at(15))
    journal.write("started", 1, bundle={"gpus": 0.5}, **at(20))
    journal.write("reported", 1, evaluation=1, value=4.0, metrics={}, **at(21))
    journal.write("reported", 1, evaluation=2, value=5.0, metrics={}, **at(22))
    journal.write("submitted", 2, spec={"name": "two"})
    journal.write("ended", 1, status="finished", reason="", **at(30))
    return journal


def test_a_second_driver_reads_what_the_first_wrote(tmp_path: Path) -> None:
    first = written(tmp_path / "journal.jsonl")
    second = Journal(tmp_path / "journal.jsonl")
    assert second.trials == first.trials
    trial = second.trials[1]
    assert (trial.starts, trial.retries, trial.bundle) == (2, ["out_of_memory"], {"gpus": 0.5})
    assert (trial.values, trial.checkpoint) == ([(1, 4.0), (2, 5.0)], tmp_path / "tune" / "one" / "checkpoint_1")
    assert (trial.status, trial.first_start_at, trial.last_at) == ("finished", 1010.0, 1030.0)
    assert (trial.run_s, trial.gpu_s) == (5.0 + 10.0, 5.0 * 0.25 + 10.0 * 0.5)
    assert second.trials[2].status is None


def test_a_line_torn_by_a_kill_costs_that_event_only(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    written(path)
    path.write_bytes(path.read_bytes()[:-20])
    journal = Journal(path)
    assert list(journal.torn) == [10]
    assert journal.trials[1].status is None
    journal.write("ended", 1, status="finished", reason="", **at(31))
    assert Journal(path).trials[1].last_at == 1031.0


def test_neither_a_set_clock_nor_a_dead_driver_makes_a_trial_longer(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.write("submitted", 1, spec={"name": "one"})
    journal.write("started", 1, bundle={"gpus": 0.5}, at=1000.0, elapsed_s=10.0)
    journal.write("reported", 1, evaluation=1, value=1.0, metrics={}, at=1000.0 - 3600.0, elapsed_s=15.0)  # set back
    journal.write("reported", 1, evaluation=2, value=2.0, metrics={}, at=1000.0 + 7200.0, elapsed_s=20.0)  # and forth
    second = Journal(tmp_path / "journal.jsonl")  # the first driver was killed; a machine that was started again counts
    second.write("started", 1, bundle={"gpus": 0.5}, at=50000.0, elapsed_s=3.0)  # from zero
    trial = second.write("ended", 1, status="finished", reason="", at=50004.0, elapsed_s=7.0)
    assert (trial.run_s, trial.gpu_s) == (5.0 + 5.0 + 4.0, 7.0)
    assert [trial.evaluations[number].run_s for number in (1, 2)] == [5.0, 10.0]


def test_a_pause_is_neither_run_time_nor_a_retry(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.write("submitted", 1, spec={"name": "one"})
    journal.write("started", 1, bundle={"gpus": 1.0}, **at(0))
    journal.write("reported", 1, evaluation=1, value=1.0, metrics={}, **at(10))
    journal.write("paused", 1, reason="the night is over", **at(10))
    assert (journal.trials[1].running, journal.trials[1].waits_for) == (False, "the night is over")
    journal.write("started", 1, bundle={"gpus": 1.0}, **at(500))
    trial = journal.write("ended", 1, status="finished", reason="", **at(520))
    assert (trial.run_s, trial.gpu_s, trial.starts, trial.pauses, trial.waits_for) == (30.0, 30.0, 2, 1, "")
    assert record_of(trial, goal="maximize").retries == 0


def test_a_journal_that_is_gone_is_not_begun_anew_below_its_mount_point(tmp_path: Path) -> None:
    path = tmp_path / "disk" / "journal.jsonl"
    journal = written(path)
    path.parent.rename(tmp_path / "elsewhere")
    with pytest.raises(StorageGoneError, match="it is gone"):
        journal.write("ended", 2, status="finished", reason="", **at(31))
    assert not path.exists()
    assert journal.trials[2].status is None
    shown: list[str] = []
    waiting = Journal(tmp_path / "elsewhere" / "journal.jsonl", StorageRetry(shown.append))
    waiting.write("ended", 2, status="finished", reason="", **at(31))
    assert shown == []


def test_attempts_of_a_trial_are_told_apart(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.write("submitted", 1, spec={"name": "one"})
    journal.write("started", 1, bundle={"gpus": 0.5}, **at(0))
    journal.write("located", 1, location={"node": "n1", "pid": 7})
    journal.write("reported", 1, evaluation=1, value=1.0, metrics={"trial/card": "0", "trial/node": "n1"}, **at(5))
    journal.write("retried", 1, kind="worker_lost", message="gone", lost_in_a_row=1, **at(6))
    journal.write("started", 1, bundle={"gpus": 1.0}, **at(8))
    trial = journal.write("ended", 1, status="finished", reason="", **at(9))
    assert trial.attempts == [
        {
            "started_at": 1000.0,
            "ended_at": 1006.0,
            "share": 0.5,
            "ended": "worker_lost",
            "node": "n1",
            "pid": 7,
            "card": "0",
        },
        {"started_at": 1008.0, "ended_at": 1009.0, "share": 1.0, "ended": ""},
    ]
    assert trial.lost_in_a_row == 1


def test_a_new_evaluation_ends_a_row_of_losses_and_one_made_again_does_not(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.write("submitted", 1, spec={"name": "one"})
    rows = []
    for evaluation in (1, 1, 2):
        journal.write("started", 1, bundle={}, **at(0))
        journal.write("retried", 1, kind="worker_lost", message="gone", lost_in_a_row=len(rows) + 1, **at(0))
        journal.write("started", 1, bundle={}, **at(0))
        trial = journal.write("reported", 1, evaluation=evaluation, value=1.0, metrics={}, **at(0))
        rows.append(trial.lost_in_a_row)
    assert rows == [0, 2, 0]
