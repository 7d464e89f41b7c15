"""A plan for a request: how to run it inside a budget, or why nothing fits and what would."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cluster.estimator.estimate import Estimator, MemoryEstimate
from cluster.estimator.gpu_profile import DRIVER_PART, RESERVE_BYTES
from cluster.estimator.memory_plan import NoPlan, Plan, plan, time_model
from cluster.estimator.request import BF16_SM, MemoryRequest, Precision
from common.units import format_bytes

LENGTH_STEP = 64  # a remedy names a length that a person would type
UpperOf = Callable[[MemoryRequest], int]


def plan_request(
    estimator: Estimator,
    request: MemoryRequest,
    budget_bytes: int,
    *,
    checkpointing: Sequence[bool] = (False, True),
    precisions: Sequence[Precision] = (),
    confirm: bool = False,
    remedies_from: UpperOf | None = None,
) -> Plan | NoPlan:
    """Plans how to run a request's effective batch inside a budget; see memory_plan.plan.

    Args:
        estimator: Answers without a replay, so a plan takes milliseconds once its templates are at hand.
        request: Its own accumulation and checkpointing are not kept.
        budget_bytes: What the trial may hold on the card.
        checkpointing: The choices that are allowed.
        precisions: Other number formats that the configuration allows; the next one is tried where nothing fits.
        confirm: Whether the winner's allocator is replayed, which takes tens of milliseconds: where it then needs more
            than the budget, a smaller way is taken, and the plan's bytes are the replayed ones.
        remedies_from: Answers for other optimizers and lengths when nothing fits; the estimator when None. A caller who
            must not wait for a new trace gives one that raises LookupError where there is no template yet.

    Returns:
        A plan whose upper bytes are at most the budget, or why there is none, with what would make it fit.
    """
    for tried in (request.precision, *precisions):
        own = replace(request, precision=tried)
        found = _plan_in_format(estimator, own, budget_bytes, checkpointing, confirm, remedies_from)
        if isinstance(found, Plan):
            return replace(found, precision=tried)
    return found


def _plan_in_format(
    estimator: Estimator, request: MemoryRequest, budget_bytes: int, checkpointing: Sequence[bool], confirm: bool,
    remedies_from: UpperOf | None,
) -> Plan | NoPlan:  # fmt: skip
    """Plans in the request's own number format."""
    offered_bytes = budget_bytes
    while True:
        found = _planned(estimator, request, offered_bytes, checkpointing)
        if isinstance(found, NoPlan):
            smallest = _way(request, request.batch_size // request.ranks, found.gradient_checkpointing)
            remedies = _remedies(smallest, budget_bytes, remedies_from or estimator.upper_bytes)
            remedies.append(_larger_card(max(found.smallest_bytes, budget_bytes + 1)))
            return replace(found, budget_bytes=budget_bytes, remedies=tuple(remedies))
        if not confirm:
            return found
        way = _way(request, found.accumulation, found.gradient_checkpointing)
        replayed_bytes = estimator.estimate(way).upper_bytes
        if replayed_bytes <= budget_bytes:
            return replace(found, upper_bytes=replayed_bytes)
        offered_bytes = found.upper_bytes - 1


@dataclass(frozen=True, kw_only=True)
class Lighter:
    """A smaller batch of dialogues that are scored and summarized together, with which training sets the peak.

    Attributes:
        generation_batch_size: The batch.
        upper_bytes: What the trial then needs.
    """

    generation_batch_size: int
    upper_bytes: int


def lighter_generation(estimator: Estimator, request: MemoryRequest, found: MemoryEstimate) -> Lighter | None:
    """Says what a trial would need, were its dev batch no larger than training allows; None where it is not.

    A dev batch changes no score, so bytes that it needs beyond training buy nothing but speed of the evaluation.

    Args:
        estimator: Made the estimate.
        request: Of the estimate.
        found: The estimate.
    """
    if found.peak_phase.startswith("train/"):
        return None
    for candidate in _halved_generation(request):
        smaller = estimator.estimate(candidate)
        if smaller.peak_phase.startswith("train/"):
            return Lighter(generation_batch_size=candidate.generation_batch_size, upper_bytes=smaller.upper_bytes)
    return None


def _planned(
    estimator: Estimator, request: MemoryRequest, budget_bytes: int, checkpointing: Sequence[bool]
) -> Plan | NoPlan:
    def upper_bytes(micro_batch: int, accumulation: int, checkpointed: bool) -> int:
        return estimator.upper_bytes(_way(request, accumulation, checkpointed))

    size = estimator.model_size(request)
    tokens = request.encoder_max_len + request.decoder_max_len
    model = time_model(model_parameters=size.parameters, tokens=tokens, operations=size.operations)
    return plan(request.batch_size // request.ranks, budget_bytes, upper_bytes, model, checkpointing=checkpointing)


def _way(request: MemoryRequest, accumulation: int, checkpointed: bool) -> MemoryRequest:
    return replace(request, gradient_accumulation_steps=accumulation, gradient_checkpointing=checkpointed)


def _remedies(smallest: MemoryRequest, budget_bytes: int, upper_of: UpperOf) -> list[str]:
    """Tries one change at a time and keeps those that fit by themselves."""
    changes: list[tuple[str, list[MemoryRequest]]] = [
        ("generation_batch_size", _halved_generation(smallest)),
        ("precision", [replace(smallest, precision=precision) for precision in _smaller_formats(smallest)]),
        ("optimizer", [replace(smallest, optimizer="adafactor")] if smallest.optimizer != "adafactor" else []),
        ("encoder_max_len", _shorter(smallest)),
    ]
    remedies = []
    for name, candidates in changes:
        for candidate in candidates:
            try:
                needed_bytes = upper_of(candidate)
            except LookupError:
                break
            if needed_bytes <= budget_bytes:
                remedies.append(f"{name} {getattr(candidate, name)} ({format_bytes(needed_bytes)})")
                break
    return remedies


def _smaller_formats(request: MemoryRequest) -> tuple[Precision, ...]:
    """Number formats that hold less than a request's own, the gentlest first."""
    if request.gpu.sm < BF16_SM or request.precision == "bf16_pure" or request.sharding is not None:
        return ("bf16",) if request.gpu.sm >= BF16_SM and request.precision == "fp32" else ()
    return ("bf16", "bf16_pure") if request.precision == "fp32" else ("bf16_pure",)


def _halved_generation(request: MemoryRequest) -> list[MemoryRequest]:
    """Smaller generation batches, largest first."""
    sizes = []
    size = request.generation_batch_size // 2
    while size >= 1:
        sizes.append(size)
        size //= 2
    return [replace(request, generation_batch_size=size) for size in sizes]


def _shorter(request: MemoryRequest) -> list[MemoryRequest]:
    """Shorter dialogues, longest first."""
    longest = (request.encoder_max_len - 1) // LENGTH_STEP * LENGTH_STEP
    return [replace(request, encoder_max_len=length) for length in range(longest, 0, -LENGTH_STEP)]


def _larger_card(needed_bytes: int) -> str:
    total_bytes = int((needed_bytes + RESERVE_BYTES) / (1 - DRIVER_PART)) + 1
    return f"a card of at least {format_bytes(total_bytes)}"
