"""No placement of these trials can end earlier: bin packing over time, on unequal cards. Pure; numpy only.

At every moment the trials on a card pack into it, so a bound for bin packing, multiplied by time, bounds the makespan.
Sizes go through dual feasible functions, which count what cannot stand beside each other: two trials of 0.7 of a card
need two cards, though together they are 1.4. Functions: Martello and Toth, "Lower bounds and reduction procedures for
the bin packing problem", Discrete Applied Mathematics 28 (1990), L2; Fekete and Schepers, "New classes of fast lower
bounds for bin packing problems", Mathematical Programming 91 (2001).

On unequal cards each trial may go to any pool that holds it. That assignment is a linear program; every set of prices
of the pools bounds its value from below (weak duality), so a search for good prices can only be too low, never wrong.

Memory and compute together say more than either: a trial that leaves little memory and much compute free wastes the
compute. What mixes of trials can make of a card (mixes) is counted where there are many trials; of few it says
little, as no card has a mix for long.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluster.scheduling.mixes import Kinds, Mixes

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
_THRESHOLDS = tuple(n / 20 for n in range(1, 11))
_DIVISORS = (1, 2, 3, 4, 5, 7)
_TINY = 1e-9
_REFINED = 3  # functions whose prices are searched for one by one
_FINEST_STEP = 5e-3
_MANY = 100  # trials from which on mixes of them are counted
_MANY_KINDS = 80
_STEPS = ((240, 80, 1000), (60, 20, 50), (24, 10, 20), (12, 5, 5))  # of memory, compute and speed, finest first


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """What one trial takes on each pool of cards, as far as no policy can take less.

    Attributes:
        parts: Part of a card's memory that it holds, for each pool; infinite where it does not fit. Several whole cards
            count as their number.
        durations_s: How long it runs there alone.
        busy: Part of a card's compute that it keeps busy meanwhile.
    """

    parts: tuple[float, ...]
    durations_s: tuple[float, ...]
    busy: float = 0.0


def lower_bound_s(loads: Sequence[Load], pool_cards: Sequence[int]) -> float:
    """Returns a time before which no placement can have ended all trials.

    Args:
        loads: The trials; each fits at least one pool.
        pool_cards: Number of cards in each pool.

    >>> whole = Load(parts=(0.75,), durations_s=(10.0,))
    >>> lower_bound_s([whole] * 4, [2])  # they cannot share a card, though 4 x 0.75 is 3 cards only
    20.0
    >>> lower_bound_s([Load(parts=(0.25,), durations_s=(10.0,))] * 6, [1])
    15.0
    """
    if not loads:
        return 0.0
    parts = np.array([load.parts for load in loads], dtype=np.float64)
    durations_s = np.array([load.durations_s for load in loads], dtype=np.float64)
    busy = np.array([load.busy for load in loads], dtype=np.float64)
    cards = np.array(pool_cards, dtype=np.float64)
    fits = np.isfinite(parts)
    longest_s = float(np.where(fits, durations_s, np.inf).min(axis=1).max())
    sizes = np.where(fits, parts, 0.0)
    areas = [function(sizes) for function in _functions()]
    areas.append(np.broadcast_to(np.minimum(busy, 1.0)[:, None], parts.shape))
    card_seconds = [np.where(fits, area * durations_s, np.inf) for area in areas]
    prices = fair_prices(card_seconds[0], cards)
    at_those = [_value(needed, prices) for needed in card_seconds]
    promising = sorted(range(len(areas)), key=lambda number: -at_those[number])[:_REFINED]
    refined = [_value(card_seconds[number], fair_prices(card_seconds[number], cards, prices)) for number in promising]
    together = [] if len(loads) < _MANY else [_mixed_s(sizes, fits, durations_s, np.minimum(busy, 1.0), pool_cards)]
    return max(longest_s, *at_those, *refined, *together)


def _mixed_s(sizes: Floats, fits: Bools, durations_s: Floats, busy: Floats, pool_cards: Sequence[int]) -> float:
    """The least time of any mixes. Trials count as a little smaller and quicker, so that they are of few kinds."""
    card_s = np.where(fits, durations_s * np.maximum(sizes, 1.0), np.inf)  # those of several cards hold all of each
    quickest_s = card_s.min(axis=1)
    rates = np.where(fits, quickest_s[:, None] / np.where(fits, card_s, 1.0), 0.0)
    parts = np.where(fits, np.minimum(sizes, 1.0), 2.0)
    for memory_steps, busy_steps, rate_steps in _STEPS:
        if float(parts.min()) * memory_steps < 1:
            break
        keys = np.concatenate(
            [
                np.floor(busy * busy_steps + _TINY)[:, None] / busy_steps,
                np.floor(parts * memory_steps + _TINY) / memory_steps,
                np.ceil(rates * rate_steps - _TINY) / rate_steps,
            ],
            axis=1,
        )
        kinds, kind_of = np.unique(keys, axis=0, return_inverse=True)
        if len(kinds) <= _MANY_KINDS:
            pools = len(pool_cards)
            mixes = Mixes(
                Kinds(busy=kinds[:, 0], parts=kinds[:, 1 : 1 + pools], rates=kinds[:, 1 + pools :]),
                np.array(pool_cards, dtype=np.int64),
                memory_steps=memory_steps,
                busy_steps=busy_steps,
            )
            work_s = np.bincount(kind_of.ravel(), weights=quickest_s).astype(np.float64)
            return mixes.prices(work_s).least_s
    return 0.0


def fair_prices(card_seconds: Floats, cards: Floats, start: Floats | None = None) -> Floats:
    """Finds what a second of a card of each pool is worth, so that no pool is the better bargain for all.

    A trial belongs where its card-seconds times the price are least. The prices of all cards together add up to 1, and
    the trials' cheapest costs together are a time before which they cannot all be done.

    Args:
        card_seconds: What each trial takes of each pool [trials, pools]; infinite where it does not fit.
        cards: Number of cards [pools].
        start: Where the search begins.

    >>> slow_and_quick = np.array([[20.0, 10.0]] * 8)
    >>> fair_prices(slow_and_quick, np.array([2.0, 1.0])).round(2)  # two slow cards are as good as one quick one
    array([0.25, 0.5 ])
    """
    prices = 1.0 / cards / len(cards) if start is None else start
    best, step = _value(card_seconds, prices), 1.0
    while len(cards) > 1 and step > _FINEST_STEP:
        better = False
        for pool, factor in ((pool, factor) for pool in range(len(cards)) for factor in (1 + step, 1 / (1 + step))):
            changed = prices.copy()
            changed[pool] *= factor
            changed /= (changed * cards).sum()
            value = _value(card_seconds, changed)
            if value > best * (1 + _TINY):
                best, prices, better = value, changed, True
        step = step if better else step / 2
    return prices


def _value(card_seconds: Floats, prices: Floats) -> float:
    return float(np.min(card_seconds * prices, axis=1).sum())


def _functions() -> Iterator[Callable[[Floats], Floats]]:
    """Dual feasible functions: f(a) + f(b) + ... <= 1 wherever a + b + ... <= 1."""
    yield lambda sizes: sizes
    for threshold in _THRESHOLDS:
        yield lambda sizes, t=threshold: _exclusive(sizes, t)  # type: ignore[misc]
    for k in _DIVISORS:
        yield lambda sizes, k=k: _in_steps(sizes, k)  # type: ignore[misc]


def _exclusive(sizes: Floats, threshold: float) -> Floats:
    """What leaves less than the threshold free takes the whole card; what is smaller than it counts nothing."""
    whole = np.where((sizes > 1 - threshold + _TINY) & (sizes < 1), 1.0, sizes)
    return np.where(sizes < threshold - _TINY, 0.0, whole)


def _in_steps(sizes: Floats, k: int) -> Floats:
    """At most k trials of more than 1/(k + 1) share a card."""
    scaled = sizes * (k + 1)
    exact = np.abs(scaled - np.round(scaled)) < _TINY
    return np.where(exact | (sizes >= 1), sizes, np.floor(scaled + _TINY) / k)
