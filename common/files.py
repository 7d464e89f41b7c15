"""Files are written whole or not at all; ledgers only grow and survive a torn last line."""

import errno
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file so that a reader sees the old content or the new, never a part.

    A temporary file in the same folder is filled, flushed to disk and moved over the target (`os.replace` is atomic
    on one file system), then the folder entry is flushed.

    Args:
        path: The target. Missing parent folders are made.
        content: The whole content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's 0600 would hide results from the team
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # a write knows no name, and a person needs one
            error.filename = str(path)
        raise
    _flush_folder(path.parent)


def write_text(path: Path, content: str) -> None:
    """Writes UTF-8 text whole or not at all."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: Path, content: object) -> None:
    """Writes JSON for people and programs: UTF-8, two spaces, a final newline. NaN is refused, as JSON has none."""
    write_text(path, json.dumps(content, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def append_jsonl(path: Path, record: Mapping[str, object]) -> None:
    """Appends one record to a JSON-lines file, safely beside other writers on one machine.

    One `write` on a descriptor opened with O_APPEND goes to the end of the file as one piece (POSIX write(2)). When an
    earlier writer died inside a line, a newline is put first, so that only the torn line is lost.

    Args:
        path: The ledger. Missing parent folders are made.
        record: A JSON object.

    Raises:
        OSError: With ENOSPC where only a part of the line found room; readers pass over that part.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(record, ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n"
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line
        if os.write(descriptor, line) < len(line):  # a disk that fills up takes a part and says nothing
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_jsonl(path: Path) -> tuple[list[dict[str, object]], int]:
    """Reads a JSON-lines ledger.

    Args:
        path: The ledger; a missing file is an empty ledger.

    Returns:
        The records in order, and how many torn lines were passed over (the caller says so to the person).
    """
    if not path.exists():
        return [], 0
    records: list[dict[str, object]] = []
    torn = 0
    for raw in path.read_bytes().split(b"\n"):
        if not raw.strip():
            continue
        try:
            record = json.loads(raw)
        except (json.JSONDecodeError, UnicodeDecodeError):
            torn += 1
            continue
        if isinstance(record, dict):
            records.append(record)
        else:
            torn += 1
    return records, torn


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
