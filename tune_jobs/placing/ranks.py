"""How a run's batch is divided among the cards of one trial, each with a process of its own. Pure."""

from cluster.estimator.memory_plan import divisors
from dialsum.config import RunConfig
from tuning_common.errors import RequestError


def divided(config: RunConfig, ranks: int) -> RunConfig:
    """Returns a configuration of which each process computes its part: the same batch, fewer pieces.

    The micro-batch stays what it was, or becomes the next smaller one that divides a process's part of the batch.

    Args:
        config: The run as configured for one card.
        ranks: Processes that share its batch.

    Raises:
        RequestError: When the batch cannot be divided among them.

    >>> run = RunConfig(batch_size=16, gradient_accumulation_steps=4)
    >>> [divided(run, ranks).gradient_accumulation_steps for ranks in (1, 2, 4, 8)]
    [4, 2, 1, 1]
    """
    if config.batch_size % ranks:
        below = config.batch_size // ranks * ranks
        what = f"{below} or {below + ranks}" if below else str(ranks)
        raise RequestError(
            f"batch_size {config.batch_size} cannot be divided among {ranks} cards (resources.gpus_per_trial); take"
            f" {what}"
        )
    part = config.batch_size // ranks
    micro_batch = max(size for size in divisors(part) if size <= config.micro_batch)
    return config.with_changes({"gradient_accumulation_steps": part // micro_batch})
