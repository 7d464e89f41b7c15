"""A made-up sweep over the four model families, for simulations without a data set or a model. Pure.

Every number here is an assumption, named where it is used; none is a measurement: the mix has the spread of sizes and
durations that a sweep of summarizers has, no more.
"""

import random
from dataclasses import dataclass

from cluster.machines.hardware import Inventory, Pool
from cluster.scheduling.alternatives import Need, explain_refusal, find_alternatives
from cluster.scheduling.request import Request
from cluster.scheduling.shares import MAX_TENANTS
from cluster.scheduling.simulation import SimulatedTrial


@dataclass(frozen=True, kw_only=True, slots=True)
class _Family:
    name: str
    parameters: float
    layers: int  # of 768 features, encoder and decoder together
    vocabulary: int
    logits_everywhere: bool = False  # a decoder-only model has logits at the dialogue's positions, too


_FAMILIES = (
    _Family(name="kobart", parameters=124e6, layers=12, vocabulary=30_000),
    _Family(name="kogpt2", parameters=125e6, layers=12, vocabulary=51_200, logits_everywhere=True),
    _Family(name="t5", parameters=223e6, layers=24, vocabulary=32_128),
    _Family(name="mt5", parameters=582e6, layers=24, vocabulary=250_112),
)
_STATE_BYTES = 16  # of a parameter: fp32 weight and gradient, two AdamW moments
_LAYER_BYTES = (
    34 * 768
)  # of a token: activations in 16 bits without an attention matrix (Korthikanti et al. 2022, eq. 2)
_LOGIT_BYTES = 10  # of a vocabulary entry at a position: 16 bits, fp32 copy, fp32 gradient
_CONTEXT_BYTES = 600 * 2**20
_MARGIN = 1.1  # upper over predicted
_TARGET = 128  # tokens of a summary
_DIALOGUES = 12_000
_OPERATIONS_PER_S = 3e13  # that a card of speed 1 really reaches
_HALF_BUSY_TOKENS = 4096  # in a micro-batch, at which half of the time is kernels


@dataclass(frozen=True, kw_only=True, slots=True)
class Synthetic:
    """Trials that were drawn.

    Attributes:
        trials: Those that fit somewhere, the largest first, as a sweep submits them.
        refused: Why each of the others fits nowhere.
    """

    trials: tuple[SimulatedTrial, ...]
    refused: tuple[str, ...]


def synthetic_trials(
    count: int,
    inventory: Inventory,
    *,
    seed: int = 0,
    busy: float | None = None,
    known: bool = True,
    noise: float = 0.0,
    max_tenants: int = MAX_TENANTS,
) -> Synthetic:
    """Draws trials: a family, a batch of 4 to 32, 256 to 1,024 tokens, 2 to 10 epochs of which half are cut by a rung.

    On a card that is too small the micro-batch is halved until it fits, as the memory plan does.

    Args:
        count: Number of trials.
        inventory: Where they shall run.
        seed: The same seed draws the same trials.
        busy: Part of a card's compute that each keeps busy alone; None follows the tokens in a micro-batch.
        known: Whether the broker knows durations and busy parts.
        noise: Part by which an expected duration is at most wrong.
        max_tenants: Most trials on one card.

    >>> from cluster.machines.hardware import parse_simulated
    >>> drawn = synthetic_trials(3, parse_simulated("1x24GiB"), seed=1)
    >>> [(one.request.name, one.request.alternatives[0].upper_bytes >> 30) for one in drawn.trials]
    [('mt5-00002', 22), ('mt5-00003', 14), ('kogpt2-00001', 5)]
    """
    draw, errors = random.Random(seed), random.Random(f"noise {seed}")
    trials, refused = [], []
    for number in range(1, count + 1):
        family = draw.choice(_FAMILIES)
        batch, length, epochs = draw.choice((4, 8, 16, 32)), draw.choice((256, 512, 768, 1024)), draw.randint(2, 10)
        done = draw.choice((1.0, draw.uniform(0.1, 0.5)))
        work_s = 6 * family.parameters * (length + _TARGET) * _DIALOGUES * epochs * done / _OPERATIONS_PER_S
        tokens = batch * (length + _TARGET)
        part = tokens / (tokens + _HALF_BUSY_TOKENS) if busy is None else busy
        expected_s = work_s * (1 + errors.uniform(-noise, noise))
        needs = [
            Need(
                upper_bytes=_fitted(family, batch, length, pool),
                model=pool.model,
                expected_s=expected_s if known else None,
                busy=part if known else None,
            )
            for pool in inventory.pools
        ]
        name = f"{family.name}-{number:05}"
        alternatives = find_alternatives(needs, inventory, max_tenants=max_tenants)
        if alternatives:
            request = Request(name=name, sweep="synthetic", alternatives=alternatives)
            trials.append(SimulatedTrial(request=request, work_s=work_s, busy=part))
        else:
            refused.append(explain_refusal(name, needs, inventory))
    largest_first = sorted(trials, key=_size)
    return Synthetic(trials=tuple(largest_first), refused=tuple(refused))


def _size(trial: SimulatedTrial) -> tuple[float, int, str]:
    request = trial.request
    return (-request.least_gpus, -max(one.upper_bytes for one in request.alternatives), request.name)


def _fitted(family: _Family, batch: int, length: int, pool: Pool) -> int:
    while batch > 1 and _upper_bytes(family, batch, length) > pool.usable_bytes:
        batch //= 2
    return _upper_bytes(family, batch, length)


def _upper_bytes(family: _Family, micro_batch: int, length: int) -> int:
    positions = length + _TARGET if family.logits_everywhere else _TARGET
    per_dialogue = (length + _TARGET) * family.layers * _LAYER_BYTES + positions * family.vocabulary * _LOGIT_BYTES
    return int(_MARGIN * (family.parameters * _STATE_BYTES + micro_batch * per_dialogue + _CONTEXT_BYTES))
