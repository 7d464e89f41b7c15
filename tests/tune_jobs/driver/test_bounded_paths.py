"""Results that were moved or copied are continued where they are, and nothing outside of them is touched."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tune_jobs.driver.driven_sweep import DrivenSweep
from tune_jobs.records.journal import Journal
from tune_jobs.records.ledger import SweepFolder, TrialRecord
from tuning_common.files import append_jsonl


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def interrupted(output: Path) -> DrivenSweep:
    """A sweep whose driver was killed: trial 1 is over, trial 2 has a checkpoint."""
    sweep = DrivenSweep(output / "sweep_results" / "small")
    sweep.start_all()
    for _ in range(3):
        sweep.run_evaluation(1, 5.0)
    sweep.report(2, 4.0)
    sweep.save(2)
    return sweep


@pytest.mark.parametrize("is_copied", [False, True])
def test_a_moved_or_copied_folder_is_continued_where_it_is(tmp_path: Path, is_copied: bool) -> None:
    first = interrupted(tmp_path / "old")
    for path in first.folder.path.glob("*.jsonl"):
        assert str(tmp_path) not in path.read_text(encoding="utf-8"), path
    (shutil.copytree if is_copied else shutil.move)(tmp_path / "old", tmp_path / "new")
    before = contents(tmp_path / "old") if is_copied else {}
    second = DrivenSweep(tmp_path / "new" / "sweep_results" / "small")
    attempt = second.start(2)
    assert Path(str(attempt.resume_from)).is_relative_to(tmp_path / "new")
    assert Path(attempt.folder).is_relative_to(tmp_path / "new")
    second.finish(lambda number, evaluation: 4.0)
    assert second.statuses == dict.fromkeys((1, 2, 3, 4), "finished")
    assert Path(second.records[1].experiment_dir).is_relative_to(tmp_path / "new")
    assert contents(tmp_path / "old") == before if is_copied else not (tmp_path / "old").exists()


@pytest.mark.parametrize(
    "folder",
    [
        "{outside}",
        "{outside}/checkpoint_1",
        "../../outside/a/checkpoint_1",
        "sweep_results/small/tune/checkpoint_1",
        "sweep_results/small",
    ],
)
def test_a_line_that_leads_out_of_the_sweeps_folder_is_named_and_removes_nothing(tmp_path: Path, folder: str) -> None:
    sweep = interrupted(tmp_path / "outputs")
    outside = tmp_path / "outside" / "a"
    (outside / "checkpoint_1").mkdir(parents=True)
    (outside / "checkpoint_1" / "precious").write_text("x")
    path = sweep.folder.path / "journal.jsonl"
    checkpoint = Journal(path).trials[2].checkpoint
    append_jsonl(path, {"event": "saved", "number": 2, "folder": folder.format(outside=outside)})
    journal = Journal(path)
    assert list(journal.foreign) == list(journal.torn) == [len(path.read_bytes().split(b"\n")) - 1]
    assert journal.trials[2].checkpoint == checkpoint
    DrivenSweep(sweep.folder.path).finish(lambda number, evaluation: 4.0)
    assert (outside / "checkpoint_1" / "precious").exists()
    assert path.exists()


def test_a_link_below_the_output_folder_is_not_followed(tmp_path: Path) -> None:
    sweep = interrupted(tmp_path / "outputs")
    (tmp_path / "outside" / "models").mkdir(parents=True)
    (tmp_path / "outside" / "models" / "precious").write_text("x")
    folder = Path(str(sweep.trials[2].spec["folder"]))
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.symlink_to(tmp_path / "outside")
    (tmp_path / "outside" / "checkpoint-3").mkdir()
    before = contents(tmp_path / "outside")
    for _ in range(2):
        sweep.run_evaluation(2, 4.0)
    assert sweep.statuses[2] == "finished"
    assert contents(tmp_path / "outside") == before
    assert (tmp_path / "outside" / "checkpoint-3").exists()
    assert Journal(sweep.folder.path / "journal.jsonl").foreign, "the next driver refuses it"


def test_the_ledger_finds_its_experiments_beside_it_whatever_a_line_says(tmp_path: Path) -> None:
    folder = SweepFolder.of(tmp_path / "outputs", "small")
    record = TrialRecord(trial_id="1", name="a", sweep="small", status="finished")
    inside = tmp_path / "outputs" / "experiments" / "a"
    for number, text in enumerate((str(inside), "/etc", "../../..", "experiments/a"), start=1):
        line = {"event": "trial", "trial_id": str(number), "name": "a", "sweep": "small", "status": "finished"}
        append_jsonl(folder.ledger, line | {"experiment_dir": text})
    assert {trial.experiment_dir for trial in folder.load().trials} == {str(inside)}
    folder.append(replace(record, trial_id="9", experiment_dir=str(inside)))
    last = json.loads(folder.ledger.read_text().splitlines()[-1])
    assert last["experiment_dir"] == "experiments/a"
