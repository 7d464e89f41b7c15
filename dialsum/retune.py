"""Changes learning rate and weight decay in another run's checkpoint, for a run that continues from it."""

from pathlib import Path

import torch

from dialsum.config import RunConfig

_OPTIMIZER, _SCHEDULER = "optimizer.pt", "scheduler.pt"  # of transformers' trainer
RETUNED = (_OPTIMIZER, _SCHEDULER)


def retune_checkpoint(checkpoint: Path, config: RunConfig) -> None:
    """Writes a configuration's learning rate and weight decay into a checkpoint's optimizer and schedule.

    A trainer that resumes takes both from the checkpoint, not from its configuration. The schedule keeps its position:
    after a tenth of the old rate follows a tenth of the new rate. The function is idempotent. It replaces files instead
    of writing into them, as they may be links to another run's.

    Args:
        checkpoint: Folder of transformers' trainer.
        config: The run that will resume from it.
    """
    schedule = torch.load(checkpoint / _SCHEDULER, weights_only=True)
    present = [
        rate / base if base else 0.0 for rate, base in zip(schedule["_last_lr"], schedule["base_lrs"], strict=True)
    ]
    schedule["base_lrs"] = [config.learning_rate] * len(present)
    schedule["_last_lr"] = [config.learning_rate * part for part in present]
    optimizer = torch.load(checkpoint / _OPTIMIZER, weights_only=True, map_location="cpu")
    groups = optimizer["param_groups"]
    for index, (group, rate) in enumerate(zip(groups, schedule["_last_lr"], strict=True)):
        group["lr"], group["initial_lr"] = rate, config.learning_rate
        group["weight_decay"] = config.weight_decay if index == 0 else 0.0  # as optimizers.parameter_groups splits them
    for name, content in ((_SCHEDULER, schedule), (_OPTIMIZER, optimizer)):
        partial = checkpoint / f"{name}.new"
        partial.unlink(missing_ok=True)  # left by a killed process
        with partial.open("xb") as stream:
            torch.save(content, stream)
        partial.replace(checkpoint / name)
