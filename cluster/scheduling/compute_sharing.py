"""How trials on one card share its compute: when each would end, under a simulated clock. Pure; injected time only."""

import heapq
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_TINY_S = 1e-6  # what rounding leaves of a trial that is done
_MOST_STALE = 1000  # foreseen ends that did not come true and are still kept


@dataclass(frozen=True, kw_only=True, slots=True)
class Contention:
    """How trials on one card slow each other down.

    Kernels of different processes take turns on a card. While the trials on it keep less than all of its compute busy,
    none is slowed; beyond that all are, by the same factor. Every further trial may cost a little more than that.

    Attributes:
        overhead: Part by which each co-tenant slows the others down beyond their turns; an assumption, not measured.
    """

    overhead: float = 0.0

    def slowdown(self, busy: Sequence[float]) -> float:
        """Returns how much longer each of the trials with these busy parts takes than alone.

        >>> Contention().slowdown([0.25, 0.5]), Contention().slowdown([0.75, 0.75]), Contention().slowdown([])
        (1.0, 1.5, 1.0)
        >>> Contention(overhead=0.25).slowdown([0.5, 0.5])
        1.25
        """
        return float(self.slowdowns(np.array([math.fsum(busy)]), len(busy))[0])

    def slowdowns(self, busy: Floats, trials: int | NDArray[np.int64]) -> Floats:
        """Returns the same for many cards: how busy all trials on each are together, and how many they are."""
        slowed: Floats = np.maximum(1.0, busy) * (1.0 + self.overhead * np.maximum(0, np.subtract(trials, 1)))
        return slowed


FREE_OF_OVERHEAD = Contention()


@dataclass(slots=True)
class _Card:
    """Progress of a card's trials: all of them advance alike, so one clock of done work serves them all."""

    work_s: float = 0.0
    read_at_s: float = 0.0
    slowdown: float = 1.0
    version: int = 0
    ends: dict[str, float] = field(default_factory=dict)  # trial -> reading of work_s at which it is done
    busy: dict[str, float] = field(default_factory=dict)


class SharedCards:
    """Trials that run on cards, and the next one to end.

    Args:
        contention: How they slow each other down.

    >>> cards = SharedCards(Contention())
    >>> cards.start("a", card=0, work_s=10.0, busy=0.75, now_s=0.0)
    >>> cards.start("b", card=0, work_s=10.0, busy=0.75, now_s=5.0)  # from here both take 1.5 times as long
    >>> cards.next_end(), cards.stop("a", 12.5)
    ((12.5, 'a'), 0.0)
    >>> cards.next_end()  # the second is alone from 12.5 s on, with 5 s of work left
    (17.5, 'b')
    """

    def __init__(self, contention: Contention) -> None:
        self._contention = contention
        self._cards: dict[Hashable, _Card] = {}
        self._card_of: dict[str, Hashable] = {}
        self._ends: list[tuple[float, str, int]] = []  # time and trial, as its card's version foresaw it
        self._versions = 0

    def start(self, trial: str, *, card: Hashable, work_s: float, busy: float, now_s: float) -> None:
        """Begins a trial that would take work_s alone on the card, and keep a part `busy` of it busy."""
        state = self._cards.setdefault(card, _Card())
        self._advance(state, now_s)
        state.ends[trial], state.busy[trial] = state.work_s + work_s, busy
        self._card_of[trial] = card
        self._renew(state, now_s)

    def stop(self, trial: str, now_s: float) -> float:
        """Takes a trial off its card; returns the work that it has left, in seconds alone."""
        state = self._cards[self._card_of.pop(trial)]
        self._advance(state, now_s)
        left_s = max(0.0, state.ends.pop(trial) - state.work_s)
        del state.busy[trial]
        self._renew(state, now_s)
        return left_s if left_s > _TINY_S else 0.0

    def left_s(self, trial: str, now_s: float) -> float:
        """Returns the work that a trial has left, in seconds alone."""
        state = self._cards[self._card_of[trial]]
        return max(0.0, state.ends[trial] - state.work_s - (now_s - state.read_at_s) / state.slowdown)

    def tenants(self, card: Hashable, now_s: float) -> list[tuple[str, float]]:
        """Returns the trials on a card and the work left of each, in seconds alone, the least first."""
        state = self._cards.get(card)
        if state is None:
            return []
        done_s = state.work_s + (now_s - state.read_at_s) / state.slowdown
        left = [(trial, max(0.0, end_s - done_s)) for trial, end_s in state.ends.items()]
        return sorted(left, key=lambda one: (one[1], one[0]))

    def next_end(self) -> tuple[float, str] | None:
        """Returns when the next trial ends, and which; None where none runs."""
        while self._ends:
            time_s, trial, version = self._ends[0]
            if trial in self._card_of and self._cards[self._card_of[trial]].version == version:
                return time_s, trial
            heapq.heappop(self._ends)
        return None

    def _advance(self, state: _Card, now_s: float) -> None:
        state.work_s += (now_s - state.read_at_s) / state.slowdown
        state.read_at_s = now_s

    def _renew(self, state: _Card, now_s: float) -> None:
        self._versions += 1
        state.version = self._versions
        state.slowdown = self._contention.slowdown(tuple(state.busy.values()))
        if state.ends:
            end_s, trial = min((end_s, trial) for trial, end_s in state.ends.items())
            left_s = max(0.0, end_s - state.work_s)
            heapq.heappush(self._ends, (now_s + left_s * state.slowdown, trial, state.version))
        if len(self._ends) > _MOST_STALE + 2 * len(self._cards):
            current = {state.version for state in self._cards.values()}
            self._ends = [end for end in self._ends if end[2] in current]
            heapq.heapify(self._ends)
