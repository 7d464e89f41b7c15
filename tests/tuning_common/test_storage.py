"""A storage in trouble is recognised in whatever a library makes of it, and waited for."""

import errno
from pathlib import Path

import pytest

from tuning_common import cli
from tuning_common.errors import WorkError
from tuning_common.files import append_jsonl, read_jsonl
from tuning_common.storage import StorageGoneError, StorageRetry, free_bytes, storage_trouble


class Disk:
    """Is full for a number of writes; the clock runs with its sleeps."""

    def __init__(self, full_for: int) -> None:
        self.left, self.now_s = full_for, 0.0
        self.shown: list[str] = []
        self.retry = StorageRetry(self.shown.append, limit_s=60.0, elapsed_s=lambda: self.now_s, sleep=self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def write(self) -> str:
        self.left -= 1
        if self.left >= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return "written"


def test_a_full_disk_is_waited_for_and_shown_once() -> None:
    disk = Disk(full_for=3)
    assert disk.retry.run(disk.write, Path("out/journal.jsonl")) == "written"
    assert disk.shown == [
        "out/journal.jsonl: no space left; everything waits, up to 1 min 00 s, and goes on when this is mended",
        "out/journal.jsonl: there again after 15 s; going on",
    ]


def test_waiting_ends_with_what_is_wrong() -> None:
    disk = Disk(full_for=1000)
    with pytest.raises(WorkError, match=r"out: no space left, for 1 min 05 s"):
        disk.retry.run(disk.write, Path("out"))


def test_another_failure_is_not_waited_for() -> None:
    disk = Disk(full_for=0)
    with pytest.raises(ZeroDivisionError):
        disk.retry.run(lambda: 1 // 0, Path("out"))
    assert disk.shown == []


@pytest.mark.parametrize(
    ("error", "trouble"),
    [
        (OSError(errno.ENOSPC, "x"), "no space left"),
        (OSError(errno.ESTALE, "x"), "it is gone (stale file handle)"),
        (StorageGoneError(Path("a")), "it is gone (stale file handle)"),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), "no space left"),
        (RuntimeError("PytorchStreamWriter failed writing file data/0"), "no space left, or it is gone"),
        (FileNotFoundError(errno.ENOENT, "x"), None),
        (RuntimeError("CUDA out of memory"), None),
    ],
)
def test_what_writers_make_of_it_is_recognised(error: Exception, trouble: str | None) -> None:
    assert storage_trouble(error) == trouble
    outer = RuntimeError("saving failed")
    outer.__cause__ = error
    assert storage_trouble(outer) == trouble


def test_a_line_that_found_room_for_a_part_only_is_an_error_and_costs_no_other_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.jsonl"
    append_jsonl(path, {"number": 1})
    write = __import__("os").write
    monkeypatch.setattr("tuning_common.files.os.write", lambda descriptor, line: write(descriptor, line[:7]))
    with pytest.raises(OSError, match="No space left"):
        append_jsonl(path, {"number": 2})
    monkeypatch.undo()
    append_jsonl(path, {"number": 2})
    assert read_jsonl(path) == ([{"number": 1}, {"number": 2}], 1)


def test_a_folder_that_is_gone_has_no_room(tmp_path: Path) -> None:
    assert free_bytes(tmp_path) > 0
    assert free_bytes(tmp_path / "gone") == 0


def test_a_command_shows_what_is_wrong_with_the_disk(capsys: pytest.CaptureFixture[str]) -> None:
    def main(arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", "outputs/x.json")

    assert cli.run(main, []) == 1
    assert capsys.readouterr().err == "error: outputs/x.json: no space left; mend it and try again\n"
    with pytest.raises(FileNotFoundError):
        cli.run(lambda arguments: len(Path("absent").read_text()), [])
