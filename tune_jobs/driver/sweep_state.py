"""The state of a running sweep: events in, instructions out.

`handle` is the only entry. It decides which trial is submitted next, when an attempt ends early, and what follows from
a failure. The journal is its only memory that outlives the driver: a new state replays it. Who runs where is the
broker's decision; which trials go on is the decision of the sweep's scheduler (EarlyStopping).
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Protocol, cast

from common.errors import RequestError
from common.goal import Goal, best_of
from common.units import format_duration
from tune_jobs.driver.events import (
    Allocated,
    AskToSave,
    AttemptEnded,
    AttemptStarted,
    CancelLaunch,
    CheckpointSaved,
    CloseTrial,
    ConfirmStart,
    EndAttempt,
    Event,
    ForgetCheckpoints,
    Instruction,
    KillProcess,
    Launch,
    Notify,
    PauseRequested,
    Release,
    Reported,
    ReturnAllocation,
    StillWaiting,
    StopRequested,
    Submit,
    TunerDied,
    Unplaceable,
    Withdraw,
)
from tune_jobs.driver.inherit import Inherit
from tune_jobs.driver.recovery import LOST, RetryPolicy, SuspectNodes, next_bytes
from tune_jobs.driver.replay import completed_trial, replay, result_for_scheduler
from tune_jobs.driver.stall_watch import StallWatch
from tune_jobs.placing.placer import Option
from tune_jobs.placing.submission import request_for, request_name
from tune_jobs.records.journal import EndStatus, Journal, TrialHistory
from tune_jobs.records.trial_spec import (
    EVALUATION_KEY,
    FAILURE_KEY,
    FAILURE_MESSAGE_KEY,
    INTERRUPTED_KEY,
    LOCATION_KEYS,
    PLACEMENT_FIELDS,
    STARTED_KEY,
    WAITING_KEY,
    FailureKind,
    TrialSpec,
)
from tune_jobs.search.early_stopping import EarlyStopping, Exploit, Ruling
from tune_jobs.search.samplers import Sampled, Sampler

WAITING_SUGGESTIONS = 4  # trials that a sampler which learns from results may have waiting at a time
LAUNCH_LIMIT_S = 60.0  # a granted trial that Ray has not started by then goes back to the queue
RESUBMIT_S = 30.0  # a trial that no node can hold asks again: nodes come and go
NO_NODE_LIMIT_S = 600.0  # with nothing running, trials that no node can hold are given up after this time
_STOPPED = "the driver was asked to stop"


@dataclass(frozen=True, kw_only=True)
class Clocks:
    """Where time comes from.

    Attributes:
        elapsed_s: Only grows; for durations.
        now: Unix seconds; for records.
    """

    elapsed_s: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time


class SpecMaker(Protocol):
    """Turns sampled values into what a trial's process needs."""

    def make(self, number: int, sampled: Sampled) -> TrialSpec:
        """Returns the specification of a new trial.

        Raises:
            RequestError: When the values are no valid run.
        """
        ...

    def options(self, spec: TrialSpec, least_bytes: int = 0) -> tuple[Option, ...]:
        """Returns every way to run a trial.

        Args:
            spec: The trial.
            least_bytes: What its cards must give together at least, whatever the estimate says.

        Raises:
            RequestError: When it can never run here; says what would make it fit.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """Who decides what in a sweep.

    Attributes:
        sampler: Which configurations are tried.
        specs: How they run.
        early_stopping: Which trials go on.
        retry: What is tried again.
        inherit: Copies a donor's checkpoint for a trial of a population.
    """

    sampler: Sampler
    specs: SpecMaker
    early_stopping: EarlyStopping
    retry: RetryPolicy
    inherit: Inherit


@dataclass(frozen=True, kw_only=True)
class SweepLimits:
    """Of one sweep.

    Attributes:
        sweep: Its name.
        goal: Whether high or low values are good.
        longest: Evaluations of a trial that is never stopped; a trial ends by itself there.
        side_by_side: Trials that run at a time; a sampler that learns from results suggests no more than that.
        ends_at_s: Reading of the elapsed clock after which trials end at their next report; None for never.
        scheduler: Name of the scheduler that stops trials, for reasons.
    """

    sweep: str
    goal: Goal
    longest: int
    side_by_side: int
    ends_at_s: float | None = None
    scheduler: str = "the scheduler"


class SweepState:
    """Makes every decision of one sweep.

    Args:
        decisions: Who decides what.
        limits: See there.
        journal: Its events; what it holds already is replayed.
        clocks: Injected in tests.
    """

    def __init__(self, decisions: Decisions, limits: SweepLimits, journal: Journal, clocks: Clocks) -> None:
        self._sampler, self._specs, self._scheduler = decisions.sampler, decisions.specs, decisions.early_stopping
        self._retry, self._inherit, self._limits = decisions.retry, decisions.inherit, limits
        self._journal, self._clocks = journal, clocks
        self._out: list[Instruction] = []
        self._specs_of: dict[int, TrialSpec] = {}  # of trials that were suggested and are not in the journal yet
        self._new = [number for number in self._sampler.order if number not in journal.trials]
        self._options: dict[int, tuple[Option, ...]] = {}
        self._queued: dict[int, None] = {}  # submitted to the broker, not granted; in that order
        self._launching: dict[int, float] = {}  # granted, not started by Ray: since when
        self._ending: dict[int, str] = {}  # will end at its present report, as stopped: why
        self._pausing: dict[int, str] = {}  # will give its share back: why
        self._pause_requests: dict[int, str] = {}
        self._failures: dict[int, tuple[FailureKind, str]] = {}
        self._exploits: dict[int, Exploit] = {}
        self._unplaceable: dict[int, tuple[str, float]] = {}  # reason, and when it asks again
        self._no_node_since_s: float | None = None
        self._stalls = StallWatch(self._retry.anomalies.stall_limit_s)
        self._suspects = SuspectNodes()
        self._stopping = False
        self.waiting: dict[int, str] = {}
        self._resume()

    # What others read

    @property
    def stopping(self) -> bool:
        """Whether the driver was asked to stop."""
        return self._stopping

    @property
    def is_over(self) -> bool:
        """Whether every trial has ended and none is left to suggest."""
        return not self._new and not self._specs_of and not self._open()

    @property
    def is_idle(self) -> bool:
        """Whether no attempt runs or is being launched."""
        return not self._launching and not any(trial.running for trial in self._journal.trials.values())

    @property
    def queued(self) -> list[int]:
        """Trials that wait for the broker, in the order in which they were submitted."""
        return list(self._queued)

    def request_name(self, number: int) -> str:
        """Returns the name of a trial's request."""
        return request_name(self._limits.sweep, number)

    # The entry

    def handle(self, *events: Event) -> list[Instruction]:
        """Takes in events and returns what to do, in order."""
        for event in events:
            self._dispatch(event)
        self._carry_out_exploits()
        self._submit_more()
        out, self._out = self._out, []
        return out

    def _dispatch(self, event: Event) -> None:
        if isinstance(event, Allocated):
            self._allocated(event)
        elif isinstance(event, PauseRequested):
            self._pause_requests[event.number] = event.reason
        elif isinstance(event, Unplaceable):
            self._queued.pop(event.number, None)
            self._unplaceable[event.number] = event.reason, self._clocks.elapsed_s() + RESUBMIT_S
            self._wait(event.number, event.reason)
        elif isinstance(event, StillWaiting):
            if event.number in self._journal.trials:
                self._journal.write("waits", event.number, reason=event.reason)
            self._wait(event.number, event.reason)
        elif isinstance(event, AttemptStarted):
            self._started(event.number)
        elif isinstance(event, Reported):
            self._reported(event.number, event.result)
        elif isinstance(event, CheckpointSaved):
            earlier = self._journal.trials[event.number].checkpoint
            self._journal.write("saved", event.number, folder=str(event.folder))
            if earlier is not None and earlier.parent != event.folder.parent:
                self._out.append(ForgetCheckpoints(checkpoint=earlier))
        elif isinstance(event, AttemptEnded):
            self._attempt_ended(event)
        elif isinstance(event, TunerDied):
            self._notify(f"Ray Tune ended with an error ({event.error}); the sweep goes on from its journal")
            self._tuner_died(event)
        elif isinstance(event, StopRequested):
            self._stop()
        else:
            self._tick()

    # From a suggestion to an attempt

    def _submit_more(self) -> None:
        """Submits trials that the scheduler lets run, and suggests more."""
        while not self._stopping:
            for number in self._scheduler.runnable():
                if not self._has_attempt(number):  # else it is submitted when its attempt has ended
                    self._submit(number)
            if self._is_out_of_time():
                self._drop_what_never_ran()
                return
            if not self._new or self._has_enough_suggestions():
                return
            self._suggest(self._new.pop(0))

    def _has_enough_suggestions(self) -> bool:
        """Whether a sampler that learns from results should wait for some."""
        waiting = len(set(self._queued) | set(self._unplaceable))
        running = sum(1 for trial in self._open().values() if trial.running)
        return waiting >= WAITING_SUGGESTIONS or waiting + running + len(self._launching) >= self._limits.side_by_side

    def _has_attempt(self, number: int) -> bool:
        trial = self._journal.trials.get(number)
        return number in self._launching or (trial is not None and trial.running)

    def _suggest(self, number: int) -> None:
        sampled = self._sampler.suggest(number)
        if sampled is None:
            self._new.clear()
            return
        self._scheduler.add(number, sampled)
        self._prepare(number, sampled)

    def _prepare(self, number: int, sampled: Sampled) -> None:
        """Finds out how a new trial can run; it is submitted when the scheduler lets it run."""
        try:
            self._specs_of[number] = self._specs.make(number, sampled)
            self._options[number] = self._specs.options(self._specs_of[number])
        except RequestError as error:
            self._refuse(number, sampled, error)
            return
        if not self._sampler.is_list:  # what a sampler suggests depends on results, so it is kept at once
            self._write_submitted(number)

    def _write_submitted(self, number: int) -> None:
        spec = self._specs_of.pop(number)
        spec = spec.at(self._options[number][0].placement)
        self._journal.write("submitted", number, spec=spec.to_dict())

    def _submit(self, number: int, *, first: bool = False) -> None:
        """Asks the broker for a share; the scheduler lets the trial run."""
        if self._stopping or number in self._queued:
            return
        if number in self._exploits:  # submitted when it is carried out
            return
        trial = self._journal.trials.get(number)
        if number not in self._options:
            assert trial is not None, f"trial {number} has no options and no history"
            try:
                self._options[number] = self._specs.options(self._spec(number), trial.least_bytes)
            except RequestError as error:  # the cards that could hold it are gone
                self._close(number, "failed", str(error), "wrong_request")
                return
        self._queued[number] = None
        request = request_for(self._limits.sweep, number, self._options[number], first=first)
        self._out.append(Submit(number=number, request=request))

    def _allocated(self, event: Allocated) -> None:
        number = event.number
        if number not in self._queued or self._stopping:  # it was withdrawn meanwhile
            self._queued.pop(number, None)
            self._out.append(Release(number=number))
            return
        self._queued.pop(number, None)
        self._unplaceable.pop(number, None)
        if number in self._specs_of:
            self._write_submitted(number)
        option = next(one for one in self._options[number] if one.alternative.model == event.model)
        spec = self._spec(number).at(option.placement, event.nodes)
        values, before = spec.to_dict(), self._journal.trials[number].spec
        placement = {name: values[name] for name in PLACEMENT_FIELDS}
        if any(before.get(name) != value for name, value in placement.items()):
            self._journal.write("allocated", number, placement=placement)
        self._launching[number] = self._clocks.elapsed_s()
        self._out.append(Launch(spec=spec))

    def _spec(self, number: int) -> TrialSpec:
        if number in self._specs_of:
            return self._specs_of[number]
        trial = self._journal.trials[number]
        resume_from = str(trial.checkpoint) if trial.checkpoint else None
        return TrialSpec.from_dict({**trial.spec, "resume_from": resume_from})

    def _started(self, number: int) -> None:
        self._launching.pop(number, None)
        self.waiting.pop(number, None)
        spec = TrialSpec.from_dict(self._journal.trials[number].spec)
        trial = self._journal.write("started", number, bundle=asdict(spec.bundle), **self._times())
        self._stalls.started(number, self._clocks.elapsed_s())
        self._out.append(ConfirmStart(number=number))
        attempt = trial.starts - trial.pauses
        again = f" again (attempt {attempt})" if attempt > 1 else ""
        verb = "continues after a pause" if trial.pauses and not again else f"starts{again}"
        self._notify(f"trial {number} {verb}{_described(spec)}: {trial.name}")

    # While it runs

    def _reported(self, number: int, result: Mapping[str, object]) -> None:
        if not self._journal.trials[number].running:  # it was given up meanwhile
            self._out.append(EndAttempt(number=number))
            return
        now_s = self._clocks.elapsed_s()
        if STARTED_KEY in result:
            location = {key.partition("/")[2]: result[key] for key in LOCATION_KEYS if key in result}
            self._journal.write("located", number, location=location)
            return
        if FAILURE_KEY in result:
            self._failures[number] = cast("FailureKind", result[FAILURE_KEY]), str(result[FAILURE_MESSAGE_KEY])
            return  # its process ends by itself
        if INTERRUPTED_KEY in result:
            self._pausing[number] = _STOPPED
        elif WAITING_KEY in result:
            self._stalls.started(number, now_s)
            self._wait(number, str(result[WAITING_KEY]), shown="waits with its share")
            self._end_or_pause(number, Ruling())
        else:
            self._stalls.reported(number, now_s)
            self._suspects.reported(str(result.get("trial/node", "")))
            self.waiting.pop(number, None)
            self._evaluated(number, result)
        if number in self._ending or number in self._pausing:
            self._out.append(EndAttempt(number=number))

    def _evaluated(self, number: int, result: Mapping[str, object]) -> None:
        metric = str(self._journal.trials[number].spec["metric"])
        evaluation, value = cast("int", result[EVALUATION_KEY]), float(cast("float", result[metric]))
        trial = self._journal.write(
            "reported", number, evaluation=evaluation, value=value, metrics=_plain(result), **self._times()
        )
        ruling = self._scheduler.report(number, result_for_scheduler(trial, evaluation, value))
        self._apply(ruling)
        if evaluation < self._limits.longest:  # else it ends by itself now: there is nothing to stop or to pause
            self._end_or_pause(number, ruling)
        else:
            self._exploits.pop(number, None)

    def _end_or_pause(self, number: int, ruling: Ruling) -> None:
        if ruling.decision == "stop":
            self._ending[number] = f"{self._limits.scheduler} stopped it"
        elif self._is_out_of_time():
            self._ending[number] = "the sweep's time is over"
        elif self._stopping:
            self._pausing[number] = _STOPPED
        elif number in self._pause_requests:
            self._pausing[number] = self._pause_requests.pop(number)
        elif number in self._exploits:
            exploit = self._exploits[number]
            changes = f"; {'; '.join(exploit.changes)}" if exploit.changes else ""
            self._pausing[number] = f"continues with the weights of trial {exploit.donor}{changes}"
        elif ruling.decision == "pause":
            self._pausing[number] = f"{self._limits.scheduler} paused it"

    def _apply(self, ruling: Ruling) -> None:
        """Does what the scheduler decided about other trials."""
        for exploit in ruling.exploits:
            self._exploits[exploit.number] = exploit
        for number in ruling.stopped:
            trial = self._journal.trials.get(number)
            if self._has_attempt(number):
                self._ending[number] = f"{self._limits.scheduler} stopped it"
                if number in self._launching:
                    self._out.append(CancelLaunch(number=number))
            elif trial is not None and trial.status is None:
                self._close(number, "stopped", f"{self._limits.scheduler} stopped it while it was paused", None)

    def _carry_out_exploits(self) -> None:
        """Copies weights as soon as the donor's checkpoint is complete and the trial has given its share back."""
        for number, exploit in sorted(self._exploits.items()):
            trial, donor = self._journal.trials[number], self._journal.trials[exploit.donor]
            if trial.status is not None:
                self._exploits.pop(number)
                continue
            behind = donor.running and donor.checkpoint_evaluation < exploit.donor_evaluation
            if trial.running or number in self._launching or behind:
                continue
            self._exploits.pop(number)
            copied = self._inherit(trial, donor, exploit)
            if copied is None:
                self._scheduler.keep(number, cast("Sampled", trial.spec["sampled"]))
            else:
                self._journal.write("copied", number, **copied)
                self._options.pop(number, None)
            if self._scheduler.is_running(number):
                self._submit(number)

    # When an attempt ends

    def _attempt_ended(self, event: AttemptEnded) -> None:
        number, trial = event.number, self._journal.trials[event.number]
        hung = self._stalls.left(number)
        launching = self._launching.pop(number, None) is not None
        if launching and event.error is None and number not in self._ending:
            self._launch_cancelled(number)
            return
        failure = self._failures.pop(number, None)
        if failure is None and event.error is not None:
            failure = ("stalled", hung) if hung is not None else (event.kind, event.error)
        if not launching and not trial.running:  # Tune reports the end of a lost process more than once
            return
        self._out.append(Release(number=number))
        reason, stopped = self._pausing.pop(number, None), self._ending.pop(number, None)
        if failure is not None:
            self._failed(number, *failure)
        elif reason is not None:
            self._paused(number, reason)
        else:
            self._close(number, "stopped" if stopped else "finished", stopped or "", None)

    def _tuner_died(self, event: TunerDied) -> None:
        """All attempts are gone; only those that caused it have failed."""
        for number in list(self._launching):
            self._launching.pop(number)
            self._out.append(Release(number=number))
            self._submit(number)
        for number in [number for number, trial in self._open().items() if trial.running]:
            if number in event.caused_by or not event.caused_by:
                self._attempt_ended(AttemptEnded(number=number, error=event.error, kind=event.kind))
            else:
                self._pausing[number] = "Ray Tune ended with an error"
                self._attempt_ended(AttemptEnded(number=number))

    def _launch_cancelled(self, number: int) -> None:
        if self._stopping:
            self._out.append(Release(number=number))
            return
        reason = f"Ray did not start it within {format_duration(LAUNCH_LIMIT_S)}"
        self._queued[number] = None
        self._out.append(ReturnAllocation(number=number, reason=reason))
        self._wait(number, reason)

    def _paused(self, number: int, reason: str) -> None:
        trial = self._journal.write("paused", number, reason=reason, **self._times())
        self._notify(f"trial {number} pauses after evaluation {len(trial.evaluations)}: {reason}")
        if self._scheduler.is_running(number):  # else the scheduler paused it, and lets it run again later
            self._submit(number)

    def _failed(self, number: int, kind: FailureKind, message: str) -> None:
        trial = self._journal.trials[number]
        if kind in LOST and (suspect := self._suspects.lost(_node_of(trial), number)):
            self._notify(suspect)
        if not self._retry.starts_again(trial, kind):
            if kind in LOST and trial.lost_in_a_row:
                message += f"; lost {trial.lost_in_a_row + 1} times in a row, last on {_node_of(trial)}"
            self._close(number, "failed", message, kind)
            return
        found: dict[str, int] = {}
        change = ""
        if kind == "out_of_memory":
            try:
                found, change = self._wants_more(number)
            except RequestError as error:
                reason = f"{message}; it had all that a card here can give: {error}"
                self._close(number, "failed", reason, "out_of_memory")
                return
        if kind in LOST:
            found = {"lost_in_a_row": trial.lost_in_a_row + 1}
        self._journal.write("retried", number, kind=kind, message=message, **found, **self._times())
        self._notify(f"trial {number} failed and starts again: {kind.replace('_', ' ')}{change} ({message})")
        self._submit(number, first=kind == "out_of_memory")

    def _wants_more(self, number: int) -> tuple[dict[str, int], str]:
        """Finds larger alternatives after an out-of-memory; raises RequestError where no card can give more."""
        spec = self._spec(number)
        least_bytes = next_bytes(spec.bundle.gpus, spec.usable_bytes or 0)
        self._options[number] = self._specs.options(spec, least_bytes)
        same = [one.placement.bundle for one in self._options[number] if one.placement.gpu_model == spec.gpu_model]
        change = "; a larger card is needed"
        if same:
            change = f"; {spec.bundle.gpus:g} -> {same[0].gpus:g} {'cards' if same[0].ranks > 1 else 'of a card'}"
        return {"least_bytes": least_bytes}, change

    def _close(self, number: int, status: EndStatus, reason: str, kind: FailureKind | None) -> None:
        if number in self._queued:
            self._queued.pop(number, None)
            self._out.append(Withdraw(number=number))
        for kept in (self.waiting, self._unplaceable, self._options, self._pause_requests, self._exploits):
            kept.pop(number, None)
        trial = self._journal.write("ended", number, status=status, reason=reason, failure=kind, **self._times())
        self._out.append(CloseTrial(number=number))
        best = best_of(trial.values, lambda one: one[1], self._limits.goal)
        scored = f", best {best[1]:.3f} after {len(trial.evaluations)} evaluations" if best is not None else ""
        self._notify(f"trial {number} {status}{scored}{': ' + reason if reason else ''}")
        self._sampler.observe(number, completed_trial(trial, self._limits.goal))
        self._apply(self._scheduler.fail(number) if kind else self._scheduler.complete(number))

    def _refuse(self, number: int, sampled: Sampled, error: RequestError) -> None:
        self._specs_of.pop(number, None)
        self._journal.write("submitted", number, spec={"name": f"trial {number}", "sampled": dict(sampled)})
        self._journal.write(
            "ended", number, status="refused", reason=str(error), failure="wrong_request", **self._times()
        )
        self._out.append(CloseTrial(number=number))
        self._notify(f"trial {number} refused: {error}")
        self._sampler.observe(number, completed_trial(self._journal.trials[number], self._limits.goal))
        self._apply(self._scheduler.remove(number))

    # Time, and the end

    def _tick(self) -> None:
        now_s = self._clocks.elapsed_s()
        for number, since_s in self._launching.items():
            if now_s - since_s > LAUNCH_LIMIT_S:
                self._out.append(CancelLaunch(number=number))
        for number, reason in self._stalls.hanging(now_s).items():
            self._notify(f"trial {number} hangs: {reason}")
            self._out.append(KillProcess(number=number))
        self._ask_again(now_s)

    def _ask_again(self, now_s: float) -> None:
        """Submits trials again that no node could hold, and gives them up when nothing else is left for long."""
        for number, (_, again_at_s) in list(self._unplaceable.items()):
            if now_s >= again_at_s and not self._stopping:
                reason = self._unplaceable[number][0]
                self._unplaceable[number] = reason, now_s + RESUBMIT_S
                self._submit(number)
        stuck = bool(self._unplaceable) and self.is_idle and set(self._queued) <= set(self._unplaceable)
        self._no_node_since_s = (self._no_node_since_s or now_s) if stuck else None
        if self._no_node_since_s is not None and now_s - self._no_node_since_s > NO_NODE_LIMIT_S:
            for number, (reason, _) in list(self._unplaceable.items()):
                if number in self._specs_of:
                    self._write_submitted(number)
                self._close(number, "failed", reason, "wrong_request")

    def _stop(self) -> None:
        if self._stopping:
            return
        self._stopping = True
        self._notify("asked to stop: trials save a checkpoint at their next step and end")
        self._out.append(AskToSave())
        self._out += [Withdraw(number=number) for number in sorted(self._queued)]
        self._queued.clear()
        self._out += [CancelLaunch(number=number) for number in sorted(self._launching)]

    def _is_out_of_time(self) -> bool:
        ends_at_s = self._limits.ends_at_s
        return ends_at_s is not None and self._clocks.elapsed_s() >= ends_at_s

    def _drop_what_never_ran(self) -> None:
        """Ends the sweep's window: trials that never ran are left out, those that paused end where they are."""
        self._new.clear()
        for number in sorted(set(self._queued) | set(self._unplaceable)):
            if number in self._specs_of:
                if number in self._queued:
                    self._out.append(Withdraw(number=number))
                self._queued.pop(number, None)
                self._unplaceable.pop(number, None)
        self._specs_of = {number: spec for number, spec in self._specs_of.items() if number in self._launching}
        for number, trial in self._open().items():
            if not trial.running and number not in self._launching:
                self._close(number, "stopped", "the sweep's time is over", None)

    def _open(self) -> dict[int, TrialHistory]:
        return {number: trial for number, trial in self._journal.trials.items() if trial.status is None}

    # Another driver's journal

    def _resume(self) -> None:
        """Continues where an earlier driver was; with an empty journal, begins."""
        self._exploits = replay(self._journal, self._sampler, self._scheduler, self._limits.goal)
        for number, trial in sorted(self._journal.trials.items()):
            if trial.running:  # its driver was killed
                self._journal.write("interrupted", number)
            if trial.status == "failed" and trial.failure in LOST:
                self._journal.write("reopened", number)
                self._notify(f"trial {number} had failed with its process and is tried again")
        if self._sampler.is_list:
            for number in self._new:
                self._prepare(number, self._sampler.suggest(number) or {})
            self._new.clear()

    # Small things

    def _wait(self, number: int, reason: str, shown: str = "waits") -> None:
        if self.waiting.get(number) != reason:
            self._notify(f"trial {number} {shown}: {reason}")
        self.waiting[number] = reason

    def _notify(self, text: str) -> None:
        self._out.append(Notify(text=text))

    def _times(self) -> dict[str, float]:
        return {"at": self._clocks.now(), "elapsed_s": self._clocks.elapsed_s()}


def _described(spec: TrialSpec) -> str:
    gpus = spec.bundle.gpus
    if spec.bundle.ranks > 1:
        return f", {gpus:g} cards"
    return f", {gpus:g} of a card" if 0 < gpus < 1 else ""


def _node_of(trial: TrialHistory) -> str:
    attempt = trial.attempts[-1] if trial.attempts else {}
    nodes = cast("list[str]", trial.bundle.get("nodes") or [])
    return str(attempt.get("node") or (nodes[0] if nodes else "this machine"))


def _plain(result: Mapping[str, object]) -> dict[str, object]:
    """Keeps what the trial reported (its names have a slash), without Tune's own and without what JSON cannot hold."""
    return {
        name: value
        for name, value in result.items()
        if "/" in name
        and not name.startswith("config/")
        and not (isinstance(value, float) and not math.isfinite(value))
    }
