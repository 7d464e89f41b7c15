"""Atomic file writes that never follow a link, and append-only JSON lines that tolerate a torn last line."""

import contextlib
import errno
import json
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from tuning_common.errors import RequestError

_ROOT = Path(__file__).resolve().parents[1]
_READY = (("tune_jobs", "sweeps"), ("configs",))  # folders of the ready files


def packaged(path: Path) -> Path:
    """Returns the path, or the ready file of that name where the working folder has none.

    Ready files (`tune_jobs/sweeps/...`, `configs/...`) are part of the installed packages.

    >>> packaged(Path("mine.yaml")).as_posix(), packaged(Path("configs/tiny.yaml")).exists()
    ('mine.yaml', True)
    """
    if path.exists() or not any(path.parts[: len(folder)] == folder for folder in _READY):
        return path
    return next((one for one in (_ROOT / path, _ROOT / "dialsum" / path) if one.is_file()), path)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file atomically: a reader sees the old content or the new, never a part.

    Writes and flushes a temporary file in the same folder, moves it over the target (`os.replace` is atomic on one
    file system), then flushes the folder entry.

    Args:
        path: The target. Missing parent folders are made.
        content: The whole content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # `os.write` does not name the file
            error.filename = str(path)
        raise
    _flush_folder(path.parent)


def write_text(path: Path, content: str) -> None:
    """Writes UTF-8 text whole or not at all."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: Path, content: object) -> None:
    """Writes JSON for people and programs: UTF-8, two spaces, a final newline. NaN is refused, as JSON has none."""
    write_text(path, json.dumps(content, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def open_to_append(path: Path) -> int:
    """Opens a ledger, log or lock for appending, without following a link.

    Another user who can write to the folder could have put a link there that leads to a file of this user.

    Args:
        path: The file. Creates it and its parent folders where they are absent.

    Returns:
        A descriptor for reading and appending, of a regular file with one name.

    Raises:
        RequestError: When the path is a link, a pipe, a device, or a second name of another file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise RequestError(f"{path}: is a link ({os.readlink(path)}), and is not written through; remove it") from None
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and found.st_nlink <= 1:  # 0: a clean-up has just removed it
        return descriptor
    os.close(descriptor)
    what = "has a second name (a hard link); replace it by a copy" if stat.S_ISREG(found.st_mode) else "is no file"
    raise RequestError(f"{path}: {what}; it is not written to")


def private_folder(path: Path) -> Path:
    """Creates a folder that only its owner may enter; checks an existing one.

    Args:
        path: The folder. Missing parent folders are made.

    Returns:
        The same path.

    Raises:
        RequestError: When it belongs to another user, is a link, or others may enter or replace it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    problem = _exposure(path)
    if problem:
        raise RequestError(f"{path}: {problem}; other users of this machine could run code as you", [_PRIVATE])
    return path


def is_private(path: Path) -> bool:
    """Returns whether the folder exists and only this user, its owner, may enter it."""
    return path.is_dir() and not _exposure(path)


_PRIVATE = "name another folder, for example with `export RAY_TMPDIR=$HOME/ray`, or make this one yours (chmod 700)"


def _exposure(path: Path) -> str:
    """Returns how others could get into a folder; empty where they cannot."""
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        return "is no folder"
    if found.st_uid != os.geteuid():
        return f"belongs to another user (uid {found.st_uid})"
    if stat.S_IMODE(found.st_mode) & 0o077:
        return f"others may enter it (mode {stat.S_IMODE(found.st_mode):o})"
    for parent in path.resolve().parents:
        mode = parent.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            return f"others may exchange it, as {parent} can be written by everybody (mode {stat.S_IMODE(mode):o})"
    return ""


def append_jsonl(path: Path, record: Mapping[str, object]) -> None:
    """Appends one record to a JSON-lines file; safe with several writers on one machine.

    One `write` on a descriptor opened with O_APPEND is atomic (POSIX write(2)). When an earlier writer died inside a
    line, a newline is written first, and only the torn line is lost.

    Args:
        path: The ledger. Missing parent folders are made.
        record: A JSON object.

    Raises:
        OSError: With ENOSPC where the disk took only a part of the line; readers skip that part.
    """
    line = json.dumps(record, ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n"
    descriptor = open_to_append(path)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line
        if os.write(descriptor, line) < len(line):  # a full disk takes a part without an error
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_jsonl(path: Path) -> tuple[list[dict[str, object]], int]:
    """Reads a JSON-lines ledger.

    Args:
        path: The ledger; a missing file is an empty ledger.

    Returns:
        The records in order, and the number of torn lines that were skipped.
    """
    records, torn = read_numbered_jsonl(path)
    return list(records.values()), len(torn)


def read_numbered_jsonl(path: Path) -> tuple[dict[int, dict[str, object]], dict[int, str]]:
    """Reads a JSON-lines ledger; see read_jsonl.

    Returns:
        The records by the number of their line, and what is wrong with each line that was skipped.
    """
    records: dict[int, dict[str, object]] = {}
    torn: dict[int, str] = {}
    content = path.read_bytes() if path.exists() else b""
    for number, raw in enumerate(content.split(b"\n"), start=1):
        if not raw.strip():
            continue
        try:
            records[number] = json_object(raw)
        except ValueError as error:
            torn[number] = str(error)
    return records, torn


def json_object(raw: bytes) -> dict[str, object]:
    """Reads one JSON object.

    Raises:
        ValueError: When it is torn, no object, nested too deeply, or holds a number that JSON or this program lacks.
    """
    try:
        record = json.loads(raw, parse_int=_whole_number, parse_constant=_refuse_constant)
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise ValueError("is torn, or no JSON") from None
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    if not isinstance(record, dict):
        raise ValueError("is no JSON object")
    if raw.count(b"{") + raw.count(b"[") > MOST_LEVELS and _depth(record) > MOST_LEVELS:
        raise ValueError(_TOO_DEEP)
    return record


MOST_LEVELS = 50
MOST_DIGITS = 18
_TOO_DEEP = f"has more than {MOST_LEVELS} levels"


def _whole_number(digits: str) -> int:
    if len(digits) > MOST_DIGITS + 1:
        raise ValueError(f"has a number of more than {MOST_DIGITS} digits")
    return int(digits)


def _refuse_constant(name: str) -> object:
    raise ValueError(f"has {name}, which JSON lacks")


def _depth(value: object) -> int:
    """Counts levels, without a recursion that a value of many levels would exhaust."""
    levels, current = 0, [value]
    while current:
        levels += 1
        inner = [one for one in current if isinstance(one, (dict, list))]
        current = [item for one in inner for item in (one.values() if isinstance(one, dict) else one)]
    return levels


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
