"""What to do when an attempt of a trial fails: first run it smaller, then give it more, never blame a score on memory.

Pure decisions. Must not import ray or torch: errors are recognised by the names of their types, so that a driver
without torch can read what a worker raised.
"""

from dataclasses import dataclass, replace
from typing import Literal

from cluster.scheduling.shares import UNITS, Share

FailureKind = Literal[
    "out_of_memory", "host_memory", "worker_lost", "stalled", "diverged", "wrong_request", "work_failed", "error"
]

# Allocation failures that CUDA's libraries raise as a plain RuntimeError, so that only the text tells them apart.
_OOM_TEXTS = (
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "DefaultCPUAllocator: can't allocate memory",
)
_WORKER_LOST = frozenset(
    {
        "ActorDiedError",
        "ActorUnavailableError",
        "ActorUnschedulableError",
        "NodeDiedError",
        "RayActorError",
        "WorkerCrashedError",
    }
)


@dataclass(frozen=True, kw_only=True)
class RunShape:
    """How an effective batch is computed; the product never changes, so what is learned does not either.

    Attributes:
        micro_batch: Dialogues in one forward pass.
        accumulation: Forward passes behind one optimizer step.
        gradient_checkpointing: Whether activations are computed again in the backward pass.
        ranks: Processes that share the batch, each on a card of its own.
        sharded: Whether they divide the model among themselves too; else each holds all of it.
    """

    micro_batch: int
    accumulation: int
    gradient_checkpointing: bool = False
    ranks: int = 1
    sharded: bool = False

    @property
    def batch_size(self) -> int:
        """The effective batch."""
        return self.micro_batch * self.accumulation * self.ranks

    def describe(self) -> str:
        """Says it for people.

        >>> RunShape(micro_batch=4, accumulation=4).describe()
        '4 x 4'
        >>> RunShape(micro_batch=4, accumulation=2, ranks=2).describe()
        '4 x 2 on each of 2 cards'
        >>> RunShape(micro_batch=4, accumulation=2, ranks=2, sharded=True).describe()
        '4 x 2 on each of 2 cards that the model is divided among'
        """
        cards = f" on each of {self.ranks} cards" if self.ranks > 1 else ""
        cards += " that the model is divided among" if self.sharded else ""
        suffix = " with gradient checkpointing" if self.gradient_checkpointing else ""
        return f"{self.micro_batch} x {self.accumulation}{cards}{suffix}"


def smaller(shape: RunShape) -> RunShape | None:
    """Returns the next smaller way to compute the same effective batch, None where there is none.

    The micro-batch becomes the largest divisor of the batch that is at most half of it; at one dialogue the last
    resort is gradient checkpointing, which costs about a third more time.

    >>> [smaller(RunShape(micro_batch=size, accumulation=1, ranks=2)).describe() for size in (16, 6)]
    ['8 x 2 on each of 2 cards', '3 x 2 on each of 2 cards']
    """
    batch = shape.micro_batch * shape.accumulation
    for micro_batch in range(shape.micro_batch // 2, 0, -1):
        if batch % micro_batch == 0:
            return replace(shape, micro_batch=micro_batch, accumulation=batch // micro_batch)
    if not shape.gradient_checkpointing:
        return replace(shape, gradient_checkpointing=True)
    return None


def larger_share(gpus: float, classes: tuple[float, ...]) -> float | None:
    """Returns the share for the next attempt after an out-of-memory: at least half as much again, at most a card.

    Args:
        gpus: The share that was too small.
        classes: Allowed shares in rising order, the last one a whole card.

    Returns:
        None where the trial held a whole card already: no share would help.

    >>> larger_share(0.25, (0.25, 0.3333, 0.5, 1.0)), larger_share(0.5, (0.25, 0.5, 1.0)), larger_share(1.0, (0.5, 1.0))
    (0.5, 1.0, None)
    """
    if gpus >= 1:
        return None
    return next((share for share in classes if share >= 1.5 * gpus), classes[-1])


def next_bytes(gpus: float, usable_bytes: int, classes: tuple[float, ...]) -> int:
    """Returns what its cards must give together to the next attempt after an out-of-memory.

    That is a larger share of the same model, at last a whole card; after whole cards, more than they have: only a card
    of another model, or more cards, have it.

    Args:
        gpus: The share that was too small, or the whole cards that were.
        usable_bytes: Of one card of the model that it was a share of.
        classes: Allowed shares in rising order, the last one a whole card.

    >>> [next_bytes(gpus, 24_000, (0.25, 0.3333, 0.5, 1.0)) for gpus in (0.25, 0.5, 1.0, 2.0)]
    [12000, 24000, 24001, 48001]
    """
    share = larger_share(gpus, classes)
    return (
        max(1, int(gpus)) * usable_bytes + 1
        if share is None
        else Share(units=round(share * UNITS)).cap_bytes(usable_bytes)
    )


def classify(error: BaseException) -> FailureKind:
    """Says what kind of failure an exception is, by the types along its chain of causes.

    >>> classify(RuntimeError("CUDA error: out of memory")), classify(ValueError("x"))
    ('out_of_memory', 'error')
    """
    for link in _chain(error):
        kind = _kind(link)
        if kind is not None:
            return kind
    return "error"


def _kind(error: BaseException) -> FailureKind | None:
    for cls in type(error).__mro__:
        if cls.__name__ == "OutOfMemoryError":
            # Ray's own is the host's memory monitor that ended a worker: a larger share of a card would not help.
            return "host_memory" if cls.__module__.startswith("ray.") else "out_of_memory"
        if cls.__name__ in _WORKER_LOST:
            return "worker_lost"
        if cls.__name__ == "RequestError":
            return "wrong_request"
        if cls.__name__ == "DivergedError":
            return "diverged"
        if cls.__name__ == "WorkError":
            return "work_failed"
    if isinstance(error, MemoryError):
        return "host_memory"
    if isinstance(error, RuntimeError) and any(text in str(error) for text in _OOM_TEXTS):
        return "out_of_memory"
    return None


def _chain(error: BaseException) -> list[BaseException]:
    links: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in links:
        links.append(current)
        current = getattr(current, "cause", None) or current.__cause__ or current.__context__
    return links
