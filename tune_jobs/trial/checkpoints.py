"""Chooses the checkpoint from which an attempt continues: the last one that is as it was written."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tune_jobs.records.trial_spec import DAMAGED_EVALUATION_KEY, DAMAGED_KEY, DAMAGED_START_KEY
from tune_jobs.records.trial_state import damage_of, evaluations_of

logger = logging.getLogger(__name__)


def whole_checkpoint(
    candidates: Sequence[Path], send: Callable[[Mapping[str, object], Path | None], None]
) -> Path | None:
    """Returns the first checkpoint that is whole; None where none is.

    Args:
        candidates: The last checkpoint, then the one before it.
        send: Sends a report to the driver: which checkpoints are damaged, and what is used instead.
    """
    damaged: list[str] = []
    found: Path | None = None
    for candidate in candidates:
        damage = damage_of(candidate)
        if not damage:
            found = candidate
            break
        damaged.append(f"checkpoint {candidate.parent.name}/{candidate.name} is damaged: {damage}")
    if damaged:
        logger.warning("%s", "; ".join(damaged))
        start = None if found is None else str(found)
        instead = {DAMAGED_START_KEY: start, DAMAGED_EVALUATION_KEY: evaluations_of(found)}
        send({DAMAGED_KEY: damaged, **instead}, None)
    return found
