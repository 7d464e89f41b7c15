"""Plans how to run a request within a memory budget; with remedies where nothing fits."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from cluster.estimator.estimate import Estimator
from cluster.estimator.gpu_profile import DRIVER_PART, RESERVE_BYTES
from cluster.estimator.memory_plan import NoPlan, Plan, plan, time_model
from cluster.estimator.request import BF16_SM, MemoryRequest, Precision
from tuning_common.units import format_bytes

LENGTH_STEP = 64  # lengths in remedies are multiples of it
UpperOf = Callable[[MemoryRequest], int]


def plan_request(
    estimator: Estimator,
    request: MemoryRequest,
    budget_bytes: int,
    *,
    checkpointing: Sequence[bool] = (False, True),
    confirm: bool = False,
    remedies_from: UpperOf | None = None,
) -> Plan | NoPlan:
    """Plans a request's effective batch within a budget; see memory_plan.plan.

    The number format stays: another one would compute something else. A sweep searches over `precision` instead, and
    the remedies of a refusal name the formats that fit.

    Args:
        estimator: Gives estimates without a replay: a plan takes milliseconds when its templates exist.
        request: The request; its own accumulation and checkpointing are ignored.
        budget_bytes: Memory limit of the trial on the card.
        checkpointing: Allowed values.
        confirm: Whether to replay the allocator of the result, in tens of milliseconds: where it then exceeds the
            budget, a smaller plan is taken, and the plan has the replayed bytes.
        remedies_from: Estimates other optimizers and lengths when nothing fits; None: the estimator. To avoid new
            traces, pass one that raises LookupError where a template is missing.

    Returns:
        A plan whose upper bytes are at most the budget, or the reason why there is none, with remedies.
    """
    offered_bytes = budget_bytes
    while True:
        found = _planned(estimator, request, offered_bytes, checkpointing)
        if isinstance(found, NoPlan):
            smallest = _variant(request, request.batch_size // request.ranks, found.gradient_checkpointing)
            remedies = _remedies(smallest, budget_bytes, remedies_from or estimator.upper_bytes)
            remedies.append(_larger_card(max(found.smallest_bytes, budget_bytes + 1)))
            return replace(found, budget_bytes=budget_bytes, remedies=tuple(remedies))
        if not confirm:
            return found
        way = _variant(request, found.accumulation, found.gradient_checkpointing)
        replayed_bytes = estimator.estimate(way).upper_bytes
        if replayed_bytes <= budget_bytes:
            return replace(found, upper_bytes=replayed_bytes)
        offered_bytes = found.upper_bytes - 1


def _planned(
    estimator: Estimator, request: MemoryRequest, budget_bytes: int, checkpointing: Sequence[bool]
) -> Plan | NoPlan:
    def upper_bytes(micro_batch: int, accumulation: int, checkpointed: bool) -> int:
        return estimator.upper_bytes(_variant(request, accumulation, checkpointed))

    size = estimator.model_size(request)
    tokens = request.encoder_max_len + request.decoder_max_len
    model = time_model(model_parameters=size.parameters, tokens=tokens, operations=size.operations)
    return plan(request.batch_size // request.ranks, budget_bytes, upper_bytes, model, checkpointing=checkpointing)


def _variant(request: MemoryRequest, accumulation: int, checkpointed: bool) -> MemoryRequest:
    return replace(request, gradient_accumulation_steps=accumulation, gradient_checkpointing=checkpointed)


def _remedies(smallest: MemoryRequest, budget_bytes: int, upper_of: UpperOf) -> list[str]:
    """Returns the single changes that would fit."""
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
    """Returns number formats with less memory than the request's own, the most precise first."""
    whole = request.sharding is None and request.adapter is None
    if request.gpu.sm < BF16_SM or request.precision == "bf16_pure" or not whole:
        return ("bf16",) if request.gpu.sm >= BF16_SM and request.precision == "fp32" else ()
    return ("bf16", "bf16_pure") if request.precision == "fp32" else ("bf16_pure",)


def _halved_generation(request: MemoryRequest) -> list[MemoryRequest]:
    """Returns requests with smaller generation batches, largest first."""
    sizes = []
    size = request.generation_batch_size // 2
    while size >= 1:
        sizes.append(size)
        size //= 2
    return [replace(request, generation_batch_size=size) for size in sizes]


def _shorter(request: MemoryRequest) -> list[MemoryRequest]:
    """Returns requests with shorter dialogues, longest first."""
    longest = (request.encoder_max_len - 1) // LENGTH_STEP * LENGTH_STEP
    return [replace(request, encoder_max_len=length) for length in range(longest, 0, -LENGTH_STEP)]


def _larger_card(needed_bytes: int) -> str:
    total_bytes = int((needed_bytes + RESERVE_BYTES) / (1 - DRIVER_PART)) + 1
    return f"a card of at least {format_bytes(total_bytes)}"
