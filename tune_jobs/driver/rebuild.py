"""Rebuilds a journal that was removed: outcomes from the ledger, unfinished trials from their checkpoints.

What only the journal knew is lost: evaluations since the last checkpoint, failed attempts, and the sequence of reports.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

from tune_jobs.records.journal import EndStatus, Journal
from tune_jobs.records.ledger import SweepFolder, TrialRecord
from tune_jobs.records.trial_state import HISTORY_FILE, damage_of, evaluations_of, trial_of
from tuning_common.errors import RequestError


def rebuild_journal(journal: Journal, folder: SweepFolder, metric: str, notify: Callable[[str], None]) -> None:
    """Writes what ledger and checkpoints hold into an empty journal.

    Args:
        journal: Of the sweep.
        folder: The sweep's results.
        metric: The metric that ranks trials.
        notify: Shows a line.
    """
    ended = {int(one.trial_id): one for one in folder.load().trials if one.status != "running" and _is_number(one)}
    rows: list[tuple[float, int, Mapping[str, object]]] = []
    for number, record in ended.items():
        journal.write("submitted", number, spec=_spec_of(record, metric))
        rows += [(row.get("iteration") or 0.0, number, row) for row in record.history]
    for evaluation, number, row in sorted(rows, key=lambda one: one[:2]):
        _report(journal, number, int(evaluation), row, metric)
    for number, record in ended.items():
        status, failure = _end_of(record)
        reason = record.error.message if record.error is not None else ""
        journal.write("ended", number, status=status, reason=reason, failure=failure)
    unfinished = {number: found for number, found in _checkpoints(folder).items() if number not in ended}
    for number, checkpoints in unfinished.items():
        spec = {**trial_of(checkpoints[-1]), "sweep_folder": str(folder.path.absolute())}
        spec["folder"] = str(folder.output / "experiments" / Path(str(spec.get("name"))).name)
        try:
            journal.write("submitted", number, spec=spec)
        except RequestError:  # another version's
            continue
        for evaluation, row in enumerate(_history(checkpoints[-1]), start=1):
            _report(journal, number, evaluation, row, metric)
        for checkpoint in checkpoints:
            journal.write("saved", number, folder=str(checkpoint))
    if journal.trials:
        notify(
            f"the journal is gone; it was rebuilt from the ledger ({len(ended)} ended trials) and from checkpoints"
            f" ({len(journal.trials) - len(ended)} unfinished trials)"
        )


def _report(journal: Journal, number: int, evaluation: int, row: Mapping[str, object], metric: str) -> None:
    value = row.get(metric)
    if evaluation >= 1 and isinstance(value, (int, float)) and math.isfinite(value):
        metrics = {name: one for name, one in row.items() if one is not None and "/" in name}
        journal.write("reported", number, evaluation=evaluation, value=value, metrics=metrics)


def _spec_of(record: TrialRecord, metric: str) -> dict[str, object]:
    """Returns so much of a specification as an ended trial needs."""
    if record.status == "refused":
        return {"name": record.name, "sampled": record.sampled}
    return {
        "number": int(record.trial_id),
        "name": record.name,
        "sweep": record.sweep,
        "sampled": record.sampled,
        "config": record.resolved,
        "folder": record.experiment_dir,
        "metric": metric,
        "estimate": record.estimate or {},
        "simulated": record.simulated,
        "member": record.member,
        "trained": record.trained,
    }


def _end_of(record: TrialRecord) -> tuple[EndStatus, str | None]:
    if record.status in ("failed", "oom"):
        kind = record.error.type if record.error is not None else "error"
        return "failed", "out_of_memory" if record.status == "oom" else kind
    return cast("EndStatus", record.status), "wrong_request" if record.status == "refused" else None


def _is_number(record: TrialRecord) -> bool:
    return record.trial_id.isascii() and record.trial_id.isdigit() and 0 < len(record.trial_id) < 7


def _checkpoints(folder: SweepFolder) -> dict[int, list[Path]]:
    """Returns the last two whole checkpoints of each trial, the last one at the end."""
    found: defaultdict[int, list[Path]] = defaultdict(list)
    for path in folder.path.glob("tune/**/checkpoint_*"):
        number = trial_of(path).get("number")
        if isinstance(number, int) and not damage_of(path):
            found[number].append(path)
    return {
        number: sorted(paths, key=lambda path: (evaluations_of(path), path.stat().st_mtime))[-2:]
        for number, paths in sorted(found.items())
    }


def _history(checkpoint: Path) -> list[dict[str, object]]:
    path = checkpoint / HISTORY_FILE
    rows: list[dict[str, object]] = json.loads(path.read_bytes()) if path.is_file() else []
    return rows
