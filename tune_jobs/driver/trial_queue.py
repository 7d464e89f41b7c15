"""Trials between their suggestion and the start of an attempt: queued at the broker, granted and launched."""

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress

from cluster.scheduling.request import Request
from tune_jobs.driver import events
from tune_jobs.driver.recovery import next_bytes
from tune_jobs.driver.replay import is_half_refused
from tune_jobs.driver.sweep_parts import Clocks, SweepLimits, SweepParts
from tune_jobs.placing.placer import Option
from tune_jobs.placing.submission import request_for
from tune_jobs.records.journal import Journal
from tune_jobs.records.trial_spec import PLACEMENT_FIELDS, TrialSpec
from tune_jobs.search.samplers import Sampled
from tuning_common.errors import RequestError
from tuning_common.units import format_duration

LAUNCH_LIMIT_S = 60.0  # a granted trial that Ray has not started by then goes back to the queue; doubles each time
RESUBMIT_S = 30.0  # a trial that no node can hold asks again: nodes come and go
NO_NODE_LIMIT_S = 600.0  # with nothing running, trials that no node can hold are given up after this time


class TrialQueue:
    """Part of SweepState; see there for the arguments.

    A trial of a list is written to the journal when it is granted for the first time, so that a list of a thousand
    costs nothing at the start. What a sampler that learns suggests is written at once, as it cannot be suggested again.
    """

    def __init__(self, parts: SweepParts, limits: SweepLimits, journal: Journal, clocks: Clocks) -> None:
        self._sampler, self._specs, self._learning = parts.sampler, parts.specs, parts.learning
        self._limits, self._journal, self._clocks = limits, journal, clocks
        known = {number for number, trial in journal.trials.items() if not is_half_refused(trial)}
        self._new = [number for number in self._sampler.order if number not in known]
        self._unwritten: dict[int, TrialSpec] = {}  # of trials that are not in the journal yet
        self._options: dict[int, tuple[Option, ...]] = {}
        self._queued: dict[int, Request] = {}  # submitted to the broker, not granted; in that order
        self._launching: dict[int, float] = {}  # granted, not started by Ray: since when
        self._returns: Counter[int] = Counter()  # how often Ray did not start it
        self._unplaceable: dict[int, tuple[str, float]] = {}  # reason, and when it asks again
        self._no_node_since_s: float | None = None

    @property
    def is_empty(self) -> bool:
        """Whether no trial is left that never ran."""
        return not self._new and not self._unwritten

    @property
    def launching(self) -> list[int]:
        """Trials that were granted and that Ray has not started."""
        return list(self._launching)

    @property
    def queued(self) -> list[int]:
        """Trials that wait for the broker, in the order in which they were submitted."""
        return list(self._queued)

    @property
    def to_come(self) -> int:
        """Number of trials that wait for the broker or were not suggested yet."""
        return len(self._new) + len(self._queued)

    # Suggestions

    def suggest(self, running: int) -> tuple[int, Sampled] | None:
        """Returns the next new trial; None where there is none, or where the sampler should wait for results.

        Args:
            running: Trials that run.
        """
        waiting = len(set(self._queued) | set(self._unplaceable))
        running += len(self._launching)
        if not self._new or not self._limits.submission.has_room(waiting=waiting, running=running):
            return None
        number = self._new.pop(0)
        sampled = self._sampler.suggest(number)
        if sampled is None:
            self._new.clear()
            return None
        return number, sampled

    def take_list(self) -> list[tuple[int, Sampled]]:
        """Returns all new trials of a list."""
        taken = [(number, self._sampler.suggest(number) or {}) for number in self._new]
        self._new.clear()
        return taken

    def prepare(self, number: int, sampled: Sampled) -> None:
        """Finds out how a new trial can run.

        Raises:
            RequestError: When it can never run here.
        """
        spec = self._specs.make(number, sampled)
        self._options[number] = self._specs.options(spec)
        self._unwritten[number] = spec
        if not self._sampler.is_list:
            self._write(number)

    def drop_unwritten(self) -> list[events.Instruction]:
        """Leaves out trials that never ran: there is no time for them."""
        self._new.clear()
        dropped = [number for number in self._unwritten if number not in self._launching]
        out: list[events.Instruction] = []
        for number in dropped:
            out += self.forget(number)
        return out

    def _write(self, number: int) -> None:
        spec = self._unwritten.pop(number).at(self._options[number][0].placement)
        self._journal.write("submitted", number, spec=spec.to_dict())

    # The broker

    def submit(self, number: int, *, first: bool = False) -> list[events.Instruction]:
        """Asks the broker for a share.

        Raises:
            RequestError: When the cards that could hold the trial are gone.
        """
        if number in self._queued:
            return []
        if number not in self._options:
            self._options[number] = self._specs.options(self.spec(number), self._journal.trials[number].least_bytes)
        self._queued[number] = self._request(number, first=first)
        return [events.Submit(number=number, request=self._queued[number])]

    def renew(self) -> list[events.Instruction]:
        """Submits everything that waits once more, in its order, where what is learned meanwhile changes a request."""
        learning = self._learning
        if not learning.is_stale:
            return []
        for number in self._queued if learning.has_new_durations else ():
            trial = self._journal.trials.get(number)
            with suppress(RequestError):  # the cards are gone: the broker refuses it
                least_bytes = trial.least_bytes if trial is not None else 0
                self._options[number] = self._specs.options(self.spec(number), least_bytes)
        learning.is_stale = learning.has_new_durations = False
        renewed = {number: self._request(number, first=one.first) for number, one in self._queued.items()}
        if renewed == self._queued:
            return []
        self._queued = renewed
        return [
            one
            for number, request in renewed.items()
            for one in (events.Withdraw(number=number), events.Submit(number=number, request=request))
        ]

    def _request(self, number: int, *, first: bool = False) -> Request:
        request = request_for(self._limits.sweep, number, self._options[number], first=first)
        return self._learning.limited(request)

    def enlarge(self, number: int) -> tuple[int, str]:
        """Finds out how a trial can run with more memory after an out-of-memory.

        Returns:
            What its cards must give together from now on, in bytes, and how its share changes, in words.

        Raises:
            RequestError: When no card can give more.
        """
        spec = self.spec(number)
        least_bytes = next_bytes(spec.bundle.gpus, spec.usable_bytes or 0)
        self._options[number] = self._specs.options(spec, least_bytes)
        same = [one.placement.bundle for one in self._options[number] if one.placement.gpu_model == spec.gpu_model]
        if not same:
            return least_bytes, "; a larger card is needed"
        return (
            least_bytes,
            f"; {spec.bundle.gpus:g} -> {same[0].gpus:g} {'cards' if same[0].ranks > 1 else 'of a card'}",
        )

    def forget_options(self, number: int) -> None:
        """Has the options of a trial found again when it is submitted: its configuration has changed."""
        self._options.pop(number, None)

    def allocate(self, event: events.Allocated) -> events.Instruction:
        """Launches a granted trial; gives the share back where the trial was withdrawn meanwhile."""
        number = event.number
        if number not in self._queued:
            return events.Release(number=number)
        del self._queued[number]
        self._unplaceable.pop(number, None)
        if number in self._unwritten:
            self._write(number)
        held = event.alternative
        option = next(one for one in self._options[number] if one.alternative.model == held.model)
        spec = self.spec(number).at(option.placement_of(held), event.nodes)
        values, before = spec.to_dict(), self._journal.trials[number].spec
        placement = {name: values[name] for name in PLACEMENT_FIELDS}
        if any(before.get(name) != value for name, value in placement.items()):
            self._journal.write("allocated", number, placement=placement)
        self._launching[number] = self._clocks.elapsed_s()
        return events.Launch(spec=spec)

    def spec(self, number: int) -> TrialSpec:
        """Returns the specification with which a trial runs next."""
        if number in self._unwritten:
            return self._unwritten[number]
        trial = self._journal.trials[number]
        starts = {"resume_from": trial.checkpoint, "resume_before": trial.earlier_checkpoint}
        return TrialSpec.from_dict({**trial.spec, **{name: path and str(path) for name, path in starts.items()}})

    def set_unplaceable(self, event: events.Unplaceable) -> None:
        """Takes in that no node can hold a trial now; it asks again later."""
        self._queued.pop(event.number, None)
        self._unplaceable[event.number] = event.reason, self._clocks.elapsed_s() + RESUBMIT_S

    def due_again(self) -> list[int]:
        """Returns trials that no node could hold and that ask again now."""
        now_s = self._clocks.elapsed_s()
        due = [number for number, (_, at_s) in self._unplaceable.items() if now_s >= at_s]
        for number in due:
            self._unplaceable[number] = self._unplaceable[number][0], now_s + RESUBMIT_S
        return due

    def given_up(self, *, is_idle: bool) -> Mapping[int, str]:
        """Returns trials that no node can hold, with the reason, when nothing else has been left for long.

        Args:
            is_idle: Whether no attempt runs.
        """
        now_s = self._clocks.elapsed_s()
        is_stuck = bool(self._unplaceable) and is_idle and set(self._queued) <= set(self._unplaceable)
        self._no_node_since_s = (self._no_node_since_s or now_s) if is_stuck else None
        if self._no_node_since_s is None or now_s - self._no_node_since_s <= NO_NODE_LIMIT_S:
            return {}
        for number in list(self._unplaceable):
            if number in self._unwritten:
                self._write(number)
        return {number: reason for number, (reason, _) in self._unplaceable.items()}

    def forget(self, number: int) -> list[events.Instruction]:
        """Drops everything about a trial that has ended or is left out."""
        self._unwritten.pop(number, None)
        self._options.pop(number, None)
        self._unplaceable.pop(number, None)
        if number not in self._queued:
            return []
        del self._queued[number]
        return [events.Withdraw(number=number)]

    def withdraw_all(self) -> list[events.Instruction]:
        """Takes back everything that has not started."""
        out: list[events.Instruction] = [events.Withdraw(number=number) for number in self._queued]
        self._queued.clear()
        return [*out, *self.cancel(self._launching)]

    # Launches

    def started(self, number: int) -> bool:
        """Takes a trial out of the launches; returns whether it was one."""
        return self._launching.pop(number, None) is not None

    def cancel(self, numbers: Iterable[int]) -> list[events.Instruction]:
        """Cancels launches."""
        return [events.CancelLaunch(number=number) for number in numbers if number in self._launching]

    def overdue(self) -> list[int]:
        """Returns launches that Ray should have started by now."""
        now_s = self._clocks.elapsed_s()
        return [number for number, at_s in self._launching.items() if now_s - at_s > self._launch_limit_s(number)]

    def return_allocation(self, number: int) -> events.ReturnAllocation:
        """Puts a trial that Ray did not start back into the broker's queue."""
        reason = f"Ray did not start it within {format_duration(self._launch_limit_s(number))}"
        self._returns[number] += 1
        self._queued[number] = self._request(number)
        return events.ReturnAllocation(number=number, reason=reason)

    def _launch_limit_s(self, number: int) -> float:
        """Returns how long Ray may take to start a trial; processes start slowly on a machine that is busy."""
        return LAUNCH_LIMIT_S * 2.0 ** self._returns[number]
