"""A checkpoint that was damaged does not cost the trial: the one before it is used, then a new start."""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tune_jobs.records.trial_spec import DAMAGED_EVALUATION_KEY, DAMAGED_KEY, DAMAGED_START_KEY
from tune_jobs.records.trial_state import (
    STATE_FILE,
    damage_of,
    drop_checksums,
    evaluations_of,
    losses_of,
    renew_checksums,
    write_state,
)
from tune_jobs.trial.checkpoints import whole_checkpoint
from tune_jobs.trial.storage import TrialStorage

WEIGHTS = "model.safetensors"


def checkpoint(folder: Path, number: int) -> Path:
    """A checkpoint after so many evaluations, with a file in a folder of its own."""
    path = folder / f"checkpoint_{number:06d}"
    (path / "shards").mkdir(parents=True)
    for name in (WEIGHTS, "optimizer.pt", "shards/0.distcp"):
        (path / name).write_bytes(f"{name} at {number} ".encode() * 1000)
    write_state(path, evaluations=number, losses=(3.0, 2.0))
    return path


def flip(path: Path) -> None:
    """Changes one bit."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a bit of the weights": lambda path: flip(path / WEIGHTS),
    "a bit of a shard": lambda path: flip(path / "shards" / "0.distcp"),
    "cut weights": lambda path: os.truncate(path / WEIGHTS, 100),
    "empty weights": lambda path: os.truncate(path / WEIGHTS, 0),
    "zeroed optimizer": lambda path: (path / "optimizer.pt").write_bytes(
        b"\0" * (path / "optimizer.pt").stat().st_size
    ),
    "no optimizer": lambda path: (path / "optimizer.pt").unlink(),
    "no folder": shutil.rmtree,
    "an empty folder": lambda path: (shutil.rmtree(path), path.mkdir()),
    "no state": lambda path: (path / STATE_FILE).unlink(),
    "a bit of the state": lambda path: flip(path / STATE_FILE),
    "another count": lambda path: (path / STATE_FILE).write_text(
        (path / STATE_FILE).read_text().replace('"evaluations": ', '"evaluations": 1')
    ),
    "a folder as a file": lambda path: ((path / WEIGHTS).unlink(), (path / WEIGHTS).mkdir()),
    "a state of another kind": lambda path: (path / STATE_FILE).write_text("[" * 100_000),
}


class Sent:
    """Reports for the driver."""

    def __init__(self) -> None:
        self.reports: list[Mapping[str, object]] = []

    def __call__(self, metrics: Mapping[str, object], checkpoint: Path | None) -> None:
        self.reports.append(metrics)


@pytest.mark.parametrize("damage", DAMAGES)
def test_of_a_damaged_checkpoint_the_one_before_it_is_used_and_then_none(tmp_path: Path, damage: str) -> None:
    before, last = checkpoint(tmp_path, 1), checkpoint(tmp_path, 2)
    sent = Sent()
    assert whole_checkpoint([last, before], sent) == last
    assert sent.reports == []
    DAMAGES[damage](last)
    assert whole_checkpoint([last, before], sent) == before
    DAMAGES[damage](before)
    assert whole_checkpoint([last, before], sent) is None
    first, second = sent.reports
    assert (first[DAMAGED_START_KEY], first[DAMAGED_EVALUATION_KEY]) == (str(before), 1)
    assert (second[DAMAGED_START_KEY], second[DAMAGED_EVALUATION_KEY]) == (None, 0)
    assert f"checkpoint {tmp_path.name}/checkpoint_000002 is damaged: " in str(first[DAMAGED_KEY])
    assert len(second[DAMAGED_KEY]) == 2  # type: ignore[arg-type]


def test_a_state_counts_over_attempts(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, 3)
    assert (evaluations_of(path), losses_of(path), damage_of(path)) == (3, (3.0, 2.0), "")
    assert (evaluations_of(None), losses_of(None)) == (0, None)


def test_a_file_that_is_about_to_change_is_not_compared_until_it_has(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, 1)
    drop_checksums(path, ["optimizer.pt"])
    flip(path / "optimizer.pt")  # a process that was killed here begins again
    assert damage_of(path) == ""
    renew_checksums(path, ["optimizer.pt"])
    assert damage_of(path) == ""
    flip(path / "optimizer.pt")
    assert damage_of(path) == "optimizer.pt has another checksum"


def test_a_checkpoint_is_not_missing_while_its_storage_is(tmp_path: Path) -> None:
    sweep, hidden = tmp_path / "sweep", tmp_path / "hidden"
    sweep.mkdir()
    (sweep / "journal.jsonl").touch()
    last = checkpoint(sweep / "tune" / "one", 1)
    sweep.rename(hidden)
    shown: list[str] = []
    storage = TrialStorage(
        folder=tmp_path / "one", sweep_folder=sweep, watched=True, sleep=lambda seconds: hidden.rename(sweep) and None
    )
    assert storage.wait_for_journal(shown.append)
    assert shown[0].startswith("it is gone")
    assert whole_checkpoint([last], Sent()) == last
