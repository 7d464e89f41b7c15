"""One event of the journal: which fields it must have, and its paths, which on disk are relative to the output folder.

A journal is a file that anybody who may write to a results folder can change, and that a crash can tear. So each line
is checked before it is used, and no path in it leads out of the output folder.
"""

import contextlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

from tuning_common.bounds import lies_inside
from tuning_common.errors import RequestError

Event = Mapping[str, object]
_SPEC_FOLDERS = ("folder", "sweep_folder")
MOST_TRIALS = 10**6


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 10**18


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_mapping(value: object) -> bool:
    return isinstance(value, dict)


def _is_trial_number(value: object) -> bool:
    return _is_count(value) and 1 <= cast("int", value) <= MOST_TRIALS


def _is_bundle(value: object) -> bool:
    return isinstance(value, dict) and _is_number(value.get("gpus", 0.0)) and _is_list(value.get("nodes", []))


def _is_list(value: object) -> bool:
    return isinstance(value, (list, tuple))


def _is_status(value: object) -> bool:
    return value in ("finished", "stopped", "failed", "refused")


def _is_text_or_none(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_spec(value: object) -> bool:
    if not isinstance(value, dict) or not _is_text(value.get("name")):
        return False
    mappings = all(_is_mapping(value.get(name, {})) for name in ("sampled", "config", "estimate", "shape"))
    texts = all(_is_text(value.get(name, "")) for name in (*_SPEC_FOLDERS, "metric", "sweep", "cache_dir"))
    return mappings and texts and _is_bundle(value.get("bundle", {}))


Check = Callable[[object], bool]
_REQUIRED: Mapping[str, Mapping[str, Check]] = {
    "submitted": {"spec": _is_spec},
    "allocated": {"placement": _is_mapping},
    "started": {"bundle": _is_bundle, "at": _is_number, "elapsed_s": _is_number},
    "located": {"location": _is_mapping},
    "reported": {"evaluation": _is_trial_number, "value": _is_number, "metrics": _is_mapping},
    "saved": {"folder": _is_text},
    "damaged": {"reasons": _is_list, "folder": _is_text_or_none, "evaluation": _is_count},
    "retried": {"kind": _is_text},
    "paused": {"reason": _is_text},
    "copied": {
        "spec": _is_spec,
        "folder": _is_text,
        "donor": _is_trial_number,
        "evaluation": _is_count,
        "donor_evaluation": _is_count,
        "changes": _is_list,
        "before": _is_mapping,
    },
    "interrupted": {},
    "waits": {"reason": _is_text},
    "ended": {"status": _is_status, "reason": _is_text},
    "reopened": {},
}
_OPTIONAL: Mapping[str, Check] = {
    "at": _is_number,
    "elapsed_s": _is_number,
    "failure": _is_text_or_none,
    "lost_in_a_row": _is_count,
    "least_bytes": _is_count,
}


def problem_of(event: Event) -> str:
    """Returns what is wrong with an event; empty where nothing is.

    >>> problem_of({"event": "saved", "folder": "a/b", "number": 1}), problem_of({"event": "saved", "folder": "a/b"})
    ('', 'saved: number is missing or has no such value')
    """
    kind = event.get("event")
    required = _REQUIRED.get(kind) if isinstance(kind, str) else None
    if required is None:
        return f"unknown event {str(kind)[:40]!r}"
    for name, check in {"number": _is_trial_number, **required}.items():
        if not check(event.get(name)):
            return f"{kind}: {name} is missing or has no such value"
    wrong = [name for name, check in _OPTIONAL.items() if name in event and not check(event[name])]
    if ("at" in event) != ("elapsed_s" in event):
        wrong.append("at")
    return f"{kind}: {wrong[0]} has no such value" if wrong else ""


def is_checkpoint(path: Path, sweep_folder: Path) -> bool:
    """Returns whether a path can be a checkpoint of a sweep: two folders or more below the sweep's own."""
    return lies_inside(path.parent.parent, sweep_folder)


def with_relative_paths(event: Event, output: Path) -> Event:
    """Returns an event as it is written: its paths are relative to the output folder.

    Raises:
        ForeignPathError: When a path lies outside.
    """
    return _with_paths(event, lambda text: relative_path(text, output))


class ForeignPathError(RequestError):
    """A path leads out of the folder that it must lie in."""


def read_event(written: Event, sweep_folder: Path) -> Event:
    """Checks an event of a sweep's journal and makes its paths absolute.

    Raises:
        ForeignPathError: When a path lies outside of the output folder, or a checkpoint outside of the sweep's.
        RequestError: When it is no event.
    """
    problem = problem_of(written)
    if problem:
        raise RequestError(problem)
    event = _with_paths(written, lambda text: whole_path(text, sweep_folder.parents[1]))
    folder = event.get("folder")
    if isinstance(folder, str) and not is_checkpoint(Path(folder), sweep_folder):
        raise ForeignPathError(f"{written['folder']} is no checkpoint inside {sweep_folder}")
    return event


def relative_path(text: str, output: Path) -> str:
    """Returns a path inside the output folder relative to it.

    Raises:
        ForeignPathError: When it lies outside.
    """
    for base in (output.absolute(), output.resolve()):
        if Path(text).absolute().is_relative_to(base):
            return Path(text).absolute().relative_to(base).as_posix()
    raise ForeignPathError(f"{text} lies outside of the output folder {output}")


def whole_path(text: str, output: Path) -> str:
    """Returns the absolute path of one that is relative to the output folder.

    Raises:
        ForeignPathError: When it lies outside, also by a link.
    """
    path = output.resolve() / text
    if not lies_inside(path, output):
        raise ForeignPathError(f"{text} lies outside of the output folder {output}, or behind a link")
    return str(path)


def _with_paths(event: Event, change: Callable[[str], str]) -> Event:
    changed: dict[str, object] = dict(event)
    if isinstance(event.get("folder"), str):
        changed["folder"] = change(str(event["folder"]))
    spec = event.get("spec")
    if isinstance(spec, dict):
        folders = {name: change(str(spec[name])) for name in _SPEC_FOLDERS if spec.get(name)}
        with contextlib.suppress(ForeignPathError):  # caches may lie elsewhere; each driver sets their folder
            folders |= {"cache_dir": change(str(spec["cache_dir"]))} if "cache_dir" in spec else {}
        changed["spec"] = spec | folders
    return changed
