"""The state of a trial in a checkpoint, beside the trainer's own files: counts that continue, and checksums.

A checkpoint that a disk, a copy or a person damaged would fail its trial, or continue it with other weights. So each
file's size and CRC-32 (4 GB/s) are written with the checkpoint and compared before it is used.
"""

import json
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import cast

from tuning_common.files import json_object, write_json

STATE_FILE = "trial_state.json"  # in every checkpoint
HISTORY_FILE = "history.json"  # dialsum's own: the evaluations before a checkpoint
INHERITED_FILE = "inherited.json"  # in a checkpoint that was copied from another trial
_BLOCK_BYTES = 2**22
_OWN = "own_checksum"


def write_state(
    checkpoint: Path,
    *,
    evaluations: int,
    losses: tuple[float, float] | None,
    trial: Mapping[str, object] | None = None,
) -> None:
    """Writes the state into a checkpoint that is complete otherwise.

    Args:
        checkpoint: Its folder.
        evaluations: Number of evaluations so far.
        losses: First and lowest training loss, or None.
        trial: The trial's specification, from which a lost journal is rebuilt.
    """
    names = [str(path.relative_to(checkpoint)) for path in sorted(checkpoint.rglob("*")) if path.is_file()]
    files = {name: _checksum(checkpoint / name) for name in names if name != STATE_FILE}
    state = {"evaluations": evaluations, "first_and_lowest_loss": losses, "trial": trial or {}, "files": files}
    _write(checkpoint, state)


def drop_checksums(checkpoint: Path, names: Collection[str]) -> None:
    """Leaves files out of the comparison, because they are about to change."""
    state = _read(checkpoint)
    files = cast("dict[str, object]", state["files"])
    _write(checkpoint, state | {"files": {name: value for name, value in files.items() if name not in names}})


def renew_checksums(checkpoint: Path, names: Collection[str]) -> None:
    """Compares files with their present content from now on."""
    state = _read(checkpoint)
    files = cast("dict[str, object]", state["files"])
    _write(checkpoint, state | {"files": files | {name: _checksum(checkpoint / name) for name in names}})


def damage_of(checkpoint: Path) -> str:
    """Compares a checkpoint with its checksums; returns what is wrong, empty where it is whole."""
    if not checkpoint.is_dir():
        return "it is not there"
    try:
        files = cast("Mapping[str, object]", _read(checkpoint)["files"])
        for name, written in files.items():
            path = checkpoint / name
            if not path.is_file():
                return f"{name} is missing"
            size_bytes = path.stat().st_size
            if size_bytes != cast("list[int]", written)[0]:
                return f"{name} has {size_bytes} bytes instead of {cast('list[int]', written)[0]}"
            if _checksum(path) != written:
                return f"{name} has another checksum"
    except OSError as error:
        return f"{Path(str(error.filename)).name} cannot be read ({error.strerror})"
    except (ValueError, TypeError, LookupError):
        return f"{STATE_FILE} is not as it was written"
    return ""


def evaluations_of(checkpoint: Path | None) -> int:
    """Returns the number of evaluations at a checkpoint; 0 where it is unknown."""
    return int(cast("int", _state_of(checkpoint).get("evaluations", 0)))


def trial_of(checkpoint: Path) -> Mapping[str, object]:
    """Returns the specification of the trial that wrote a checkpoint; empty where it is unknown."""
    return cast("Mapping[str, object]", _state_of(checkpoint).get("trial", {}))


def losses_of(checkpoint: Path | None) -> tuple[float, float] | None:
    """Returns the first and lowest loss, which a resumed attempt needs to detect an exploding loss."""
    losses = cast("list[float] | None", _state_of(checkpoint).get("first_and_lowest_loss"))
    return None if losses is None else (losses[0], losses[1])


def _state_of(checkpoint: Path | None) -> dict[str, object]:
    try:
        return {} if checkpoint is None else _read(checkpoint)
    except (OSError, ValueError):
        return {}


def _read(checkpoint: Path) -> dict[str, object]:
    """Reads the state.

    Raises:
        OSError: When it cannot be read.
        ValueError: When it is not as it was written.
    """
    state = json_object((checkpoint / STATE_FILE).read_bytes())
    if state.pop(_OWN, None) != _own_checksum(state):
        raise ValueError(f"{STATE_FILE} has another checksum")
    return state


def _write(checkpoint: Path, state: Mapping[str, object]) -> None:
    write_json(checkpoint / STATE_FILE, {**state, _OWN: _own_checksum(state)})


def _own_checksum(state: Mapping[str, object]) -> int:
    return zlib.crc32(json.dumps(state, sort_keys=True).encode())


def _checksum(path: Path) -> list[int]:
    """Returns the size and the CRC-32 of a file."""
    size_bytes, checksum = 0, 0
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            size_bytes, checksum = size_bytes + len(block), zlib.crc32(block, checksum)
    return [size_bytes, checksum]
