"""Chooses the batches of an evaluation, on which no score depends: as large as needs no memory beyond training's."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from types import MappingProxyType

from cluster.estimator.estimate import Estimator
from cluster.estimator.request import MemoryRequest
from cluster.estimator.template import Routine

BATCHES: Mapping[str, Routine] = MappingProxyType({"loss_batch_size": "evaluate", "generation_batch_size": "generate"})
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
USUAL = 32
SLOWEST = 1.1  # seconds of an evaluation, relative to batches of USUAL
TENSORS = (
    0.9  # of training's bytes: beside what training leaves in the allocator's cache, tensors of other sizes need more
)
FASTEST_GPU = "NVIDIA H200"  # spends the largest part of its time on launches, so it loses most by small batches


def with_evaluation_batches(
    estimator: Estimator, request: MemoryRequest, chosen: Collection[str] = tuple(BATCHES)
) -> MemoryRequest:
    """Returns a request with the largest batches of an evaluation that need no more memory than its training.

    Where an evaluation would take more than a tenth longer than with batches of 32, it gets larger batches, which then
    set the peak: summaries take about as long for one dialogue as for many. A card whose speed is not known counts as
    a fast one.

    Args:
        estimator: Gives bytes and seconds, in tens of microseconds each.
        request: The request. It is returned as it is for a model whose bytes are not products of batch and lengths, as
            each batch would need a trace of its own.
        chosen: Which batches to choose, names of BATCHES; the others stay.
    """
    if not estimator.takes_any_size(request):
        return request
    names = [name for name in BATCHES if name in chosen]
    limit_bytes = TENSORS * estimator.tensor_bytes(request, "train")
    found, usual = request, request
    for name in names:
        candidates = [(size, _with(request, name, size)) for size in SIZES]
        fitting = [size for size, one in candidates if estimator.tensor_bytes(one, BATCHES[name]) <= limit_bytes]
        found, usual = _with(found, name, max(fitting, default=1)), _with(usual, name, USUAL)
    limit_s = SLOWEST * _dialogue_s(estimator, usual)
    while _dialogue_s(estimator, found) > limit_s:
        larger = [_with(found, name, 2 * size) for name in names if (size := getattr(found, name)) < USUAL]
        found = min(larger, key=lambda one: _dialogue_s(estimator, one))
    return found


def _with(request: MemoryRequest, name: str, size: int) -> MemoryRequest:
    return replace(request, **{name: size})  # type: ignore[arg-type]  # both are sizes


def _dialogue_s(estimator: Estimator, request: MemoryRequest) -> float:
    """Returns the seconds of an evaluation for one dialogue; 0 for a template without operations."""
    seconds = estimator.seconds(request, otherwise=FASTEST_GPU)
    return 0.0 if seconds is None else (seconds.evaluate + seconds.generate).total_s / request.generation_batch_size
