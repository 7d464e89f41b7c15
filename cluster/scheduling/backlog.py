"""Trials that wait, and which of them starts where now. Pure; must not import Ray, NVML, torch or read a clock."""

import heapq
from bisect import bisect_left, insort
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cluster.scheduling.placement import Choice

Kind = tuple[tuple[str, int, int], ...]
_WORTH_WAITING = 1.25  # so much longer than on its quickest model a trial may take and still start elsewhere at once


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """A trial that waits.

    Attributes:
        number: Identifies it.
        rank: Place in the line; the smallest is first.
        choices: Where it may run, the best bargain first.
    """

    number: int
    rank: float
    choices: tuple[Choice, ...]

    @property
    def kind(self) -> Kind:
        """Trials of one kind fit in the same places."""
        return tuple((choice.model, choice.share.units, choice.share.cards) for choice in self.choices)

    @property
    def quickest_s(self) -> float:
        """Its duration on its quickest model."""
        return min(choice.expected_s for choice in self.choices)


class Backlog:
    """The line of waiting trials.

    Whenever there is room, the first trial for whose best model there is room starts there; where there is none, the
    first that fits another model with room, so that no card idles while a trial that fits waits. One exception: where a
    slow model would take a trial beyond `ends_by_s` although a quicker one could have it, it waits for the quicker one.

    Args:
        ends_by_s: When all trials can be over at best.
    """

    def __init__(self, *, ends_by_s: float) -> None:
        self._ends_by_s = ends_by_s
        self._kinds: dict[Kind, list[tuple[float, int, Waiting]]] = {}
        self._heads: list[tuple[float, int, Kind]] = []

    def __len__(self) -> int:
        return sum(map(len, self._kinds.values()))

    def add(self, waiting: Waiting) -> None:
        """Puts a trial in line."""
        heap = self._kinds.setdefault(waiting.kind, [])
        if heap:
            self._drop_head(heap[0][2])
        heapq.heappush(heap, (waiting.rank, waiting.number, waiting))
        self._show_head(heap)

    def start(
        self, room: Mapping[str, int], fits: Callable[[Choice], bool], now_s: float
    ) -> tuple[Waiting, Choice] | None:
        """Takes the trial that starts now out of the line.

        Args:
            room: Units free on the emptiest card of each model that shall be looked at.
            fits: Whether a choice fits by everything else.
            now_s: The time.

        Returns:
            The trial and where it starts; None where nothing fits.
        """
        found = self._first_that_fits(room, fits, now_s)
        if found is None:
            return None
        waiting, _ = found
        self._drop_head(waiting)
        heap = self._kinds[waiting.kind]
        heapq.heappop(heap)
        if heap:
            self._show_head(heap)
        return found

    def _first_that_fits(
        self, room: Mapping[str, int], fits: Callable[[Choice], bool], now_s: float
    ) -> tuple[Waiting, Choice] | None:
        second_best: tuple[Waiting, Choice] | None = None
        for _, _, kind in self._heads:
            for number, (model, units, _) in enumerate(kind):
                if units > room.get(model, 0) or (number and second_best):
                    continue
                waiting = self._kinds[kind][0][2]
                choice = waiting.choices[number]
                if not fits(choice):
                    continue
                if number == 0:
                    return waiting, choice
                if self._soon_enough(waiting, choice, now_s):
                    second_best = waiting, choice
        return second_best

    def _soon_enough(self, waiting: Waiting, choice: Choice, now_s: float) -> bool:
        return choice.expected_s <= _WORTH_WAITING * waiting.quickest_s or now_s + choice.expected_s <= self._ends_by_s

    def _drop_head(self, waiting: Waiting) -> None:
        del self._heads[bisect_left(self._heads, (waiting.rank, waiting.number, waiting.kind))]

    def _show_head(self, heap: list[tuple[float, int, Waiting]]) -> None:
        rank, number, waiting = heap[0]
        insort(self._heads, (rank, number, waiting.kind))
