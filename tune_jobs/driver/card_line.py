"""The line of a sweep's trials before real cards: fair_line decides, this keeps the books. Pure; knows no Ray.

A share is a part of one GPU model's card, so Ray must be told the model with it; a trial that was sent to a model too
early would wait there while another model idles. So nothing is sent before the books show room for it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cluster.scheduling.fair_line import PATIENCE, FairLine, Turn
from cluster.scheduling.occupancy import Occupancy, Spot
from cluster.scheduling.placement import Choice
from tune_jobs.records.trial_spec import Placed, TrialOrder

FreeGpus = Callable[[], Mapping[str, float]]  # asks for the most GPUs that one node of each model has free now


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
    """A trial that has no place yet; see fair_line.Waits.

    Attributes:
        order: With the place that it would get if all cards were free.
        offers: Every way to run it; none where Ray alone counts what it needs, as without cards.
    """

    order: TrialOrder
    offers: tuple[Offer, ...] = ()

    @property
    def name(self) -> str:
        """The trial's name."""
        return self.order.name

    @property
    def choices(self) -> tuple[Choice, ...]:
        """What it holds in each way."""
        return tuple(offer.choice for offer in self.offers)


@dataclass(frozen=True, kw_only=True)
class Start(Turn[Waiting]):
    """A trial and the place where it can start now."""

    @property
    def offer(self) -> Offer | None:
        """Its place; None where Ray alone counts."""
        return next((offer for offer in self.waiting.offers if offer.choice == self.choice), None)

    @property
    def order(self) -> TrialOrder:
        """What the trial's process is told."""
        return self.waiting.order if self.offer is None else self.waiting.order.at(self.offer.placed)


class CardLine(FairLine[Waiting]):
    """The line of a sweep's trials before its cards; see FairLine for who comes next.

    Args:
        books: What is free; None where Ray alone counts.
        free: Asks Ray; None where nobody else uses the cards.
        patience: How often one may be overtaken.
    """

    def __init__(
        self, books: Occupancy | None = None, *, free: FreeGpus | None = None, patience: int = PATIENCE
    ) -> None:
        super().__init__(books, free=free, patience=patience)
        self._held: dict[str, tuple[Choice, Spot]] = {}

    def first(self, line: Sequence[Waiting]) -> Start | None:
        """Finds the first that can start now, and where; nothing is held by that."""
        turn = super().first(line)
        return None if turn is None else Start(**vars(turn))

    def take(self, turn: Turn[Waiting]) -> None:
        """A trial gets its place and leaves the line."""
        super().take(turn)
        if turn.choice is not None and self._books is not None:
            self._held[turn.waiting.name] = (turn.choice, self._books.take(turn.choice))

    def release(self, name: str) -> None:
        """A trial gave its place back, or will never take it."""
        self.started(name)
        held = self._held.pop(name, None)
        if held is not None and self._books is not None:
            choice, spot = held
            self._books.give_back(spot, choice.share)
