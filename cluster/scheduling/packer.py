"""Packing with all trials known beforehand: which of them starts on which card now. Pure; must not import Ray or torch.

Memory decides what can stand side by side, compute how quickly it gets on. So a card gets the trials that make most of
it together, each kind's progress at the price that mixes finds for what is still to be done; and long trials
start early, so that none is left for the end.
"""

import math
from bisect import insort
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cluster.machines.hardware import Inventory
from cluster.scheduling.compute_sharing import Contention, SharedCards
from cluster.scheduling.mixes import Floats, Ints, Kinds, Mixes
from cluster.scheduling.occupancy import Occupancy, Spot
from cluster.scheduling.placement import Choice
from cluster.scheduling.shares import UNITS

Start = tuple[int, Choice, Spot]
_REPRICED = 20  # times that prices are found anew, each time after as much work was started
_GREED = 2.0  # how much more a card's progress counts than the length of the trial that starts
_HORIZON = 1.06  # times the end that prices foresee: crowding that would end later waits. Found by trying: less
# leaves slow cards idle, more lets long trials be slowed down at the end
_BUSY_ROUNDED_TO = (10_000, 100, 20, 10)  # steps of a card's compute, of which the first is taken that suffices
_MANY_KINDS = 150
_LEAST_WORTH = 1e-3  # of its fair part of a card: no trial's progress is worth nothing
_TINY = 1e-9
_NOTHING = np.zeros(1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tenants:
    """The trials on a card.

    Attributes:
        left_s: Work left of each, in seconds alone on this card, the least first.
        busy: Part of the card's compute that each keeps busy alone.
        worth: Of all their progress in a second, were none slowed down.
    """

    left_s: Floats
    busy: Floats
    worth: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidates:
    """What waits, as one card sees it: the longest trial of each kind.

    Attributes:
        units: What each holds of the card.
        busy: Part of the card's compute that each keeps busy alone.
        worth: Of the progress of each in a second alone on this card.
        lasts_s: How long each takes alone on this card; infinite where it cannot run.
        quickest_s: How long each takes alone on its quickest card.
    """

    units: Ints
    busy: Floats
    worth: Floats
    lasts_s: Floats
    quickest_s: Floats


def next_start(
    tenants: Tenants, waiting: Candidates, *, free_units: int, time_left_s: float, contention: Contention
) -> int | None:
    """Chooses what starts on a card beside those that run there.

    Of what fits, whatever makes the card's progress worth more may start. That of the best two together counts, so that
    large ones are not preferred to what fills the card; among near equals the longest starts. A trial that would be
    slowed down, or slow others down, beyond the end of everything waits; so does one on a slow card that a quicker
    one could end in time. Where nobody is slowed down and no card is quicker, whatever fits may start.

    Args:
        tenants: Who runs on the card.
        waiting: Who may start.
        free_units: Of the card's memory, as shares.
        time_left_s: Until all trials should be over.
        contention: How co-tenants slow each other down.

    Returns:
        Place in `waiting`; None where nothing should start now.

    >>> nobody = Tenants(left_s=np.array([]), busy=np.array([]), worth=0.0)
    >>> lasts_s = np.array([30.0, 20.0])
    >>> waiting = Candidates(units=np.array([9000, 4000]), busy=np.array([0.9, 0.4]), worth=np.array([0.9, 0.5]),
    ...     lasts_s=lasts_s, quickest_s=lasts_s)
    >>> free = {"free_units": 10000, "time_left_s": 100.0, "contention": Contention()}
    >>> next_start(nobody, waiting, **free)  # two of the second make more of the card, but the first is longer
    0
    >>> one = Tenants(left_s=np.array([50.0]), busy=np.array([0.6]), worth=0.5)
    >>> next_start(one, waiting, **free | {"free_units": 5000})
    1
    """
    fits = np.isfinite(waiting.lasts_s) & (waiting.units <= free_units)
    if not fits.any():
        return None
    places = np.flatnonzero(fits)
    units, busy, worth = waiting.units[places], waiting.busy[places], waiting.worth[places]
    count, used = len(tenants.busy), float(tenants.busy.sum())
    together = used + busy
    slowdown = contention.slowdowns(together, count + 1)
    now_worth = tenants.worth / contention.slowdown(tuple(tenants.busy))
    then_worth = (tenants.worth + worth) / slowdown
    pair_slowdown = contention.slowdowns(together[:, None] + busy, count + 2)
    pair_worth = (tenants.worth + worth[:, None] + worth) / pair_slowdown
    pair_worth[units[:, None] + units > free_units] = 0.0
    best_worth = np.maximum(then_worth, pair_worth.max(axis=1))
    lasts_s = waiting.lasts_s[places]
    late = _last_end_s(tenants, lasts_s, busy, contention) > time_left_s * (1 + _TINY)
    slower = lasts_s > waiting.quickest_s[places] * (1 + _TINY)
    waits = late & (slower | (slowdown > 1 + _TINY))
    useful = ~waits & (then_worth > now_worth * (1 + _TINY))
    if not useful.any():
        return None
    ranks = waiting.quickest_s[places] * (best_worth / best_worth[useful].max()) ** _GREED
    return int(places[np.where(useful, ranks, -1.0).argmax()])


def _last_end_s(tenants: Tenants, lasts_s: Floats, busy: Floats, contention: Contention) -> Floats:
    """When a card would be empty again if each of these alone joined its tenants, and nobody after it."""
    from_s = np.concatenate([[0.0], tenants.left_s[:-1]]) if len(tenants.left_s) else tenants.left_s
    lengths_s = tenants.left_s - from_s
    used, count = tenants.busy[::-1].cumsum()[::-1], np.arange(len(tenants.busy), 0, -1)
    shared_s = np.clip(lasts_s[:, None] - from_s, 0.0, lengths_s)
    with_it = contention.slowdowns(used + busy[:, None], count + 1)
    without_it = contention.slowdowns(used, count)
    alone_s = np.maximum(0.0, lasts_s - (tenants.left_s[-1] if len(tenants.left_s) else 0.0))
    ends_s: Floats = (shared_s * with_it + (lengths_s - shared_s) * without_it).sum(axis=1) + alone_s
    return ends_s


@dataclass(frozen=True, kw_only=True, slots=True)
class _Known:
    """All trials, by kind; arrays [kinds, pools] unless said otherwise."""

    kinds: Kinds
    units: Ints
    kind_of: Mapping[int, int]
    quickest_s: Mapping[int, float]


class Packer:
    """Starts trials on cards; see next_start.

    Args:
        choices: Where each trial may run, and what it holds there.
        busy: Part of a card's compute that each keeps busy alone.
        inventory: The cards.
        books: What is free on them.
        cards: Who runs on them.
        contention: How co-tenants slow each other down.
    """

    def __init__(
        self,
        choices: Mapping[int, tuple[Choice, ...]],
        busy: Sequence[float],
        inventory: Inventory,
        books: Occupancy,
        cards: SharedCards,
        contention: Contention,
    ) -> None:
        self._choices, self._busy, self._books, self._cards, self._contention = choices, busy, books, cards, contention
        self._pools = [pool.model for pool in inventory.pools]
        self._known = _known(choices, busy, self._pools)
        kinds = self._known.kinds
        counts = np.array([pool.cards for pool in inventory.pools], dtype=np.int64)
        self._mixes = Mixes(kinds, counts, busy_steps=40)
        self._lines: list[list[tuple[float, int]]] = [[] for _ in kinds.busy]  # of each kind, the longest last
        self._heads_s = np.zeros(len(kinds.busy))
        self._several: list[int] = []  # that take several whole cards, the longest first
        self._to_start_s = np.zeros(len(kinds.busy))
        for number, kind in self._known.kind_of.items():
            self._to_start_s[kind] += self._known.quickest_s[number]
        self._step_s = float(self._to_start_s.sum()) / _REPRICED
        self._reprice_below_s = math.inf
        self._worth = np.zeros(kinds.rates.shape)
        self._ends_by_s = 0.0
        self._card_ends_s = np.zeros(inventory.cards)
        self._running: dict[int, None] = {}  # cards that ever ran something
        self._visit: dict[int, None] = {}  # cards to be looked at now
        self._visit_all = False

    def __len__(self) -> int:
        return sum(map(len, self._lines)) + len(self._several)

    def add(self, number: int) -> None:
        """Puts a trial in line."""
        if any(choice.share.cards > 1 for choice in self._choices[number]):
            insort(self._several, number, key=lambda one: (-self._known.quickest_s[one], one))
        else:
            kind = self._known.kind_of[number]
            insort(self._lines[kind], (self._known.quickest_s[number], -number))
            self._heads_s[kind] = self._lines[kind][-1][0]
        self._visit_all = True

    def ended(self, spot: Spot) -> None:
        """Hears that a trial is over and that its cards were given back."""
        for key in spot.keys:
            self._visit.update(dict.fromkeys(self._books.beside(key)))

    def start(self, now_s: float) -> Iterator[Start]:
        """Yields the trials that start now, each with its cards, which are taken in the books.

        Whoever iterates tells SharedCards of each before it asks for the next.
        """
        yield from self._start_several()
        self._reprice(now_s)
        if self._visit_all:
            self._visit.update(dict.fromkeys(key for model in self._pools for key in self._books.with_room(model)))
            self._visit_all = False
        visited = sorted(self._visit, key=lambda key: (-self._speed(key), key))
        self._visit.clear()
        for key in visited:
            yield from self._fill(key, now_s)

    def _speed(self, key: int) -> float:
        return float(self._known.kinds.rates[:, self._pools.index(self._books.model(key))].mean())

    def _start_several(self) -> Iterator[Start]:
        """Trials of several whole cards have the first word where enough cards are empty."""
        for number in tuple(self._several):
            choice = next((one for one in self._choices[number] if self._books.fits(one)), None)
            if choice is None:
                continue
            spot = self._books.take(choice)
            self._several.remove(number)
            yield self._started(number, choice, spot)

    def _fill(self, key: int, now_s: float) -> Iterator[Start]:
        model = self._books.model(key)
        pool = self._pools.index(model)
        while (free_units := self._books.free_units(key)) > 0:
            tenants = self._read(key, pool, now_s)
            self._card_ends_s[key] = now_s + float(_last_end_s(tenants, _NOTHING, _NOTHING, self._contention)[0])
            kind = next_start(
                tenants,
                self._candidates(pool),
                free_units=free_units,
                time_left_s=max(self._ends_by_s, float(self._card_ends_s.max())) - now_s,
                contention=self._contention,
            )
            if kind is None:
                return
            number = -self._lines[kind].pop()[1]
            self._heads_s[kind] = self._lines[kind][-1][0] if self._lines[kind] else 0.0
            choice = next(one for one in self._choices[number] if one.model == model)
            yield self._started(number, choice, self._books.take(choice, key))

    def _started(self, number: int, choice: Choice, spot: Spot) -> Start:
        kind = self._known.kind_of[number]
        self._to_start_s[kind] = max(0.0, self._to_start_s[kind] - self._known.quickest_s[number])
        self._running[spot.keys[0]] = None
        return number, choice, spot

    def _read(self, key: int, pool: int, now_s: float) -> Tenants:
        found = self._cards.tenants(key, now_s)
        kinds = [self._known.kind_of[number] for number, _ in found]
        return Tenants(
            left_s=np.array([left_s for _, left_s in found]),
            busy=np.array([self._busy[number] for number, _ in found]),
            worth=float(self._worth[kinds, pool].sum()),
        )

    def _candidates(self, pool: int) -> Candidates:
        rates = self._known.kinds.rates[:, pool]
        runs = (self._heads_s > 0) & (rates > 0)
        return Candidates(
            units=self._known.units[:, pool],
            busy=self._known.kinds.busy,
            worth=self._worth[:, pool],
            lasts_s=np.divide(self._heads_s, rates, out=np.full(len(rates), np.inf), where=runs),
            quickest_s=self._heads_s,
        )

    def _reprice(self, now_s: float) -> None:
        """Finds prices anew after a part of the work was started, and looks again at cards with compute to spare."""
        to_start_s = float(self._to_start_s.sum())
        if to_start_s > self._reprice_below_s or not len(self):
            return
        self._reprice_below_s = to_start_s - self._step_s
        prices = self._mixes.prices(self._to_start_s)
        kinds = self._known.kinds
        held = np.where(kinds.rates > 0, np.maximum(kinds.parts, kinds.busy[:, None]), np.inf).min(axis=1)
        progress = np.maximum(prices.progress, _LEAST_WORTH * held / len(self._card_ends_s))
        self._worth = progress[:, None] * kinds.rates
        left = self._to_start_s.copy()
        for key in self._running:
            pool = self._pools.index(self._books.model(key))
            for number, left_s in self._cards.tenants(key, now_s):
                kind = self._known.kind_of[number]
                left[kind] += left_s * kinds.rates[kind, pool]
        self._ends_by_s = now_s + _HORIZON * float(progress @ left)
        self._visit_all = True


def _known(choices: Mapping[int, tuple[Choice, ...]], busy: Sequence[float], pools: Sequence[str]) -> _Known:
    """Sorts trials into kinds; where they are of too many kinds, by coarser steps of busy parts."""
    quickest_s = {number: min(one.expected_s for one in some) for number, some in choices.items()}
    for steps in _BUSY_ROUNDED_TO:
        keys: dict[tuple[tuple[int, float], ...], int] = {}
        kind_of, kind_busy = {}, []
        for number, some in choices.items():
            busy_steps = math.ceil(min(1.0, busy[number]) * steps - _TINY)
            by_model = {one.model: one for one in some}
            key = ((busy_steps, 0.0), *(_on_pool(by_model.get(model), quickest_s[number]) for model in pools))
            if key not in keys:
                kind_busy.append(busy_steps / steps)
            kind_of[number] = keys.setdefault(key, len(keys))
        if len(keys) <= _MANY_KINDS:
            break
    table = np.array([key[1:] for key in keys], dtype=np.float64).reshape(len(keys), len(pools), 2)
    kinds = Kinds(parts=table[:, :, 0] / UNITS, busy=np.array(kind_busy), rates=table[:, :, 1])
    return _Known(kinds=kinds, units=table[:, :, 0].astype(np.int64), kind_of=kind_of, quickest_s=quickest_s)


def _on_pool(choice: Choice | None, quickest_s: float) -> tuple[int, float]:
    """Returns the units that a trial holds, and its progress in a second, of which several cards each make a part."""
    if choice is None:
        return 2 * UNITS, 0.0
    rate = quickest_s / choice.expected_s if choice.expected_s > 0 else 1.0
    return choice.share.units, round(rate / choice.share.cards, 3)
