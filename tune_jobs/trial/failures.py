"""What kind of failure an exception is, and the next smaller way to compute the same batch.

Must not import ray or torch: errors are recognised by the names of their types.
"""

from dataclasses import replace

from tune_jobs.records.trial_spec import FailureKind, RunShape

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


def smaller(shape: RunShape) -> RunShape | None:
    """Returns the next smaller way to compute the same effective batch, None where there is none.

    The micro-batch becomes the largest divisor of the batch that is at most half of it, and the batches of an
    evaluation half of theirs; at one dialogue the last resort is gradient checkpointing, which costs about a third more
    time.

    >>> [smaller(RunShape(micro_batch=size, accumulation=1, ranks=2)).describe() for size in (16, 6)]
    ['8 x 2 on each of 2 cards', '3 x 2 on each of 2 cards']
    """
    batch = shape.micro_batch * shape.accumulation
    shape = replace(shape, loss_batch=_half(shape.loss_batch), generation_batch=_half(shape.generation_batch))
    for micro_batch in range(shape.micro_batch // 2, 0, -1):
        if batch % micro_batch == 0:
            return replace(shape, micro_batch=micro_batch, accumulation=batch // micro_batch)
    if not shape.gradient_checkpointing:
        return replace(shape, gradient_checkpointing=True)
    return None


def _half(size: int | None) -> int | None:
    return None if size is None else max(1, size // 2)


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
