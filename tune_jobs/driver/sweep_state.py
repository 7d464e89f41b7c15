"""The state of a running sweep: events in, instructions out.

`handle` is the only entry. It decides which trial is submitted next, when an attempt ends early, and what follows from
a failure. The journal is its only memory that outlives the driver: a new state replays it. Who runs where is the
broker's decision; which trials continue is the decision of the sweep's scheduler (EarlyStopping).
"""

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import cast

from tune_jobs.driver.events import (
    Allocated,
    AskToSave,
    AttemptEnded,
    AttemptStarted,
    CheckpointSaved,
    CloseTrial,
    ConfirmStart,
    EndAttempt,
    Event,
    ForgetCheckpoints,
    Instruction,
    KillProcess,
    Notify,
    PauseRequested,
    Release,
    Reported,
    StillWaiting,
    StopRequested,
    TimePassed,
    TunerDied,
    Unplaceable,
)
from tune_jobs.driver.recovery import LOST, SuspectNodes, failed_alike, next_bytes
from tune_jobs.driver.replay import completed_trial, is_half_refused, replay, result_for_scheduler
from tune_jobs.driver.stall_watch import StallWatch
from tune_jobs.driver.sweep_parts import Clocks, SweepLimits, SweepParts
from tune_jobs.driver.trial_queue import TrialQueue
from tune_jobs.placing.submission import request_name
from tune_jobs.records.journal import EndStatus, Journal, TrialHistory
from tune_jobs.records.trial_spec import (
    DAMAGED_EVALUATION_KEY,
    DAMAGED_KEY,
    DAMAGED_START_KEY,
    EVALUATION_KEY,
    FAILURE_KEY,
    FAILURE_MESSAGE_KEY,
    INTERRUPTED_KEY,
    LOCATION_KEYS,
    STARTED_KEY,
    STOP_FILE,
    WAITING_KEY,
    FailureKind,
    TrialSpec,
)
from tune_jobs.search.early_stopping import Exploit, Ruling
from tune_jobs.search.samplers import Sampled
from tuning_common.errors import RequestError
from tuning_common.goal import best_of
from tuning_common.units import format_duration

_STOPPED = "the driver was asked to stop"


class SweepState:
    """Makes every decision of one sweep.

    Args:
        parts: Who decides what.
        limits: See there.
        journal: Its events; what it holds already is replayed.
        clocks: Injected in tests.
    """

    def __init__(self, parts: SweepParts, limits: SweepLimits, journal: Journal, clocks: Clocks) -> None:
        self._sampler, self._scheduler = parts.sampler, parts.early_stopping
        self._retry, self._inherit, self._limits = parts.retry, parts.inherit, limits
        self._learning = parts.learning
        self._journal, self._clocks = journal, clocks
        self._queue = TrialQueue(parts, limits, journal, clocks)
        self._out: list[Instruction] = []
        self._ending: dict[int, str] = {}  # will end at its present report, as stopped: why
        self._pausing: dict[int, str] = {}  # will give its share back: why
        self._pause_requests: dict[int, str] = {}
        self._failures: dict[int, tuple[FailureKind, str]] = {}
        self._exploits: dict[int, Exploit] = {}
        self._stalls = StallWatch(self._retry.anomalies.stall_limit_s)
        self._suspects = SuspectNodes()
        self._stopping = self.leaves_stop_file = False
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
        return self._queue.is_empty and not self._open()

    @property
    def is_idle(self) -> bool:
        """Whether no attempt runs or is being launched."""
        return not self._queue.launching and not self._running()

    def stalled_in_queue(self, most: int) -> list[int]:
        """Returns queued trials whose waiting is news: that ran before, or all where nothing of the sweep runs."""
        queued = self._queue.queued
        return (queued if self.is_idle else [number for number in queued if number in self._journal.trials])[:most]

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
        self._out += self._queue.renew()
        out, self._out = self._out, []
        return out

    def _dispatch(self, event: Event) -> None:
        match event:
            case Allocated():
                self._out.append(self._queue.allocate(event))
            case PauseRequested(number=number, reason=reason):
                self._pause_requests[number] = reason
            case Unplaceable(number=number, reason=reason):
                self._queue.set_unplaceable(event)
                self._wait(number, reason)
            case StillWaiting(number=number, reason=reason):
                if number in self._journal.trials:
                    self._journal.write("waits", number, reason=reason)
                self._wait(number, reason)
            case AttemptStarted(number=number):
                self._started(number)
            case Reported(number=number, result=result):
                self._reported(number, result)
            case CheckpointSaved(number=number, folder=folder):
                self._saved(number, folder)
            case AttemptEnded():
                self._attempt_ended(event)
            case TunerDied():
                self._tuner_died(event)
            case StopRequested():
                self._stop()
            case TimePassed():
                self._tick()

    # From a suggestion to an attempt

    def _submit_more(self) -> None:
        """Submits trials that the scheduler lets run, and suggests more."""
        while not self._stopping:
            for number in self._scheduler.runnable():
                if not self._has_attempt(number):  # else it is submitted when its attempt has ended
                    self._submit(number)
            if self._is_out_of_time():
                self._end_what_waits()
                return
            suggested = self._queue.suggest(len(self._running()))
            if suggested is None:
                return
            self._scheduler.add(*suggested)
            self._prepare(*suggested)

    def _prepare(self, number: int, sampled: Sampled) -> None:
        try:
            self._queue.prepare(number, sampled)
        except RequestError as error:
            self._refuse(number, sampled, error)

    def _submit(self, number: int, *, first: bool = False) -> None:
        if self._stopping or number in self._exploits:  # with an exploit it is submitted when that is carried out
            return
        try:
            self._out += self._queue.submit(number, first=first)
        except RequestError as error:  # the cards that could hold it are gone
            self._close(number, "failed", str(error), "wrong_request")

    def _has_attempt(self, number: int) -> bool:
        trial = self._journal.trials.get(number)
        return number in self._queue.launching or (trial is not None and trial.running)

    def _started(self, number: int) -> None:
        self._queue.started(number)
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

    def _saved(self, number: int, folder: Path) -> None:
        trial = self._journal.write("saved", number, folder=str(folder))
        kept = {one.parent for one in (trial.checkpoint, trial.earlier_checkpoint) if one is not None}
        for one in [one for one in trial.checkpoint_folders if one not in kept]:
            trial.checkpoint_folders.remove(one)
            self._out.append(ForgetCheckpoints(folder=one))

    def _reported(self, number: int, result: Mapping[str, object]) -> None:
        if not self._journal.trials[number].running:  # it was given up meanwhile
            self._out.append(EndAttempt(number=number))
            return
        now_s = self._clocks.elapsed_s()
        if STARTED_KEY in result:
            location = {key.partition("/")[2]: result[key] for key in LOCATION_KEYS if key in result}
            self._journal.write("located", number, location=location)
            return
        if DAMAGED_KEY in result:
            self._damaged(number, result)
            return
        if FAILURE_KEY in result:
            self._failures[number] = cast("FailureKind", result[FAILURE_KEY]), str(result[FAILURE_MESSAGE_KEY])
            return  # its process ends by itself
        if INTERRUPTED_KEY in result:
            self._found_stop_file()
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

    def _damaged(self, number: int, result: Mapping[str, object]) -> None:
        start = cast("str | None", result[DAMAGED_START_KEY])
        evaluation = cast("int", result[DAMAGED_EVALUATION_KEY])
        reasons = cast("list[str]", result[DAMAGED_KEY])
        self._journal.write("damaged", number, reasons=reasons, folder=start, evaluation=evaluation)
        instead = f"it continues from evaluation {evaluation}" if start else "it starts anew"
        self._notify(f"trial {number}: {'; '.join(reasons)}; {instead}")

    def _evaluated(self, number: int, result: Mapping[str, object]) -> None:
        metric = str(self._journal.trials[number].spec["metric"])
        evaluation, value = cast("int", result[EVALUATION_KEY]), float(cast("float", result[metric]))
        trial = self._journal.write(
            "reported", number, evaluation=evaluation, value=value, metrics=_plain(result), **self._times()
        )
        if learned := self._learning.reported(trial.spec, result, self._queue.to_come):
            self._notify(learned)
        ruling = self._scheduler.report(number, result_for_scheduler(trial, evaluation, value))
        self._apply(ruling)
        if not self._made_all_evaluations(trial):  # else it ends by itself now: there is nothing to stop or to pause
            self._end_or_pause(number, ruling)

    def _end_or_pause(self, number: int, ruling: Ruling) -> None:
        if ruling.decision == "stop":
            self._ending[number] = self._stopped_by_scheduler(number)
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

    def _stopped_by_scheduler(self, number: int) -> str:
        evaluation = max(self._journal.trials[number].evaluations, default=0)
        return f"{self._limits.scheduler} stopped it at evaluation {evaluation}"

    def _apply(self, ruling: Ruling) -> None:
        """Does what the scheduler decided about other trials."""
        for exploit in ruling.exploits:
            self._exploits[exploit.number] = exploit
        for number in ruling.stopped:
            trial = self._journal.trials.get(number)
            if self._has_attempt(number):
                self._ending[number] = self._stopped_by_scheduler(number)
                self._out += self._queue.cancel([number])
            elif trial is not None and trial.status is None:
                self._close(number, "stopped", self._stopped_by_scheduler(number), None)

    def _carry_out_exploits(self) -> None:
        """Copies weights as soon as the donor's checkpoint is complete and the trial has given its share back."""
        for number, exploit in sorted(self._exploits.items()):
            trial, donor = self._journal.trials[number], self._journal.trials[exploit.donor]
            if trial.status is not None:
                self._exploits.pop(number)
                continue
            behind = donor.checkpoint_evaluation < exploit.donor_evaluation and self._will_save(donor)
            if self._has_attempt(number) or behind:
                continue
            self._exploits.pop(number)
            copied = self._inherit(trial, donor, exploit)
            if copied is None:
                self._scheduler.keep(number, cast("Sampled", trial.spec["sampled"]))
            else:
                self._journal.write("copied", number, **copied)
                self._queue.forget_options(number)
            if self._scheduler.is_running(number):
                self._submit(number)

    def _will_save(self, donor: TrialHistory) -> bool:
        """Whether a donor writes another checkpoint: it runs, or makes again what was lost with an earlier driver."""
        is_next = donor.status is None and donor.number not in self._exploits
        return donor.running or (is_next and self._scheduler.is_running(donor.number))

    # When an attempt ends

    def _attempt_ended(self, event: AttemptEnded) -> None:
        number, trial = event.number, self._journal.trials[event.number]
        hung = self._stalls.left(number)
        launching = self._queue.started(number)
        if launching and event.error is None and number not in self._ending:
            self._launch_cancelled(number)
            return
        failure = self._failures.pop(number, None)
        if failure is None and event.error is not None:
            failure = ("stalled", hung) if hung is not None else (event.kind, event.error)
        if not launching and not trial.running:  # Tune reports the end of a lost process more than once
            return
        self._out.append(Release(number=number))
        self._pause_requests.pop(number, None)  # the share is free now
        reason, stopped = self._pausing.pop(number, None), self._ending.pop(number, None)
        if failure is not None:
            self._failed(number, *failure)
        elif reason is not None and stopped is None:  # else it was stopped while it paused
            self._paused(number, reason)
        else:
            self._close(number, "stopped" if stopped else "finished", stopped or "", None)

    def _tuner_died(self, event: TunerDied) -> None:
        """All attempts are gone; only those that caused it have failed."""
        self._notify(f"Ray Tune ended with an error ({event.error}); the sweep continues from its journal")
        for number in self._queue.launching:
            self._queue.started(number)
            self._out.append(Release(number=number))
            self._submit(number)
        for number in list(self._running()):
            if event.kind is not None and (number in event.caused_by or not event.caused_by):
                self._attempt_ended(AttemptEnded(number=number, error=event.error, kind=event.kind))
            else:
                self._pausing[number] = "Ray Tune ended with an error"
                self._attempt_ended(AttemptEnded(number=number))

    def _launch_cancelled(self, number: int) -> None:
        if self._stopping:
            self._out.append(Release(number=number))
            return
        reason = f"Ray did not start it within {format_duration(self._queue.launch_limit_s(number))}"
        self._out.append(self._queue.return_allocation(number, reason))
        self._wait(number, reason)

    def _paused(self, number: int, reason: str) -> None:
        trial = self._journal.write("paused", number, reason=reason, **self._times())
        self._notify(f"trial {number} pauses after evaluation {len(trial.evaluations)}: {reason}")
        if self._scheduler.is_running(number) or self._made_all_evaluations(trial):
            self._submit(number)  # else the scheduler paused it, and lets it run again later

    def _failed(self, number: int, kind: FailureKind, message: str) -> None:
        trial = self._journal.trials[number]
        if kind in LOST and (suspect := self._suspects.lost(_node_of(trial), number)):
            self._notify(suspect)
        if not self._retry.starts_again(trial, kind):
            if kind in LOST and trial.lost_in_a_row:
                message += f"; lost {trial.lost_in_a_row + 1} times in a row, last on {_node_of(trial)}"
            self._close(number, "failed", message, kind)
            self._stop_if_all_fail()
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
        spec = self._queue.spec(number)
        least_bytes = next_bytes(spec.bundle.gpus, spec.usable_bytes or 0)
        options = self._queue.replace_options(number, least_bytes)
        same = [one.placement.bundle for one in options if one.placement.gpu_model == spec.gpu_model]
        change = "; a larger card is needed"
        if same:
            change = f"; {spec.bundle.gpus:g} -> {same[0].gpus:g} {'cards' if same[0].ranks > 1 else 'of a card'}"
        return {"least_bytes": least_bytes}, change

    def _close(self, number: int, status: EndStatus, reason: str, kind: FailureKind | None) -> None:
        self._out += self._queue.forget(number)
        for kept in (self.waiting, self._pause_requests, self._exploits):
            kept.pop(number, None)
        trial = self._journal.write("ended", number, status=status, reason=reason, failure=kind, **self._times())
        self._out.append(CloseTrial(number=number))
        self._learning.ended(trial)
        best = best_of(trial.values, lambda one: one[1], self._limits.goal)
        scored = f", best {best[1]:.3f} after {len(trial.evaluations)} evaluations" if best is not None else ""
        self._notify(f"trial {number} {status}{scored}{': ' + reason if reason else ''}")
        self._sampler.observe(number, completed_trial(trial, self._limits.goal))
        self._apply(self._scheduler.fail(number) if kind else self._scheduler.complete(number))

    def _refuse(self, number: int, sampled: Sampled, error: RequestError) -> None:
        self._queue.forget(number)
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
        self._out += self._queue.cancel(self._queue.overdue())
        for number, reason in self._stalls.hanging(self._clocks.elapsed_s()).items():
            self._notify(f"trial {number} hangs: {reason}")
            self._out.append(KillProcess(number=number))
        for number in self._queue.due_again():
            self._submit(number)
        for number, reason in self._queue.given_up(is_idle=self.is_idle).items():
            self._close(number, "failed", reason, "wrong_request")

    def _stop(self) -> None:
        if self._stopping:
            return
        self._stopping = True
        self._notify("asked to stop: trials save a checkpoint at their next step and end")
        self._out.append(AskToSave())
        self._out += self._queue.withdraw_all()

    def _stop_if_all_fail(self) -> None:
        """Stops where the first trials failed alike; the stop file stays, so that no supervisor starts it again."""
        reason = failed_alike(self._journal.trials.values())
        if reason is None or self.is_over or self._stopping:
            return
        self.leaves_stop_file = True
        ended = sum(trial.status is not None for trial in self._journal.trials.values())
        self._notify(
            f"the first {ended} trials failed alike, so the others are not tried: {reason}. Correct it and run the"
            " sweep again; --resume tries only those that are left"
        )
        self._stop()

    def _found_stop_file(self) -> None:
        """Stops where a trial found the stop file and the driver did not write it: a person did."""
        if not self._stopping:
            self.leaves_stop_file = True
            self._notify(f"somebody left a file {STOP_FILE!r} in the sweep's results")
            self._stop()

    def _is_out_of_time(self) -> bool:
        ends_at_s = self._limits.ends_at_s
        return ends_at_s is not None and self._clocks.elapsed_s() >= ends_at_s

    def _end_what_waits(self) -> None:
        """Leaves out trials that never ran, and ends those that paused where they are: the time is over."""
        self._out += self._queue.drop_unwritten()
        for number in self._open():
            if not self._has_attempt(number):
                self._close(number, "stopped", "the sweep's time is over", None)

    def _open(self) -> dict[int, TrialHistory]:
        return {number: trial for number, trial in self._journal.trials.items() if trial.status is None}

    def _made_all_evaluations(self, trial: TrialHistory) -> bool:
        return max(trial.evaluations, default=0) >= self._limits.longest

    def _running(self) -> list[int]:
        return [number for number, trial in self._journal.trials.items() if trial.running]

    # Another driver's journal

    def _resume(self) -> None:
        """Continues where an earlier driver was; with an empty journal, begins."""
        self._exploits = replay(self._journal, self._sampler, self._scheduler, self._limits.goal)
        for number, trial in sorted(self._journal.trials.items()):
            if trial.running:  # its driver was killed
                self._journal.write("interrupted", number)
            if trial.status == "failed" and trial.failure in LOST:
                self._journal.write("reopened", number)
                self._scheduler.add(number, cast("Sampled", trial.spec["sampled"]))
                self._notify(f"trial {number} had failed with its process and is tried again")
        for number, trial in self._open().items():
            if self._made_all_evaluations(trial):
                self._submit(number)
            elif not is_half_refused(trial) and self._scheduler.is_finished(number):  # as decided by the last report
                self._close(number, "stopped", self._stopped_by_scheduler(number), None)
        if self._sampler.is_list:
            for number, sampled in self._queue.take_list():
                self._prepare(number, sampled)

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
