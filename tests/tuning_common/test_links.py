"""A link that a neighbour puts where we write leads nowhere: no file elsewhere is written, truncated or made."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dialsum.config import RunConfig
from dialsum.retune import retune_checkpoint
from dialsum.run_folder import RunFolder
from tune_jobs.records.ledger import SweepFolder
from tune_jobs.records.step_log import StepLog
from tune_jobs.records.sweep_lock import alone
from tuning_common.errors import RequestError
from tuning_common.files import append_jsonl, is_private, open_to_append, private_folder, write_bytes


def take_lock(folder: Path) -> None:
    with alone(SweepFolder(folder / "sweep")):
        pass


def write_log(folder: Path) -> None:
    with RunFolder(folder).log():
        pass


WRITERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "lock of a sweep": (".sweep.lock", take_lock),
    "ledger": ("ledger.jsonl", lambda folder: append_jsonl(folder / "ledger.jsonl", {"a": 1})),
    "log of a run": ("training.log", write_log),
}


@pytest.mark.parametrize("link", [os.symlink, os.link], ids=["symbolic", "hard"])
@pytest.mark.parametrize("writer", WRITERS)
def test_nothing_is_written_through_a_link(tmp_path: Path, writer: str, link: Callable[[Path, Path], None]) -> None:
    victim, folder = tmp_path / "victim", tmp_path / "results"
    victim.write_text("precious")
    folder.mkdir()
    name, write = WRITERS[writer]
    link(victim, folder / name)
    with pytest.raises(RequestError, match=f"{name}: (is a link|has a second name)"):
        write(folder)
    assert victim.read_text() == "precious"


def test_a_link_to_nothing_makes_no_file_there(tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RequestError, match="is a link"):
        append_jsonl(tmp_path / "ledger.jsonl", {"a": 1})
    assert not (tmp_path / "elsewhere").exists()


def test_a_pipe_holds_up_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "lock")
    with pytest.raises(RequestError, match="is no file"):
        open_to_append(tmp_path / "lock")


def test_a_lock_that_is_there_keeps_its_content(tmp_path: Path) -> None:
    (tmp_path / ".sweep.lock").write_text("of another program")
    take_lock(tmp_path)
    assert (tmp_path / ".sweep.lock").read_text() == "of another program"


def test_a_steps_file_that_is_a_link_costs_the_steps_and_not_the_trial(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "steps.jsonl").symlink_to(victim)
    StepLog(tmp_path / "steps.jsonl")({"loss": 1.0})
    assert victim.read_text() == "precious"


def test_a_whole_file_replaces_a_link_and_has_the_usual_mode(tmp_path: Path) -> None:
    victim, target = tmp_path / "victim", tmp_path / "best.json"
    victim.write_text("precious")
    target.symlink_to(victim)
    before = os.umask(0o027)
    try:
        write_bytes(target, b"new")
    finally:
        os.umask(before)
    assert (victim.read_text(), target.read_bytes(), target.is_symlink()) == ("precious", b"new", False)
    assert target.stat().st_mode & 0o777 == 0o640


def test_a_checkpoint_is_not_changed_through_a_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    torch.save({"_last_lr": [1.0], "base_lrs": [1.0]}, tmp_path / "scheduler.pt")
    torch.save({"param_groups": [{"lr": 1.0}]}, tmp_path / "optimizer.pt")
    (tmp_path / "optimizer.pt.new").symlink_to(victim)
    retune_checkpoint(tmp_path, RunConfig(learning_rate=0.5))
    assert victim.read_text() == "precious"
    assert torch.load(tmp_path / "optimizer.pt", weights_only=True)["param_groups"][0]["lr"] == 0.5


def test_a_private_folder_is_made_so(tmp_path: Path) -> None:
    folder = private_folder(tmp_path / "a" / "ray")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert private_folder(folder) == folder
    assert is_private(folder)


@pytest.mark.parametrize("mode", [0o777, 0o710, 0o701])
def test_a_folder_that_lets_others_in_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray").chmod(mode)
    assert not is_private(tmp_path / "ray")
    with pytest.raises(RequestError, match=rf"others may enter it \(mode {mode:o}\)"):
        private_folder(tmp_path / "ray")


def test_a_folder_that_others_could_exchange_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(RequestError, match="others may exchange it"):
        private_folder(tmp_path / "open" / "ray")
    (tmp_path / "open").chmod(0o1777)  # as /tmp is
    private_folder(tmp_path / "open" / "ray")


def test_a_link_in_place_of_a_private_folder_is_refused(tmp_path: Path) -> None:
    private_folder(tmp_path / "own")
    (tmp_path / "ray").symlink_to(tmp_path / "own")
    with pytest.raises(RequestError, match="is no folder"):
        private_folder(tmp_path / "ray")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    private_folder(tmp_path / "ray")
    os.chown(tmp_path / "ray", 12345, 12345)
    with pytest.raises(RequestError, match="belongs to another user"):
        private_folder(tmp_path / "ray")
