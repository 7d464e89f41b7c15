"""A sweep is stopped, its folder is moved, checkpoints are damaged, its journal is removed: no trial is lost."""

import os
import signal
from pathlib import Path

import pytest

from tests.tune_jobs.driver.test_sweep import command, wait_for, write_sweep
from tests.waiting import ended
from tune_jobs.records.journal import Journal
from tune_jobs.records.ledger import SweepFolder


@pytest.mark.ray
@pytest.mark.slow
def test_damaged_checkpoints_a_moved_folder_and_a_lost_journal_cost_no_trial(tmp_path: Path) -> None:
    home = tmp_path / "old"
    home.mkdir()
    write_sweep(home, epochs=12)
    results = SweepFolder.of(home / "outputs", "small")
    first = command(home, "--cpu-only")
    wait_for(results.path / "journal.jsonl", '"event": "saved"', 6, first)
    first.send_signal(signal.SIGINT)
    ended(first)
    home.rename(tmp_path / "new")
    results = SweepFolder.of(tmp_path / "new" / "outputs", "small")
    trials = Journal(results.path / "journal.jsonl").trials
    for number, trial in trials.items():  # of trial 1 the last checkpoint, of trial 2 both
        assert trial.checkpoint is not None
        for checkpoint in (trial.checkpoint, trial.earlier_checkpoint if number == 2 else None):
            if checkpoint is not None:
                os.truncate(checkpoint / "model.safetensors", 1000)
    second = command(tmp_path / "new", "--cpu-only", "--resume")
    _, err = ended(second)
    assert second.returncode == 0, err
    assert err.count("is damaged: model.safetensors has 1000 bytes instead of") >= 2
    records = {int(record.trial_id): record for record in results.load().trials}
    assert {number: record.status for number, record in records.items()} == {1: "finished", 2: "finished"}
    assert all([row["iteration"] for row in record.history] == list(range(1, 13)) for record in records.values())
    assert [len(record.damaged) >= 1 for record in records.values()] == [True, True]
    assert "did not continue from its last checkpoint" in results.review.read_text()
    assert not (tmp_path / "old").exists()

    (results.path / "journal.jsonl").unlink()
    third = command(tmp_path / "new", "--cpu-only", "--resume")
    _, err = ended(third)
    assert third.returncode == 0, err
    assert "it was rebuilt from the ledger (2 ended trials)" in err
    assert {int(record.trial_id): record for record in results.load().trials} == records, "no trial ran again"
