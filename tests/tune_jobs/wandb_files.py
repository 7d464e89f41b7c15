"""Reads offline W&B runs back: a LevelDB log (32 KiB blocks, seven-byte header ":W&B") of protobuf records."""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_BLOCK = 32768
_WHOLE, _FIRST, _LAST = 1, 2, 4


@dataclass
class OfflineRun:
    """One `.wandb` file.

    Attributes:
        run: run_id, project, run_group, job_type, display_name, tags.
        config: By name.
        history: One row for each step, with `_step`.
        summary: Final values, of the last record that had each.
        exit_code: None where the run was not closed.
        preempting: Whether it said that it will go on.
        artifacts: (type, name) of each.
    """

    run: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None
    preempting: bool = False
    artifacts: list[tuple[str, str]] = field(default_factory=list)


def read_offline_run(path: Path) -> OfflineRun:
    """Reads the `.wandb` file of a run folder."""
    (file,) = path.glob("*.wandb")
    found = OfflineRun()
    for record in _records(file.read_bytes()):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            names = ("run_id", "project", "run_group", "job_type", "display_name")
            found.run = {name: getattr(record.run, name) for name in names} | {"tags": list(record.run.tags)}
            found.config |= _items(record.run.config.update)
        elif kind == "config":
            found.config |= _items(record.config.update)
        elif kind == "history":
            found.history.append(_items(record.history.item))
        elif kind == "summary":
            found.summary |= _items(record.summary.update)
        elif kind == "exit":
            found.exit_code = record.exit.exit_code
        elif kind == "preempting":
            found.preempting = True
        elif kind == "artifact":
            found.artifacts.append((record.artifact.type, record.artifact.name))
    return found


def _items(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def _records(content: bytes) -> Iterator[Any]:
    from wandb.proto import wandb_internal_pb2

    assert content[:4] == b":W&B"
    at, held = 7, b""
    while at + 7 <= len(content):
        left = _BLOCK - at % _BLOCK
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        if not kind and not length:
            at += left
            continue
        held = (b"" if kind in (_WHOLE, _FIRST) else held) + content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (_WHOLE, _LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(held)
            yield record
