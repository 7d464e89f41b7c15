"""Plans how to run an effective batch within a memory budget: micro-batch, accumulation, checkpointing. Pure.

A plan does not change the training: micro-batch x accumulation is always the effective batch.
"""

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from tuning_common.errors import RequestError
from tuning_common.units import format_bytes

UpperBytes = Callable[[int, int, bool], int]
"""Upper estimate of device bytes of (micro-batch, accumulation, checkpointing); grows with the micro-batch."""

# The time model's constants are assumptions, not measurements: only the ratio of launch to compute time matters here.
KERNEL_LAUNCH_S = 6e-6  # one eager PyTorch operation on the host
COMPUTE_FLOPS = 125e12  # 40 % of an A100's 312 TFLOP/s in bf16
FLOPS_PER_PARAMETER_AND_TOKEN = 6.0  # 2 forward, 4 backward (Kaplan and others 2020, section 2.1)
RECOMPUTED_PART = 1 / 3  # checkpointing runs the forward pass once more: 4/3 of the time (Chen and others 2016)


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeModel:
    """Seconds of one optimizer step. A micro-step is bound by kernel launches or by computing.

    Attributes:
        launch_s: Minimum time of one micro-step, for any micro-batch.
        sample_s: Compute time of one sample, forward and backward.
        recomputed_part: Additional fraction of both with checkpointing.
    """

    launch_s: float
    sample_s: float
    recomputed_part: float = RECOMPUTED_PART

    def step_s(self, micro_batch: int, accumulation: int, gradient_checkpointing: bool) -> float:
        """Returns the time of one optimizer step.

        >>> model = TimeModel(launch_s=0.02, sample_s=0.005)
        >>> round(model.step_s(2, 8, False), 3), round(model.step_s(16, 1, False), 3)
        (0.16, 0.08)
        """
        factor = 1 + self.recomputed_part if gradient_checkpointing else 1.0
        return accumulation * max(self.launch_s, micro_batch * self.sample_s) * factor


def time_model(*, model_parameters: int, tokens: int, operations: int) -> TimeModel:
    """Returns the time model of a training step from the model's size and the assumed constants.

    Args:
        model_parameters: Number of parameters used for every token.
        tokens: Tokens of one sample, encoder and decoder together.
        operations: Tensor operations of one forward and backward pass.

    >>> model = time_model(model_parameters=125_000_000, tokens=640, operations=2500)
    >>> round(model.launch_s, 4), round(model.sample_s, 5)
    (0.015, 0.00384)
    """
    flops = FLOPS_PER_PARAMETER_AND_TOKEN * model_parameters * tokens
    return TimeModel(launch_s=operations * KERNEL_LAUNCH_S, sample_s=flops / COMPUTE_FLOPS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How to run an effective batch.

    Attributes:
        micro_batch: Samples in one forward pass.
        accumulation: Micro-steps per optimizer step.
        gradient_checkpointing: Whether activations are computed again in the backward pass.
        upper_bytes: Upper estimate of device bytes; at most the budget.
        slowdown: Predicted time of a step relative to the fastest plan with unlimited memory; at least 1.
        reason: Reason of the choice, for people.
    """

    micro_batch: int
    accumulation: int
    gradient_checkpointing: bool
    upper_bytes: int
    slowdown: float
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class NoPlan:
    """Why nothing fits.

    Attributes:
        budget_bytes: The budget.
        smallest_bytes: Bytes of the smallest plan: micro-batch 1, with checkpointing where it is allowed and smaller.
        gradient_checkpointing: Whether the smallest plan uses checkpointing.
        remedies: Changes that would make it fit, as text.
    """

    budget_bytes: int
    smallest_bytes: int
    gradient_checkpointing: bool
    remedies: tuple[str, ...] = ()

    def __str__(self) -> str:
        smallest = "micro-batch 1" + (" with gradient checkpointing" if self.gradient_checkpointing else "")
        text = (
            f"nothing fits in {format_bytes(self.budget_bytes)}: even {smallest} needs"
            f" {format_bytes(self.smallest_bytes)},"
            f" {format_bytes(self.smallest_bytes - self.budget_bytes)} too much"
        )
        return f"{text}; would fit with {', or '.join(self.remedies)}" if self.remedies else text


def plan(
    effective_batch: int,
    budget_bytes: int,
    upper_bytes: UpperBytes,
    model: TimeModel,
    *,
    checkpointing: Sequence[bool] = (False, True),
) -> Plan | NoPlan:
    """Finds the fastest plan for an effective batch within a budget.

    Larger micro-batches are faster, so with and without checkpointing the largest micro-batch that fits is best; a
    bisection over the divisors finds it with a few calls of upper_bytes.

    Args:
        effective_batch: Samples per optimizer step.
        budget_bytes: Memory limit of the trial on the device.
        upper_bytes: Upper estimate of device bytes.
        model: Time of a step.
        checkpointing: Allowed values, for example (True,) where the user requires it.

    Returns:
        The plan, or the reason why there is none (without remedies, which the caller adds).

    Raises:
        RequestError: When the effective batch or the budget is below 1.

    >>> found = plan(64, 8_000, lambda micro, accumulation, ckpt: 1_000 + micro * (100 if ckpt else 400),
    ...              TimeModel(launch_s=0.02, sample_s=0.005))
    >>> found.micro_batch, found.accumulation, found.gradient_checkpointing, found.upper_bytes
    (16, 4, False, 7400)
    """
    if effective_batch < 1 or budget_bytes < 1:
        raise RequestError(
            f"a plan needs an effective batch and a budget of at least 1, but they are {effective_batch} samples and"
            f" {budget_bytes} bytes"
        )
    found: list[tuple[float, int, int, bool]] = []
    for checkpointed in checkpointing:
        micro_batch = _largest_that_fits(effective_batch, budget_bytes, upper_bytes, checkpointed)
        if micro_batch:
            pieces = effective_batch // micro_batch
            needed_bytes = upper_bytes(micro_batch, pieces, checkpointed)
            step_s = round(model.step_s(micro_batch, pieces, checkpointed), 9)  # equal times are a tie: fewer bytes win
            found.append((step_s, needed_bytes, micro_batch, checkpointed))
    if not found:
        smallest = min((upper_bytes(1, effective_batch, choice), choice) for choice in checkpointing)
        return NoPlan(budget_bytes=budget_bytes, smallest_bytes=smallest[0], gradient_checkpointing=smallest[1])
    step_s, needed_bytes, micro_batch, checkpointed = min(found)
    pieces = effective_batch // micro_batch
    slowdown = max(1.0, step_s / model.step_s(effective_batch, 1, False))
    why = "faster so than many small micro-steps" if len(found) > 1 else "nothing fits without it"
    if False not in checkpointing:
        why = "as asked"
    return Plan(
        micro_batch=micro_batch,
        accumulation=pieces,
        gradient_checkpointing=checkpointed,
        upper_bytes=needed_bytes,
        slowdown=slowdown,
        reason=_reason(micro_batch, pieces, slowdown, why if checkpointed else ""),
    )


def _largest_that_fits(
    effective_batch: int, budget_bytes: int, upper_bytes: UpperBytes, checkpointed: bool
) -> int | None:
    # Without accumulation no gradients live beside the activations, so the whole batch is tried on its own: only
    # among micro-batches with accumulation is the estimate sure to grow with the micro-batch.
    if upper_bytes(effective_batch, 1, checkpointed) <= budget_bytes:
        return effective_batch
    smaller = divisors(effective_batch)[:-1]
    fitting = bisect.bisect_left(
        smaller, True, key=lambda micro: upper_bytes(micro, effective_batch // micro, checkpointed) > budget_bytes
    )
    return smaller[fitting - 1] if fitting else None


@lru_cache(maxsize=4096)
def divisors(number: int) -> tuple[int, ...]:
    """Returns all divisors, smallest first.

    >>> divisors(12)
    (1, 2, 3, 4, 6, 12)
    """
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return tuple(sorted({*small, *(number // d for d in small)}))


def _reason(micro_batch: int, pieces: int, slowdown: float, checkpointed_because: str) -> str:
    if pieces == 1 and not checkpointed_because:
        return "the whole batch fits at once, which is the fastest way"
    text = f"the largest micro-batch that fits is {micro_batch}"
    if checkpointed_because:
        text += f" with gradient checkpointing ({checkpointed_because})"
    return f"{text}; a step takes {slowdown:.2f} x the time of one with unlimited memory (predicted, not measured)"
