"""The state of a trial at a checkpoint beyond the trainer's own files, so that counts continue over attempts."""

import json
from pathlib import Path
from typing import cast

from common.files import write_json

STATE_FILE = "trial_state.json"  # lies in every checkpoint beside the trainer's files
INHERITED_FILE = "inherited.json"  # in a checkpoint that was copied from another trial


def write_state(checkpoint: Path, *, evaluations: int, losses: tuple[float, float] | None) -> None:
    """Writes it into a checkpoint.

    Args:
        checkpoint: Its folder.
        evaluations: How many evaluations the trial has made.
        losses: Its first and its lowest training loss; None where there was none.
    """
    write_json(checkpoint / STATE_FILE, {"evaluations": evaluations, "first_and_lowest_loss": losses})


def evaluations_of(checkpoint: Path | None) -> int:
    """Reads how many evaluations a trial had made at a checkpoint; 0 where that is not known."""
    return int(cast("int", _state_of(checkpoint).get("evaluations", 0)))


def losses_of(checkpoint: Path | None) -> tuple[float, float] | None:
    """Reads its first and lowest loss: else a low loss, from which it goes on, would soon look like an explosion."""
    losses = cast("list[float] | None", _state_of(checkpoint).get("first_and_lowest_loss"))
    return None if losses is None else (losses[0], losses[1])


def _state_of(checkpoint: Path | None) -> dict[str, object]:
    path = checkpoint / STATE_FILE if checkpoint else None
    if path is None or not path.exists():
        return {}
    state: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    return state
