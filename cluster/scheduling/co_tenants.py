"""How many trials a card of each GPU model should take, by the rates that trials report from there. Pure.

A trial's rate is compared only with rates of trials of its kind, so no prediction is needed.
"""

import math
import statistics
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from cluster.scheduling.request import Alternative, Request
from cluster.scheduling.shares import MAX_TENANTS, UNITS, Share

ENOUGH = 4  # rates that are compared; fewer are noise
KEPT = 30  # of each number of trials, the latest
NOISE = 0.03  # part by which totals may differ and count as equal
_WORTH_A_TRIAL = 4  # times as many trials wait as another number would let in: one part to compare, three to gain
_ROUNDS = 5  # of the median polish

Key = TypeVar("Key", str, int)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How fast a trial went while a number of trials ran on its card.

    Attributes:
        model: Label of the GPU model.
        kind: Trials of one kind go equally fast alone.
        tenants: Trials on the card, this one included.
        rate: Work in a second, in any unit that its kind shares; above 0.
    """

    model: str
    kind: str
    tenants: int
    rate: float


@dataclass(slots=True)
class _Card:
    """What is known of the cards of one GPU model."""

    paces: dict[int, deque[Pace]] = field(default_factory=lambda: defaultdict(lambda: deque(maxlen=KEPT)))
    totals: dict[int, float] = field(default_factory=dict)  # of the numbers with enough rates
    best: int = 0  # number of trials with which a card gets most done; 0 before anything is known
    limit: int = 0  # the best, or another number that is tried; 0 while nothing speaks for one
    unread: int = 0  # rates since totals were found, which is done less often once many are known


class CoTenants:
    """Finds the number of trials with which a card gets most done.

    Of numbers with equal totals the smallest is the best. While no smaller number is known, one trial fewer is tried;
    one more than the best is let in as long as that was not seen to lower the total. Another number is tried only while
    so many trials wait that it could pay: a process cannot be reused for a trial with another share. Until a number is
    tried or more are seen to be too many, as many are let in as fill a card by the part that each is expected to keep
    busy, or all where nobody knows.

    Args:
        most: Trials on one card at most.

    Attributes:
        waiting: Trials that wait, for each card.

    >>> found = CoTenants()
    >>> for tenants, rate in ((2, 30.0), (3, 18.0), (3, 18.5), (3, 17.5)) * 4 + ((1, 33.0),) * 4:
    ...     found.observe(Pace(model="A40", kind="t5", tenants=tenants, rate=rate))
    >>> found.limit("A40"), found.lines()
    (2, ['A40: a card gets most done with 2 trials (with 1: 45 % less, with 3: 10 % less)'])
    """

    def __init__(self, most: int = MAX_TENANTS) -> None:
        self._most, self.waiting = most, math.inf
        self._cards: defaultdict[str, _Card] = defaultdict(_Card)

    def observe(self, pace: Pace) -> None:
        """Takes in a rate."""
        card = self._cards[pace.model]
        card.paces[pace.tenants].append(pace)
        card.unread += 1
        known = len(card.paces[pace.tenants])
        if known != ENOUGH and card.unread < (ENOUGH if known < 3 * ENOUGH else KEPT):
            return
        card.unread = 0
        enough = {tenants: paces for tenants, paces in card.paces.items() if len(paces) >= ENOUGH}
        card.totals = _totals(enough)
        if not card.totals:
            return
        most = max(card.totals.values())
        fewest = min(tenants for tenants, total in card.totals.items() if total >= (1 - NOISE) * most)
        if fewest < card.best or card.totals.get(card.best, 0.0) < (1 - 2 * NOISE) * most:
            card.best = fewest
        tried = self._tried(card)
        if self.waiting >= _WORTH_A_TRIAL * tried:
            card.limit = min(self._most, tried)
        elif card.limit != tried and (card.limit or card.best < max(card.totals)):
            card.limit = card.best

    def limit(self, model: str) -> int:
        """Returns how many trials a card of a GPU model takes next time; at least 1."""
        return self._cards[model].limit or self._most

    def _tried(self, card: _Card) -> int:
        """One trial alone may leave half of a card idle, so that is tried only where two were seen to be too many."""
        is_too_many = card.best > 2 or card.totals.get(2, 0.0) > (1 + NOISE) * card.totals.get(3, math.inf)
        if card.best >= 2 and card.best - 1 not in card.totals and is_too_many:
            return card.best - 1
        return card.best + (card.best + 1 not in card.totals)

    def filled_by(self, model: str) -> int | None:
        """Returns how many trials it takes at least to fill a card; None where it was not seen to idle.

        A card idles where one trial more slows nobody down, so each of them keeps no more busy than its part.
        """
        best, totals = self._cards[model].best, self._cards[model].totals
        if best < 2 or best - 1 not in totals or totals[best] / best < (1 - 3 * NOISE) * totals[best - 1] / (best - 1):
            return None
        return min(self._most, best + (best >= max(totals)))

    def limited(self, request: Request, most_units: int = UNITS) -> Request:
        """Returns a request that takes as much of a card that no more trials than the limit fit beside each other.

        Args:
            request: As its memory needs it.
            most_units: No share is made larger than that.
        """
        alternatives = []
        for one in request.alternatives:
            if one.share is not None and one.cards == 1:
                units = max(one.share.units, min(UNITS // self._limit_for(one), most_units))
                filled_by = self.filled_by(one.model)
                busy = one.busy if one.busy is None or filled_by is None else min(one.busy, 1 / filled_by)
                cap_bytes = one.cap_bytes * units // one.share.units
                one = replace(one, share=Share(units=units), busy=busy, cap_bytes=cap_bytes)
            alternatives.append(one)
        return replace(request, alternatives=tuple(alternatives))

    def _limit_for(self, one: Alternative) -> int:
        """Returns how many trials like this a card takes; where its duration is known too, the broker compares more."""
        if self._cards[one.model].limit or not one.busy or one.expected_s is not None:
            return self.limit(one.model)
        return min(self._most, math.ceil(1 / one.busy))

    def lines(self) -> list[str]:
        """Describes each GPU model of which several numbers are compared."""
        return [self._line(model) for model, card in sorted(self._cards.items()) if len(card.totals) > 1]

    def notice(self, model: str) -> str:
        """Says how many trials a card of a GPU model takes from now on, and why."""
        limit, card = self.limit(model), self._cards[model]
        why = f", to compare with {card.best}" if limit < card.best else ""
        reason = f"{self._line(model)}; " if len(card.totals) > 1 else f"{model}: "
        return f"{reason}from now on a card takes at most {limit}{why}"

    def _line(self, model: str) -> str:
        """Compares the best number with the nearest others."""
        best, totals = self._cards[model].best, self._cards[model].totals
        fewer, more = [one for one in totals if one < best], [one for one in totals if one > best]
        nearest = [*([max(fewer)] if fewer else []), *([min(more)] if more else [])]
        others = ", ".join(f"with {tenants}: {_change(totals[tenants] / totals[best])}" for tenants in nearest)
        return f"{model}: a card gets most done with {best} trial{'s' if best > 1 else ''} ({others})"


def _change(ratio: float) -> str:
    percent = round(100 * abs(ratio - 1))
    return f"{percent} % {'less' if ratio < 1 else 'more'}" if percent else "as much"


def _totals(paces: Mapping[int, deque[Pace]]) -> dict[int, float]:
    """Returns what a card gets done with each number of trials, relative to each other, where trials are comparable.

    Median polish (Tukey, Exploratory Data Analysis, 1977): the logarithm of a rate is taken for the sum of what its
    kind and what the number of trials contributes.
    """
    logs = [(pace.kind, tenants, math.log(pace.rate)) for tenants, some in paces.items() for pace in some]
    of_tenants = dict.fromkeys(paces, 0.0)
    for _ in range(_ROUNDS):
        of_kind = _medians([(kind, log - of_tenants[tenants]) for kind, tenants, log in logs])
        of_tenants = _medians([(tenants, log - of_kind[kind]) for kind, tenants, log in logs])
    return {tenants: tenants * math.exp(effect) for tenants, effect in of_tenants.items()}


def _medians(values: list[tuple[Key, float]]) -> dict[Key, float]:
    by_key: defaultdict[Key, list[float]] = defaultdict(list)
    for key, value in values:
        by_key[key].append(value)
    return {key: statistics.median(found) for key, found in by_key.items()}
