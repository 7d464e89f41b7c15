"""The line of a sweep's trials: which one comes next, of an earlier driver, of those that paused, or a new one."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal, Protocol, cast

from common.errors import RequestError
from common.strict import from_mapping
from tune_jobs.running.journal import Journal
from tune_jobs.running.live import View
from tune_jobs.running.orders import LATER, Bundle, TrialOrder, identity
from tune_jobs.running.progress import SweepProgress
from tune_jobs.search.exploit import Exploiter
from tune_jobs.search.proposers import Proposer, Sampled
from tune_jobs.team.admission import Admission


class OrderMaker(Protocol):
    """Turns sampled values into an order: rules, memory plan, share, name, folders."""

    def make(self, number: int, sampled: Sampled) -> TrialOrder:
        """Returns the order of trial `number`.

        Raises:
            RequestError: When the trial can never run here; says what would make it fit.
        """
        ...

    def release(self, name: str) -> None:
        """Hears that the trial of this name is over and its place is free."""
        ...


class TrialLine:
    """Makes the trials of a sweep startable, one after the other.

    Args:
        proposer: Where new trials come from.
        orders: Makes them runnable.
        journal: What is known of all trials; new orders are written there.
        admission: Whether a trial may start.
        exploiter: Moves weights between the trials of a population; None where every trial keeps its own.
        progress: Of the sweep; hears who waits.
        view: Shows it.
        refuse: Takes a trial that can never run here.
    """

    def __init__(
        self,
        *,
        proposer: Proposer,
        orders: OrderMaker,
        journal: Journal,
        admission: Admission,
        exploiter: Exploiter | None,
        progress: SweepProgress,
        view: View,
        refuse: Callable[[int, Sampled, RequestError], None],
    ) -> None:
        self._proposer, self._orders, self._journal = proposer, orders, journal
        self._admission, self._exploiter, self._progress, self._view = admission, exploiter, progress, view
        self._refuse = refuse
        self._asking: Mapping[str, object] | None = None
        self._again: list[int] = []
        self._next_number = 1
        self.exhausted = False

    @property
    def is_empty(self) -> bool:
        """Whether nobody is left who would start."""
        return self.exhausted and not self._again

    def seen(self, number: int) -> None:
        """Hears of a trial that an earlier driver ordered: new ones get larger numbers."""
        self._next_number = max(self._next_number, number + 1)

    def join(self, number: int) -> None:
        """Puts a trial that goes on behind those that wait already."""
        self._again.append(number)

    def next_order(self) -> Mapping[str, object] | Literal["later"] | None:
        """Returns an unfinished trial of an earlier driver, or the next proposal that can run here and may start."""
        self._asking = self._asking or self._next_made()
        if self._asking is None:
            is_open = any(trial.status is None for trial in self._journal.trials.values())
            may_pause = self._admission.may_pause or self._exploiter is not None
            return LATER if is_open and may_pause else None
        if not self._may_start(self._asking):
            return LATER
        order, self._asking = self._asking, None
        return order

    def _may_start(self, order: Mapping[str, object]) -> bool:
        number, name = identity(order)
        gpus = cast("float", cast("Mapping[str, object]", order["bundle"])["gpus"])
        left = self._progress.total - len(self._journal.trials) + len(self._again)
        free_slots = self._progress.slots - self._progress.count_known("running") - 1
        decision = self._admission.ask(name, gpus, further=max(0, min(left, free_slots)))
        if decision.verdict != "waits":
            return True
        if not self._journal.trials[number].waits_for:
            self._journal.write("waits", number, reason=decision.reason)
            self._view.event(f"trial {number} waits: {decision.reason}")
        self._progress.waits(number, name, reason=decision.reason)
        self._view.refresh(self._progress)
        return False

    def _next_made(self) -> Mapping[str, object] | None:
        waiting = self._who_goes_on()
        if waiting is not None:
            self._again.remove(waiting)
            if self._exploiter is not None:
                self._exploiter.goes_on(waiting)
            trial = self._journal.trials[waiting]
            earlier = from_mapping(TrialOrder, trial.order)
            # After an out-of-memory it may have held more than it was ordered with, and would need that again.
            bundle = from_mapping(Bundle, trial.bundle) if trial.bundle else earlier.bundle
            resume_from = str(trial.checkpoint) if trial.checkpoint else None
            return replace(earlier, bundle=bundle, resume_from=resume_from).to_dict()
        while True:
            number = self._next_number
            sampled = self._proposer.propose(number)
            if sampled is None:
                self.exhausted = True
                return None
            self._next_number += 1
            try:
                order = self._orders.make(number, sampled).to_dict()
            except RequestError as error:
                self._refuse(number, sampled, error)
                continue
            self._journal.write("ordered", number, order=order)
            return order

    def _who_goes_on(self) -> int | None:
        if not self._again or self._starts_new_first():
            return None
        return self._again[0] if self._exploiter is None else self._exploiter.next_of(self._again)

    def _starts_new_first(self) -> bool:
        """Whether those that never ran come before those that go on: where a population takes turns."""
        return (
            self._exploiter is not None and self._exploiter.taking_turns and self._next_number <= self._proposer.total
        )
