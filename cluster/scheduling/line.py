"""Trials whose durations are known, largest first, each started on whichever card has room. Pure; numpy only."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from cluster.machines.hardware import Inventory
from cluster.scheduling.backlog import Backlog, Waiting
from cluster.scheduling.lower_bound import fair_prices
from cluster.scheduling.occupancy import Occupancy, Spot
from cluster.scheduling.placement import Choice

_PRICED_BY = 1000  # trials that prices are found with; the others only pay them
_ROUNDS = 8


class Line:
    """The line of waiting trials, and the books of what is free; see backlog and occupancy.

    Args:
        choices: Where each trial may run, and what it holds there.
        inventory: The cards.
        books: What is free on them.
    """

    def __init__(self, choices: Mapping[int, tuple[Choice, ...]], inventory: Inventory, books: Occupancy) -> None:
        bargains = _bargains(choices, inventory)
        self._choices, self._books = bargains.choices, books
        self._backlog = Backlog(ends_by_s=bargains.ends_by_s)
        self._changed: set[str] = set()

    def __len__(self) -> int:
        return len(self._backlog)

    def add(self, number: int) -> None:
        """Puts a trial in line."""
        choices = self._choices[number]
        self._backlog.add(Waiting(number=number, rank=_rank(choices[0]), choices=choices))
        self._changed |= {choice.model for choice in choices}

    def ended(self, spot: Spot) -> None:
        """Hears that a trial is over and that its cards were given back."""
        self._changed.add(spot.model)

    def start(self, now_s: float) -> Iterator[tuple[int, Choice, Spot]]:
        """Yields the trials that start now, each with its cards, which are taken in the books."""
        room = {model: self._books.room(model) for model in self._changed}
        self._changed.clear()
        while (found := self._backlog.start(room, self._books.fits, now_s)) is not None:
            waiting, choice = found
            spot = self._books.take(choice)
            room[choice.model] = self._books.room(choice.model)
            yield waiting.number, choice, spot


def _rank(best: Choice) -> float:
    """Large ones first: width counts more than length, as narrow trials fill what wide ones leave."""
    return -(best.share.gpus**2) * best.expected_s


@dataclass(frozen=True, kw_only=True, slots=True)
class _Bargains:
    """Choices of each trial in the order of their price, and when all could be over."""

    choices: dict[int, tuple[Choice, ...]]
    ends_by_s: float


def _bargains(held: Mapping[int, tuple[Choice, ...]], inventory: Inventory) -> _Bargains:
    """Sorts each trial's choices by what they cost, at prices at which no pool is left over.

    A model on which a trial would run past the end of everything comes last. The end is what the prices say it is, so
    both are found in turns.
    """
    pools = inventory.pools
    if not held:
        return _Bargains(choices={}, ends_by_s=0.0)
    column = {pool.model: number for number, pool in enumerate(pools)}
    durations_s = np.full((len(held), len(pools)), np.inf)
    card_seconds = durations_s.copy()
    for row, choices in enumerate(held.values()):
        for choice in choices:
            durations_s[row, column[choice.model]] = choice.expected_s
            card_seconds[row, column[choice.model]] = choice.share.gpus * choice.expected_s
    quickest_s = durations_s.min(axis=1)
    cards = np.array([pool.cards for pool in pools], dtype=np.float64)
    ends_by_s, prices = float(quickest_s.max()), None
    sample = slice(None, None, max(1, len(card_seconds) // _PRICED_BY))
    for _ in range(_ROUNDS):
        sensible = np.where(durations_s > np.maximum(ends_by_s, quickest_s)[:, None], np.inf, card_seconds)
        prices = fair_prices(sensible[sample], cards, prices)
        needed_s = float(np.min(sensible * prices, axis=1).sum())
        if needed_s <= ends_by_s:
            break
        ends_by_s = needed_s
    assert prices is not None

    def cost(choice: Choice, limit_s: float) -> tuple[bool, float, str]:
        price = float(prices[column[choice.model]])
        return choice.expected_s > limit_s, price * choice.share.gpus * choice.expected_s, choice.model

    ordered = {}
    for row, (number, choices) in enumerate(held.items()):
        limit_s = max(ends_by_s, float(quickest_s[row]))
        ordered[number] = tuple(sorted(choices, key=lambda choice, limit_s=limit_s: cost(choice, limit_s)))  # type: ignore[misc]
    return _Bargains(choices=ordered, ends_by_s=ends_by_s)
