"""The line of a sweep's trials: which one comes next, of an earlier driver, of those that paused, or a new one."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal, Protocol

from cluster.scheduling.fair_line import WIDTH, Reach
from common.errors import RequestError
from common.strict import from_mapping
from tune_jobs.driver.card_line import CardLine, Offer, Start, Waiting
from tune_jobs.driver.exploit import Exploiter
from tune_jobs.driver.view import View
from tune_jobs.records.journal import Journal
from tune_jobs.records.progress import SweepProgress
from tune_jobs.records.trial_spec import LATER, PLACE_KEYS, Bundle, TrialOrder
from tune_jobs.search.samplers import Proposer, Sampled
from tune_jobs.team.admission import Admission


class OrderMaker(Protocol):
    """Turns sampled values into an order: rules, memory plan, share, name, folders."""

    def make(self, number: int, sampled: Sampled) -> TrialOrder:
        """Returns the order of trial `number`, with the place that it would get if all cards were free.

        Raises:
            RequestError: When the trial can never run here; says what would make it fit.
        """
        ...

    def offers(self, order: TrialOrder, least_bytes: int = 0) -> tuple[Offer, ...]:
        """Returns every place where the trial can run; none where Ray alone counts what it needs.

        Args:
            order: The trial.
            least_bytes: What its share of a card must hold at least, whatever the estimate says.

        Raises:
            RequestError: When no card can give so many bytes.
        """
        ...


class TrialLine:
    """Makes the trials of a sweep startable and starts them as they find a place.

    Args:
        proposer: Where new trials come from.
        orders: Makes them runnable.
        cards: Who gets which cards.
        journal: What is known of all trials; new orders are written there.
        admission: Whether a trial may start.
        exploiter: Moves weights between the trials of a population; None where every trial keeps its own.
        progress: Of the sweep; hears who waits.
        view: Shows it.
        refuse: Takes a new trial that can never run here.
        lose: Takes a trial that could run before and can no more.
        begins_to_wait: Hears what a trial waits for: one of these bundles.
    """

    def __init__(
        self,
        *,
        proposer: Proposer,
        orders: OrderMaker,
        cards: CardLine,
        journal: Journal,
        admission: Admission,
        exploiter: Exploiter | None,
        progress: SweepProgress,
        view: View,
        refuse: Callable[[int, Sampled, RequestError], None],
        lose: Callable[[int, RequestError], None],
        begins_to_wait: Callable[[int, tuple[Bundle, ...]], None],
    ) -> None:
        self._proposer, self._orders, self._cards, self._journal = proposer, orders, cards, journal
        self._admission, self._exploiter, self._progress, self._view = admission, exploiter, progress, view
        self._refuse, self._lose, self._begins_to_wait = refuse, lose, begins_to_wait
        self._reach: Reach = "list" if proposer.knows_all else "few"
        if exploiter is not None:
            self._reach = "one"  # a population takes its turns one by one
        self._again: list[int] = []
        self._first: set[int] = set()
        self._lined: list[Waiting] = []
        self._new = deque(number for number in proposer.order if number not in journal.trials)
        self.exhausted = False

    @property
    def is_empty(self) -> bool:
        """Whether nobody is left who would start."""
        return self.exhausted and not self._again and not self._lined

    def join(self, number: int, *, first: bool = False) -> None:
        """Puts a trial that goes on behind those that wait already, or before all of them."""
        self._again.insert(0 if first else len(self._again), number)
        if first:
            self._first.add(number)

    def next_order(self) -> Mapping[str, object] | Literal["later"] | None:
        """Returns an unfinished trial of an earlier driver, or the next proposal that can run here and may start."""
        start = self._next_start()
        if start is None:
            for waiting in self._lined[:WIDTH]:
                self._tell(waiting, waiting.order)
            is_open = any(trial.status is None for trial in self._journal.trials.values())
            return LATER if is_open else None  # one that runs may still run out of memory and want another place
        self._tell(start.waiting, start.order)
        if not self._may_start(start.order):
            return LATER
        self._cards.take(start)
        self._lined.remove(start.waiting)
        return start.order.to_dict()

    def _may_start(self, order: TrialOrder) -> bool:
        left = len(self._new) + len(self._lined) + len(self._again)
        free_slots = self._progress.slots - self._progress.count_known("running") - 1
        further = max(0, min(left - 1, free_slots))
        decision = self._admission.ask(order.name, order.bundle.gpus, further=further)
        if decision.verdict != "waits":
            return True
        if not self._journal.trials[order.number].waits_for:
            self._journal.write("waits", order.number, reason=decision.reason)
            self._view.event(f"trial {order.number} waits: {decision.reason}")
        self._progress.waits(order.number, order.name, reason=decision.reason)
        self._view.refresh(self._progress)
        return False

    def _next_start(self) -> Start | None:
        """Finds who can start now; makes further trials where room is left that none of those in line can use."""
        while self._exploiter is None and self._line_up_again():
            pass
        while True:
            start = self._cards.first(self._lined)
            if start is not None or not self._lengthen():
                return start

    def _lengthen(self) -> bool:
        """Puts one more trial into the line; returns whether there was one."""
        if not self._cards.looks_further(len(self._lined), self._reach):
            return False
        return self._line_up_again() or self._line_up_new()

    def _line_up_again(self) -> bool:
        """Lines up one that goes on: behind those that were told to wait, before those that nobody has heard of."""
        while (number := self._who_goes_on()) is not None:
            self._again.remove(number)
            if self._exploiter is not None:
                self._exploiter.goes_on(number)
            trial = self._journal.trials[number]
            earlier = from_mapping(TrialOrder, trial.order)
            bundle = from_mapping(Bundle, trial.bundle) if trial.bundle else earlier.bundle
            resume_from = str(trial.checkpoint) if trial.checkpoint else None
            order = replace(earlier, bundle=bundle, resume_from=resume_from)
            try:
                waiting = Waiting(order=order, offers=self._orders.offers(order, trial.least_bytes))
            except RequestError as error:  # the cards that could hold it are not there any more
                self._lose(number, error)
                continue
            told = sum(1 for one in self._lined if one.order.number in self._journal.trials)
            self._lined.insert(0 if number in self._first else told, waiting)
            self._first.discard(number)
            self._begins_to_wait(number, _bundles(waiting))
            return True
        return False

    def _line_up_new(self) -> bool:
        while self._new:
            number = self._new[0]
            sampled = self._proposer.propose(number)
            if sampled is None:
                break
            self._new.popleft()
            try:
                order = self._orders.make(number, sampled)
                self._lined.append(Waiting(order=order, offers=self._orders.offers(order)))
            except RequestError as error:
                self._refuse(number, sampled, error)
                continue
            return True
        self.exhausted = True
        return False

    def _tell(self, waiting: Waiting, order: TrialOrder) -> None:
        """Writes down that a trial is ordered, or that it goes elsewhere than it was ordered for."""
        values = order.to_dict()
        trial = self._journal.trials.get(order.number)
        if trial is None:
            self._journal.write("ordered", order.number, order=values)
            self._begins_to_wait(order.number, _bundles(waiting))
            return
        place = {key: values[key] for key in PLACE_KEYS}
        if order is not waiting.order and any(trial.order.get(key) != value for key, value in place.items()):
            self._journal.write("placed", order.number, place=place)

    def _who_goes_on(self) -> int | None:
        if not self._again or self._starts_new_first():
            return None
        return self._again[0] if self._exploiter is None else self._exploiter.next_of(self._again)

    def _starts_new_first(self) -> bool:
        """Whether those that never ran come before those that go on: where a population takes turns."""
        return self._exploiter is not None and self._exploiter.taking_turns and bool(self._new)


def _bundles(waiting: Waiting) -> tuple[Bundle, ...]:
    return tuple(offer.placed.bundle for offer in waiting.offers) or (waiting.order.bundle,)
