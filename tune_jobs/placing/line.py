"""Who of the trials that wait gets which cards, decided at the moment when there is room. Pure; knows no Ray.

A share is a part of one GPU model's card, so Ray must be told the model with it; a trial that was sent to a model too
early would wait there while another model idles. So nothing is sent before the books show room for it.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cluster.occupancy import Occupancy, Spot
from cluster.placement import Choice
from cluster.shares import CLASSES, UNITS
from tune_jobs.running.orders import Placed, TrialOrder

FreeGpus = Callable[[], Mapping[str, float]]  # asks for the most GPUs that one node of each model has free now
PATIENCE = 4  # later trials that may take a place that would have helped one before them


@dataclass(frozen=True, kw_only=True)
class Offer:
    """One GPU model on which a trial can run, and how.

    Attributes:
        choice: What it holds there.
        placed: What its process is told.
    """

    choice: Choice
    placed: Placed


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A trial that has no place yet.

    Attributes:
        order: With the place that it would get if all cards were free.
        offers: Every way to run it; none where Ray alone counts what it needs, as without cards.
    """

    order: TrialOrder
    offers: tuple[Offer, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Start:
    """A trial and the place where it can start now.

    Attributes:
        waiting: The trial.
        offer: Its place; None where Ray alone counts.
        overtaken: Those before it in the line that this place would have helped.
        queues: Whether others hold the place by Ray's own count, so that the trial will wait for them there.
    """

    waiting: Waiting
    offer: Offer | None
    overtaken: tuple[str, ...] = ()
    queues: bool = False

    @property
    def order(self) -> TrialOrder:
        """What the trial's process is told."""
        return self.waiting.order if self.offer is None else self.waiting.order.at(self.offer.placed)


class CardLine:
    """The line of a sweep's trials before its cards.

    The first in line that can start on some model does. Among the models with room it goes where it costs the smallest
    fair part of the cluster on top of what runs there already; among equals, where least was placed so far, as a few
    trials side by side would else never reach the last of several idle models. One that was overtaken too often gets a
    model to itself: nobody else starts there until it has its place. Other models go on meanwhile.

    The books count this sweep's trials. Where others use the cluster too, a model on which Ray has room now goes before
    one that the books alone believe free; with no such model, one trial at a time is sent to wait in Ray's own line, so
    that the others stay free to go where room comes first.

    Args:
        books: What is free; None where Ray alone counts.
        free: Asks Ray; None where nobody else uses the cards.
        patience: How often one may be overtaken.
    """

    def __init__(
        self,
        books: Occupancy | None = None,
        *,
        free: FreeGpus | None = None,
        patience: int = PATIENCE,
    ) -> None:
        self._books, self._free, self._patience = books, free, patience
        self._held: dict[str, tuple[Choice, Spot]] = {}
        self._given: defaultdict[str, float] = defaultdict(float)
        self._overtaken: defaultdict[str, int] = defaultdict(int)
        self._reserved: dict[str, str] = {}
        self._sent: set[str] = set()
        self._queued: dict[str, str] = {}

    def first(self, line: Sequence[Waiting]) -> Start | None:
        """Finds the first that can start now, and where; nothing is held by that."""
        passed: list[Waiting] = []
        reserved = {model for name, model in self._queued.items() if self._overtaken[name] >= self._patience}
        free = self._free() if line and self._free is not None else None
        for waiting in line:
            name = waiting.order.name
            if self._books is None or not waiting.offers:
                return Start(waiting=waiting, offer=None)
            fitting: Sequence[Offer] = [
                offer
                for offer in waiting.offers
                if offer.choice.model not in reserved and self._books.fits(offer.choice)
            ]
            there = fitting if free is None else self._there(fitting, free)
            fitting = there or ([] if self._sent else fitting)
            if fitting:
                offer = min(fitting, key=self._cost)
                overtaken = _helped(passed, offer) + tuple(
                    other for other, model in self._queued.items() if model == offer.choice.model
                )
                return Start(waiting=waiting, offer=offer, overtaken=overtaken, queues=not there)
            if self._overtaken[name] >= self._patience:
                reserved.add(self._reserved.setdefault(name, self._soonest(waiting, free or {})))
            passed.append(waiting)
        return None

    def take(self, start: Start) -> None:
        """A trial gets its place and leaves the line."""
        name = start.order.name
        self.leave(name)
        for other in start.overtaken:
            self._overtaken[other] += 1
        if start.offer is not None and self._books is not None:
            choice = start.offer.choice
            self._held[name] = (choice, self._books.take(choice))
            self._sent.add(name)
            if start.queues:
                self._queued[name] = choice.model
            self._given[choice.model] += choice.fair_part

    def started(self, name: str) -> None:
        """Ray gave a trial its place."""
        self._sent.discard(name)
        if self._queued.pop(name, None) is not None:
            self._overtaken.pop(name, None)

    def release(self, name: str) -> None:
        """A trial gave its place back, or will never take it."""
        self.started(name)
        held = self._held.pop(name, None)
        if held is not None and self._books is not None:
            choice, spot = held
            self._books.give_back(spot, choice.share)

    def leave(self, name: str) -> None:
        """A trial does not wait any more."""
        self._overtaken.pop(name, None)
        self._reserved.pop(name, None)

    def has_room(self) -> bool:
        """Whether a small trial that nobody has looked at yet might start."""
        if self._books is None:
            return False
        taken = set(self._reserved.values())
        return any(self._books.room(model) >= CLASSES[0] for model in self._books.models if model not in taken)

    def _there(self, fitting: Sequence[Offer], free: Mapping[str, float]) -> Sequence[Offer]:
        """Those on whose nodes Ray has room; where a trial is spread over several, one node tells nothing."""
        choices = [(one, one.choice) for one in fitting]
        return [one for one, its in choices if its.spread or free.get(its.model, 0.0) > its.share.gpus - 1e-6]

    def _cost(self, offer: Offer) -> tuple[float, float, str]:
        model = offer.choice.model
        load = sum(choice.fair_part for choice, _ in self._held.values() if choice.model == model)
        return (load + offer.choice.fair_part, self._given[model], model)

    def _soonest(self, waiting: Waiting, free: Mapping[str, float]) -> str:
        """The model on which least must still come free."""
        books = self._books
        assert books is not None

        def missing(offer: Offer) -> float:
            model, share = offer.choice.model, offer.choice.share
            return share.gpus - min(books.room(model) / UNITS, free.get(model, 1.0))

        return min(waiting.offers, key=missing).choice.model


def _helped(passed: Sequence[Waiting], offer: Offer) -> tuple[str, ...]:
    model = offer.choice.model
    return tuple(one.order.name for one in passed if any(other.choice.model == model for other in one.offers))
