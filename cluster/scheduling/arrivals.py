"""A sweep's line under a simulated clock: trials in their order, each started as the real line would. Pure."""

import heapq
from bisect import insort
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from cluster.scheduling.fair_line import FairLine, Reach, Turn
from cluster.scheduling.occupancy import Occupancy, Spot
from cluster.scheduling.placement import Choice

Kind = tuple[tuple[str, int, int, bool], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Waiting:
    """A trial that waits; see fair_line.Waits."""

    number: int
    place: int
    choices: tuple[Choice, ...]

    @property
    def name(self) -> str:
        return str(self.number)


@dataclass(kw_only=True, slots=True)
class _Alike:
    """Trials that fit in the same places, in the order of the line: the first ones were overtaken most often."""

    models: frozenset[str]
    impatient: deque[_Waiting] = field(default_factory=deque)
    patient: deque[_Waiting] = field(default_factory=deque)

    def first(self) -> _Waiting | None:
        return self.impatient[0] if self.impatient else self.patient[0] if self.patient else None


class ArrivalLine:
    """The line of trials in the order in which they were added, and the books of what is free.

    Which of them starts where is fair_line's decision. It looks at a line from its head; where thousands wait, it is
    shown those alone that can change what it decides: the first of each kind, as the others of a kind fit no better; of
    those for whom a model is kept, the first on each model; and those that just lost their patience.

    Args:
        choices: Where each trial may run, and what it holds there.
        books: What is free on the cards.
        patience: How often a trial may be overtaken.
        reach: How far it looks for a trial that can use what those before it cannot.
    """

    def __init__(
        self, choices: Mapping[int, tuple[Choice, ...]], books: Occupancy, *, patience: int, reach: Reach
    ) -> None:
        self._choices, self._books, self._reach = choices, books, reach
        self._fair = FairLine[_Waiting](books, patience=patience)
        self._new: deque[int] = deque()
        self._lined: dict[int, _Waiting] = {}
        self._kinds: dict[Kind, _Alike] = {}
        self._keeping: dict[str, list[tuple[int, int]]] = {}  # by model: place and number of those it is kept for
        self._unkept: list[tuple[int, int]] = []
        self._places = 0

    def __len__(self) -> int:
        return len(self._lined) + len(self._new)

    def add(self, number: int) -> None:
        """Puts a trial behind all others."""
        self._new.append(number)

    def ended(self, spot: Spot) -> None:
        """Nothing to hear: the books know what is free."""

    def start(self, now_s: float) -> Iterator[tuple[int, Choice, Spot]]:
        """Yields the trials that start now, each with its cards, which are taken in the books."""
        while (turn := self._next()) is not None:
            assert turn.choice is not None, turn.waiting.name
            spot = self._books.take(turn.choice)
            self._leave(turn.waiting)
            self._take(turn)
            yield turn.waiting.number, turn.choice, spot

    def _next(self) -> Turn[_Waiting] | None:
        turn = self._fair.first(self._shown())
        self._keep()
        while turn is None and self._new and self._fair.looks_further(len(self._lined), self._reach):
            if self._line_up():  # one more of its kind fits no better
                turn = self._fair.first(self._shown())
                self._keep()
        return turn

    def _line_up(self) -> bool:
        """Puts one more trial into the line; returns whether it is the first of its kind there."""
        number = self._new.popleft()
        choices = self._choices[number]
        kind = _kind(choices)
        if kind not in self._kinds:
            self._kinds[kind] = _Alike(models=frozenset(choice.model for choice in choices))
        alike = self._kinds[kind]
        self._places += 1
        waiting = _Waiting(number=number, place=self._places, choices=choices)
        is_first = alike.first() is None
        alike.patient.append(waiting)
        self._lined[number] = waiting
        return is_first

    def _shown(self) -> list[_Waiting]:
        """Those who can change who starts, in the order of the line."""
        shown = {first.place: first for alike in self._kinds.values() if (first := alike.first()) is not None}
        for kept in self._keeping.values():
            while kept and kept[0][1] not in self._lined:
                heapq.heappop(kept)
        for place, number in [*(kept[0] for kept in self._keeping.values() if kept), *self._unkept]:
            shown[place] = self._lined[number]
        return [shown[place] for place in sorted(shown)]

    def _keep(self) -> None:
        """Hears for whom a model is kept from now on."""
        still = []
        for place, number in self._unkept:
            model = self._fair.reserved(str(number))
            if model is None:
                still.append((place, number))
            else:
                heapq.heappush(self._keeping.setdefault(model, []), (place, number))
        self._unkept = still

    def _leave(self, waiting: _Waiting) -> None:
        alike = self._kinds[_kind(waiting.choices)]
        assert alike.first() is waiting, waiting.name
        (alike.impatient or alike.patient).popleft()
        del self._lined[waiting.number]
        self._unkept = [one for one in self._unkept if one[1] != waiting.number]

    def _take(self, turn: Turn[_Waiting]) -> None:
        """Counts for those before it, shown or not, that they were overtaken, until they have lost their patience."""
        assert turn.choice is not None
        alikes = [alike for alike in self._kinds.values() if turn.choice.model in alike.models]
        passed = [one for alike in alikes for one in _before(turn.waiting.place, alike.patient)]
        self._fair.take(replace(turn, overtaken=tuple(one.name for one in passed)))
        self._fair.started(turn.waiting.name)
        for alike in alikes:
            while alike.patient and self._fair.is_impatient(alike.patient[0].name):
                waiting = alike.patient.popleft()
                alike.impatient.append(waiting)
                insort(self._unkept, (waiting.place, waiting.number))


def _kind(choices: tuple[Choice, ...]) -> Kind:
    return tuple((its.model, its.share.units, its.share.cards, its.spread) for its in choices)


def _before(place: int, line: deque[_Waiting]) -> Iterator[_Waiting]:
    for waiting in line:
        if waiting.place > place:
            return
        yield waiting
