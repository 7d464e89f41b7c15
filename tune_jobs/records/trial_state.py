"""The state of a trial in a checkpoint, beside the trainer's own files; counts continue over attempts."""

import json
from pathlib import Path
from typing import cast

from tuning_common.files import write_json

STATE_FILE = "trial_state.json"  # in every checkpoint
INHERITED_FILE = "inherited.json"  # in a checkpoint that was copied from another trial


def write_state(checkpoint: Path, *, evaluations: int, losses: tuple[float, float] | None) -> None:
    """Writes the state into a checkpoint.

    Args:
        checkpoint: Its folder.
        evaluations: Number of evaluations so far.
        losses: First and lowest training loss, or None.
    """
    write_json(checkpoint / STATE_FILE, {"evaluations": evaluations, "first_and_lowest_loss": losses})


def evaluations_of(checkpoint: Path | None) -> int:
    """Returns the number of evaluations at a checkpoint; 0 where it is unknown."""
    return int(cast("int", _state_of(checkpoint).get("evaluations", 0)))


def losses_of(checkpoint: Path | None) -> tuple[float, float] | None:
    """Returns the first and lowest loss, which a resumed attempt needs to detect an exploding loss."""
    losses = cast("list[float] | None", _state_of(checkpoint).get("first_and_lowest_loss"))
    return None if losses is None else (losses[0], losses[1])


def _state_of(checkpoint: Path | None) -> dict[str, object]:
    path = checkpoint / STATE_FILE if checkpoint else None
    if path is None or not path.exists():
        return {}
    state: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    return state
