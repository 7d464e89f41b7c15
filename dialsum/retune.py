"""Lets a run go on from another run's checkpoint with its own learning rate and weight decay."""

from pathlib import Path

import torch

from dialsum.config import RunConfig

_OPTIMIZER, _SCHEDULER = "optimizer.pt", "scheduler.pt"  # of transformers' trainer


def retune_checkpoint(checkpoint: Path, config: RunConfig) -> None:
    """Writes a configuration's learning rate and weight decay into a checkpoint's optimizer and schedule.

    A trainer that resumes takes both from the checkpoint, not from its configuration. The schedule keeps its place:
    where it had come down to a tenth of the old rate, it goes on with a tenth of the new. Doing it twice changes
    nothing. Files are replaced, never written into: they may be linked to another run's.

    Args:
        checkpoint: Folder of transformers' trainer.
        config: The run that will go on from it.
    """
    schedule = torch.load(checkpoint / _SCHEDULER, weights_only=True)
    present = [
        rate / base if base else 0.0 for rate, base in zip(schedule["_last_lr"], schedule["base_lrs"], strict=True)
    ]
    schedule["base_lrs"] = [config.learning_rate] * len(present)
    schedule["_last_lr"] = [config.learning_rate * part for part in present]
    optimizer = torch.load(checkpoint / _OPTIMIZER, weights_only=True, map_location="cpu")
    groups = optimizer["param_groups"]
    for place, (group, rate) in enumerate(zip(groups, schedule["_last_lr"], strict=True)):
        group["lr"], group["initial_lr"] = rate, config.learning_rate
        group["weight_decay"] = config.weight_decay if place == 0 else 0.0  # as optimizers.parameter_groups splits them
    for name, content in ((_SCHEDULER, schedule), (_OPTIMIZER, optimizer)):
        partial = checkpoint / f"{name}.new"
        partial.unlink(missing_ok=True)  # of a process that died here
        with partial.open("xb") as stream:
            torch.save(content, stream)
        partial.replace(checkpoint / name)
