"""Who of the trials that wait gets which cards, decided at the moment when there is room. Pure; knows no Ray.

One decision for two lines: a sweep's trials before real cards (card_line.py), and those of a plan under a
simulated clock (cluster/scheduling/arrivals.py). So a plan promises the order that the sweep then takes.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

from cluster.scheduling.occupancy import Occupancy
from cluster.scheduling.placement import Choice
from cluster.scheduling.shares import CLASSES, UNITS

PATIENCE = 4  # later trials that may take a place that would have helped one before them
Reach = Literal["list", "few", "one"]  # how far a line looks: its whole list, WIDTH trials, or the next alone
WIDTH = 4  # trials that are made and wait for a place; further ones are made only to fill room that these cannot use


class Waits(Protocol):
    """A trial that has no place yet."""

    @property
    def name(self) -> str:
        """Identifies it."""
        ...

    @property
    def choices(self) -> Sequence[Choice]:
        """Every way to run it; none where others count what it needs, as without cards."""
        ...


WaitsT = TypeVar("WaitsT", bound=Waits)


@dataclass(frozen=True, kw_only=True)
class Turn(Generic[WaitsT]):
    """A trial and the place where it can start now.

    Attributes:
        waiting: The trial.
        choice: Its place; None where others count.
        overtaken: Those before it in the line that this place would have helped.
        queues: Whether others hold the place by Ray's own count, so that the trial will wait for them there.
    """

    waiting: WaitsT
    choice: Choice | None
    overtaken: tuple[str, ...] = ()
    queues: bool = False


class FairLine(Generic[WaitsT]):
    """Decides for a line of trials before its cards; takes and gives back nothing in the books.

    The first in line that can start on some model does. Among the models with room it goes where it costs the smallest
    fair part of the cluster on top of what runs there already; among equals, where least was placed so far, as a few
    trials side by side would else never reach the last of several idle models. One that was overtaken too often gets a
    model to itself: nobody else starts there until it has its place. Other models go on meanwhile.

    The books count these trials. Where others use the cluster too, a model on which Ray has room now goes before one
    that the books alone believe free; with no such model, one trial at a time is sent to wait in Ray's own line, so
    that the others stay free to go where room comes first.

    Args:
        books: What is free; None where others count.
        free: Asks Ray for the most GPUs that one node of each model has free; None where nobody else uses the cards.
        patience: How often one may be overtaken.

    >>> from cluster.machines.hardware import parse_simulated
    >>> from cluster.scheduling.placement import Demand, Need, choose
    >>> @dataclass
    ... class Trial:
    ...     name: str
    ...     choices: tuple[Choice, ...]
    >>> cluster = parse_simulated("1x24GiB,1x80GiB")
    >>> def trial(name: str, gib: int) -> Trial:
    ...     return Trial(name, choose(Demand(name=name, needs=(Need(upper_bytes=gib * 2**30),)), cluster))
    >>> line, books = [trial("a", 70), trial("b", 60), trial("c", 9)], Occupancy(cluster)
    >>> fair = FairLine[Trial](books)
    >>> while (turn := fair.first(line)) is not None:
    ...     print(turn.waiting.name, turn.choice.model, turn.overtaken)
    ...     fair.take(turn)
    ...     spot = books.take(turn.choice)
    ...     line.remove(turn.waiting)
    a simulated-80GiB ()
    c simulated-24GiB ()
    """

    def __init__(
        self,
        books: Occupancy | None = None,
        *,
        free: Callable[[], Mapping[str, float]] | None = None,
        patience: int = PATIENCE,
    ) -> None:
        self._books, self._free, self._patience = books, free, patience
        self._given: defaultdict[str, int] = defaultdict(int)
        self._overtaken: defaultdict[str, int] = defaultdict(int)
        self._reserved: dict[str, str] = {}
        self._sent: set[str] = set()
        self._queued: dict[str, str] = {}

    def first(self, line: Sequence[WaitsT]) -> Turn[WaitsT] | None:
        """Finds the first that can start now, and where; nothing is held by that."""
        passed: list[WaitsT] = []
        reserved = {model for name, model in self._queued.items() if self.is_impatient(name)}
        free = self._free() if line and self._free is not None else None
        for waiting in line:
            if self._books is None or not waiting.choices:
                return Turn(waiting=waiting, choice=None)
            fitting: Sequence[Choice] = [
                choice for choice in waiting.choices if choice.model not in reserved and self._books.fits(choice)
            ]
            there = fitting if free is None else _there(fitting, free)
            fitting = there or ([] if self._sent else fitting)
            if fitting:
                choice = min(fitting, key=self._cost)
                overtaken = _helped(passed, choice.model) + tuple(
                    other for other, model in self._queued.items() if model == choice.model
                )
                return Turn(waiting=waiting, choice=choice, overtaken=overtaken, queues=not there)
            if self.is_impatient(waiting.name):
                if waiting.name not in self._reserved:
                    self._reserved[waiting.name] = self._soonest(waiting, free or {})
                reserved.add(self._reserved[waiting.name])
            passed.append(waiting)
        return None

    def take(self, turn: Turn[WaitsT]) -> None:
        """A trial gets its place and leaves the line."""
        name, choice = turn.waiting.name, turn.choice
        self.leave(name)
        for other in turn.overtaken:
            self._overtaken[other] += 1
        if choice is not None:
            self._sent.add(name)
            if turn.queues:
                self._queued[name] = choice.model
            self._given[choice.model] += _units(choice)

    def started(self, name: str) -> None:
        """A trial that was sent has its place."""
        self._sent.discard(name)
        if self._queued.pop(name, None) is not None:
            self._overtaken.pop(name, None)

    def leave(self, name: str) -> None:
        """A trial does not wait any more."""
        self._overtaken.pop(name, None)
        self._reserved.pop(name, None)

    def is_impatient(self, name: str) -> bool:
        """Whether a trial was overtaken so often that a model is kept for it."""
        return self._overtaken.get(name, 0) >= self._patience

    def reserved(self, name: str) -> str | None:
        """Returns the model that is kept for a trial; None before `first` has chosen it."""
        return self._reserved.get(name)

    def looks_further(self, lined: int, reach: Reach) -> bool:
        """Whether the next trial that nobody has looked at yet shall join the line, in which nobody can start now.

        Args:
            lined: Trials in the line.
            reach: "list" where a trial may be made long before it starts, as results change nothing; "few" where they
                do; "one" where trials take turns.
        """
        return lined < (1 if reach == "one" else WIDTH) or (reach == "list" and self.has_room())

    def has_room(self) -> bool:
        """Whether a small trial that nobody has looked at yet might start."""
        if self._books is None:
            return False
        taken = set(self._reserved.values())
        return any(self._books.room(model) >= CLASSES[0] for model in self._books.models if model not in taken)

    def _cost(self, choice: Choice) -> tuple[float, float, str]:
        books, model = self._books, choice.model
        assert books is not None
        held_units = books.held_units(model) + _units(choice)
        return (books.part(model, held_units), books.part(model, self._given[model]), model)

    def _soonest(self, waiting: WaitsT, free: Mapping[str, float]) -> str:
        """The model on which least must still come free."""
        books = self._books
        assert books is not None

        def missing(choice: Choice) -> float:
            return choice.share.gpus - min(books.room(choice.model) / UNITS, free.get(choice.model, 1.0))

        return min(waiting.choices, key=missing).model


def _units(choice: Choice) -> int:
    return choice.share.units * choice.share.cards


def _there(fitting: Sequence[Choice], free: Mapping[str, float]) -> Sequence[Choice]:
    """Those on whose nodes Ray has room; where a trial is spread over several, one node tells nothing."""
    return [its for its in fitting if its.spread or free.get(its.model, 0.0) > its.share.gpus - 1e-6]


def _helped(passed: Sequence[Waits], model: str) -> tuple[str, ...]:
    return tuple(one.name for one in passed if any(choice.model == model for choice in one.choices))
