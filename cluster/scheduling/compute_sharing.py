"""How trials on one card share its compute: when each would end, under a simulated clock. Pure; injected time only."""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


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
    ends: dict[int, float] = field(default_factory=dict)  # trial -> reading of work_s at which it is done
    busy: dict[int, float] = field(default_factory=dict)


class SharedCards:
    """Trials that run on cards, and the next one to end.

    Args:
        contention: How they slow each other down.

    >>> cards = SharedCards(Contention())
    >>> cards.start(7, card=0, work_s=10.0, busy=0.75, now_s=0.0)
    >>> cards.start(8, card=0, work_s=10.0, busy=0.75, now_s=5.0)  # from here both take 1.5 times as long
    >>> cards.next_end(), cards.next_end()  # the second is alone from 12.5 s on, with 5 s of work left
    ((12.5, 7), (17.5, 8))
    """

    def __init__(self, contention: Contention) -> None:
        self._contention = contention
        self._cards: dict[int, _Card] = {}
        self._events: list[tuple[float, int, int]] = []

    def start(self, trial: int, *, card: int, work_s: float, busy: float, now_s: float) -> None:
        """Begins a trial that would take work_s alone on the card, and keep a part `busy` of it busy."""
        state = self._cards.setdefault(card, _Card())
        self._advance(state, now_s)
        state.ends[trial], state.busy[trial] = state.work_s + work_s, busy
        self._renew(card, state, now_s)

    def tenants(self, card: int, now_s: float) -> list[tuple[int, float]]:
        """Returns the trials on a card and the work left of each, in seconds alone, the least first."""
        state = self._cards.get(card)
        if state is None:
            return []
        done_s = state.work_s + (now_s - state.read_at_s) / state.slowdown
        left = [(trial, max(0.0, end_s - done_s)) for trial, end_s in state.ends.items()]
        return sorted(left, key=lambda one: (one[1], one[0]))

    def peek_s(self) -> float | None:
        """Tells when the next trial ends; None where none runs."""
        while self._events and self._cards[self._events[0][2]].version != self._events[0][1]:
            heapq.heappop(self._events)
        return self._events[0][0] if self._events else None

    def next_end(self) -> tuple[float, int]:
        """Ends the trial that is done first, and returns when, and which."""
        now_s = self.peek_s()
        assert now_s is not None, "nothing runs"
        card = self._events[0][2]
        state = self._cards[card]
        trial = min(state.ends, key=lambda trial: (state.ends[trial], trial))
        state.work_s, state.read_at_s = state.ends[trial], now_s
        del state.ends[trial], state.busy[trial]
        self._renew(card, state, now_s)
        return now_s, trial

    def _advance(self, state: _Card, now_s: float) -> None:
        state.work_s += (now_s - state.read_at_s) / state.slowdown
        state.read_at_s = now_s

    def _renew(self, card: int, state: _Card, now_s: float) -> None:
        state.version += 1
        state.slowdown = self._contention.slowdown(tuple(state.busy.values()))
        if state.ends:
            left_s = max(0.0, min(state.ends.values()) - state.work_s)
            heapq.heappush(self._events, (now_s + left_s * state.slowdown, state.version, card))
