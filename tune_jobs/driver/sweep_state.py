"""The state of a running sweep: events in, instructions out.

`handle` is the only entry. It decides which trial is submitted next, when an attempt ends early, and what follows from
a failure. The journal is its only memory that outlives the driver: a new state replays it. Who runs where is the
broker's decision; which trials continue is the decision of the sweep's scheduler (EarlyStopping).
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import cast

from tune_jobs.driver import events
from tune_jobs.driver.exploits import PendingExploits
from tune_jobs.driver.recovery import LOST, SuspectNodes, failed_alike
from tune_jobs.driver.replay import completed_trial, is_half_refused, replay, result_for_scheduler
from tune_jobs.driver.stall_watch import StallWatch
from tune_jobs.driver.sweep_parts import Clocks, SweepLimits, SweepParts
from tune_jobs.driver.trial_queue import TrialQueue
from tune_jobs.placing.submission import request_name
from tune_jobs.records import trial_spec
from tune_jobs.records.journal import EndStatus, Journal, TrialHistory
from tune_jobs.records.trial_spec import FailureKind, TrialSpec
from tune_jobs.search.early_stopping import Ruling
from tune_jobs.search.samplers import CompletedTrial, Sampled
from tuning_common.errors import RequestError
from tuning_common.units import counted

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
        self._retry, self._learning, self._limits = parts.retry, parts.learning, limits
        self._journal, self._clocks = journal, clocks
        self._queue = TrialQueue(parts, limits, journal, clocks)
        self._out: list[events.Instruction] = []
        self._ending: dict[int, str] = {}  # will end at its present report, as stopped: why
        self._pausing: dict[int, str] = {}  # will give its share back: why
        self._pause_requests: dict[int, str] = {}
        self._failures: dict[int, tuple[FailureKind, str]] = {}
        self._exploits = PendingExploits(journal, self._scheduler, parts.inherit)
        self._stalls = StallWatch(self._retry.anomalies.stall_limit_s)
        self._suspects = SuspectNodes()
        self.stopping = self.leaves_stop_file = False
        self.waiting: dict[int, str] = {}
        self._resume()

    # What others read

    @property
    def is_over(self) -> bool:
        """Whether every trial has ended and none is left to suggest."""
        return self._queue.is_empty and not self._journal.open

    @property
    def is_idle(self) -> bool:
        """Whether no attempt runs or is being launched."""
        return not self._queue.launching and not self._journal.running

    def stalled_in_queue(self, most: int) -> list[int]:
        """Returns queued trials whose waiting is news: that ran before, or all where nothing of the sweep runs."""
        queued = self._queue.queued
        return (queued if self.is_idle else [number for number in queued if number in self._journal.trials])[:most]

    def request_name(self, number: int) -> str:
        """Returns the name of a trial's request."""
        return request_name(self._limits.sweep, number)

    # The entry

    def handle(self, *taken: events.Event) -> list[events.Instruction]:
        """Takes in events and returns what to do, in order."""
        for event in taken:
            self._dispatch(event)
        self._carry_out_exploits()
        self._submit_more()
        self._out += self._queue.renew()
        out, self._out = self._out, []
        return out

    def _dispatch(self, event: events.Event) -> None:
        match event:
            case events.Allocated():
                self._out.append(self._queue.allocate(event))
            case events.PauseRequested(number=number, reason=reason):
                self._pause_requests[number] = reason
            case events.Unplaceable(number=number, reason=reason):
                self._queue.set_unplaceable(event)
                self._wait(number, reason)
            case events.StillWaiting(number=number, reason=reason):
                if number in self._journal.trials:
                    self._journal.write("waits", number, reason=reason)
                self._wait(number, reason)
            case events.AttemptStarted(number=number):
                self._started(number)
            case events.Reported(number=number, result=result):
                self._reported(number, result)
            case events.CheckpointSaved(number=number, folder=folder):
                self._saved(number, folder)
            case events.AttemptEnded():
                self._attempt_ended(event)
            case events.TunerDied():
                self._tuner_died(event)
            case events.StopRequested():
                self._stop()
            case events.TimePassed():
                self._tick()

    # From a suggestion to an attempt

    def _submit_more(self) -> None:
        """Submits trials that the scheduler lets run, and suggests more."""
        while not self.stopping:
            for number in self._scheduler.runnable():
                if not self._has_attempt(number):  # else it is submitted when its attempt has ended
                    self._submit(number)
            if self._is_out_of_time():
                self._end_what_waits()
                return
            suggested = self._queue.suggest(len(self._journal.running))
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
        if self.stopping or number in self._exploits:  # with an exploit it is submitted when that is carried out
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
        self._out.append(events.ConfirmStart(number=number))
        attempt = trial.starts - trial.pauses
        again = f" again (attempt {attempt})" if attempt > 1 else ""
        held = f", {held}" if (held := spec.bundle.describe()) else ""
        verb = "continues after a pause" if trial.pauses and not again else f"starts{again}"
        self._notify(f"trial {number} {verb}{held}: {trial.name}")

    # While it runs

    def _saved(self, number: int, folder: Path) -> None:
        trial = self._journal.write("saved", number, folder=str(folder))
        kept = {one.parent for one in (trial.checkpoint, trial.earlier_checkpoint) if one is not None}
        for one in [one for one in trial.checkpoint_folders if one not in kept]:
            trial.checkpoint_folders.remove(one)
            self._out.append(events.ForgetCheckpoints(folder=one))

    def _reported(self, number: int, result: Mapping[str, object]) -> None:
        if not self._journal.trials[number].running:  # it was given up meanwhile
            self._out.append(events.EndAttempt(number=number))
            return
        now_s = self._clocks.elapsed_s()
        if trial_spec.STARTED_KEY in result:
            location = {key.partition("/")[2]: result[key] for key in trial_spec.LOCATION_KEYS if key in result}
            self._journal.write("located", number, location=location)
            return
        if trial_spec.DAMAGED_KEY in result:
            self._damaged(number, result)
            return
        if trial_spec.FAILURE_KEY in result:
            kind, message = result[trial_spec.FAILURE_KEY], result[trial_spec.FAILURE_MESSAGE_KEY]
            self._failures[number] = cast("FailureKind", kind), str(message)
            return  # its process ends by itself
        if trial_spec.INTERRUPTED_KEY in result:
            # Where the driver did not write it, a person did.
            self._stop_for_good(f"somebody left a file {trial_spec.STOP_FILE!r} in the sweep's results")
            self._pausing[number] = _STOPPED
        elif trial_spec.WAITING_KEY in result:
            self._stalls.started(number, now_s)
            self._wait(number, str(result[trial_spec.WAITING_KEY]), shown="waits with its share")
            self._end_or_pause(number, Ruling())
        else:
            self._stalls.reported(number, now_s)
            self._suspects.reported(str(result.get("trial/node", "")))
            self.waiting.pop(number, None)
            self._evaluated(number, result)
        if number in self._ending or number in self._pausing:
            self._out.append(events.EndAttempt(number=number))

    def _damaged(self, number: int, result: Mapping[str, object]) -> None:
        start = cast("str | None", result[trial_spec.DAMAGED_START_KEY])
        evaluation = cast("int", result[trial_spec.DAMAGED_EVALUATION_KEY])
        reasons = cast("list[str]", result[trial_spec.DAMAGED_KEY])
        self._journal.write("damaged", number, reasons=reasons, folder=start, evaluation=evaluation)
        instead = f"it continues from evaluation {evaluation}" if start else "it starts anew"
        self._notify(f"trial {number}: {'; '.join(reasons)}; {instead}")

    def _evaluated(self, number: int, result: Mapping[str, object]) -> None:
        metric = str(self._journal.trials[number].spec["metric"])
        evaluation, value = cast("int", result[trial_spec.EVALUATION_KEY]), float(cast("float", result[metric]))
        metrics = trial_spec.kept_metrics(result)
        trial = self._journal.write(
            "reported", number, evaluation=evaluation, value=value, metrics=metrics, **self._times()
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
        elif self.stopping:
            self._pausing[number] = _STOPPED
        elif number in self._pause_requests:
            self._pausing[number] = self._pause_requests.pop(number)
        elif number in self._exploits:
            self._pausing[number] = self._exploits.describe(number)
        elif ruling.decision == "pause":
            self._pausing[number] = f"{self._limits.scheduler} paused it"

    def _stopped_by_scheduler(self, number: int) -> str:
        return f"{self._limits.scheduler} stopped it at evaluation {self._journal.trials[number].last_evaluation}"

    def _apply(self, ruling: Ruling) -> None:
        """Does what the scheduler decided about other trials."""
        self._exploits.add(ruling.exploits)
        for number in ruling.stopped:
            if self._has_attempt(number):
                self._ending[number] = self._stopped_by_scheduler(number)
                self._out += self._queue.cancel([number])
            elif number in self._journal.open:
                self._close(number, "stopped", self._stopped_by_scheduler(number), None)

    def _carry_out_exploits(self) -> None:
        for number, is_changed in self._exploits.carry_out(self._has_attempt):
            if is_changed:
                self._queue.forget_options(number)
            if self._scheduler.is_running(number):
                self._submit(number)

    # When an attempt ends

    def _attempt_ended(self, event: events.AttemptEnded) -> None:
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
        self._out.append(events.Release(number=number))
        self._pause_requests.pop(number, None)  # the share is free now
        reason, stopped = self._pausing.pop(number, None), self._ending.pop(number, None)
        if failure is not None:
            self._failed(number, *failure)
        elif reason is not None and stopped is None:  # else it was stopped while it paused
            self._paused(number, reason)
        else:
            self._close(number, "stopped" if stopped else "finished", stopped or "", None)

    def _tuner_died(self, event: events.TunerDied) -> None:
        """All attempts are gone; only those that caused it have failed."""
        self._notify(f"Ray Tune ended with an error ({event.error}); the sweep continues from its journal")
        for number in self._queue.launching:
            self._queue.started(number)
            self._out.append(events.Release(number=number))
            self._submit(number)
        for number in list(self._journal.running):
            if event.kind is not None and (number in event.caused_by or not event.caused_by):
                self._attempt_ended(events.AttemptEnded(number=number, error=event.error, kind=event.kind))
            else:
                self._pausing[number] = "Ray Tune ended with an error"
                self._attempt_ended(events.AttemptEnded(number=number))

    def _launch_cancelled(self, number: int) -> None:
        if self.stopping:
            self._out.append(events.Release(number=number))
            return
        returned = self._queue.return_allocation(number)
        self._out.append(returned)
        self._wait(number, returned.reason)

    def _paused(self, number: int, reason: str) -> None:
        trial = self._journal.write("paused", number, reason=reason, **self._times())
        self._notify(f"trial {number} pauses after evaluation {len(trial.evaluations)}: {reason}")
        if self._scheduler.is_running(number) or self._made_all_evaluations(trial):
            self._submit(number)  # else the scheduler paused it, and lets it run again later

    def _failed(self, number: int, kind: FailureKind, message: str) -> None:
        trial = self._journal.trials[number]
        if kind in LOST and (suspect := self._suspects.lost(trial.node, number)):
            self._notify(suspect)
        if not self._retry.starts_again(trial, kind):
            if kind in LOST and trial.lost_in_a_row:
                message += f"; lost {trial.lost_in_a_row + 1} times in a row, last on {trial.node}"
            self._close(number, "failed", message, kind)
            self._stop_if_all_fail()
            return
        found = {"lost_in_a_row": trial.lost_in_a_row + 1} if kind in LOST else {}
        change = ""
        if kind == "out_of_memory":
            try:
                found["least_bytes"], change = self._queue.enlarge(number)
            except RequestError as error:
                self._close(number, "failed", f"{message}; it had all that a card here can give: {error}", kind)
                return
        self._journal.write("retried", number, kind=kind, message=message, **found, **self._times())
        self._notify(f"trial {number} failed and starts again: {kind.replace('_', ' ')}{change} ({message})")
        self._submit(number, first=kind == "out_of_memory")

    def _close(self, number: int, status: EndStatus, reason: str, kind: FailureKind | None) -> None:
        self._out += self._queue.forget(number)
        for kept in (self.waiting, self._pause_requests):
            kept.pop(number, None)
        self._exploits.drop(number)
        ended = self._write_end(number, status, reason, kind)
        self._learning.ended(self._journal.trials[number])
        made = counted(ended.step, "evaluation")
        scored = f", best {ended.value:.3f} after {made}" if ended.value is not None else ""
        self._notify(f"trial {number} {status}{scored}{': ' + reason if reason else ''}")
        self._apply(self._scheduler.fail(number) if kind else self._scheduler.complete(number))

    def _refuse(self, number: int, sampled: Sampled, error: RequestError) -> None:
        self._queue.forget(number)
        self._journal.write("submitted", number, spec={"name": f"trial {number}", "sampled": dict(sampled)})
        self._write_end(number, "refused", str(error), "wrong_request")
        self._notify(f"trial {number} refused: {error}")
        self._apply(self._scheduler.remove(number))

    def _write_end(self, number: int, status: EndStatus, reason: str, kind: FailureKind | None) -> CompletedTrial:
        trial = self._journal.write("ended", number, status=status, reason=reason, failure=kind, **self._times())
        self._out.append(events.CloseTrial(number=number))
        ended = completed_trial(trial, self._limits.goal)
        self._sampler.observe(number, ended)
        return ended

    # Time, and the end

    def _tick(self) -> None:
        self._out += self._queue.cancel(self._queue.overdue())
        for number, reason in self._stalls.hanging(self._clocks.elapsed_s()).items():
            self._notify(f"trial {number} hangs: {reason}")
            self._out.append(events.KillProcess(number=number))
        for number in self._queue.due_again():
            self._submit(number)
        for number, reason in self._queue.given_up(is_idle=self.is_idle).items():
            self._close(number, "failed", reason, "wrong_request")

    def _stop(self) -> None:
        if self.stopping:
            return
        self.stopping = True
        self._notify("asked to stop: trials save a checkpoint at their next step and end")
        self._out.append(events.AskToSave())
        self._out += self._queue.withdraw_all()

    def _stop_if_all_fail(self) -> None:
        reason = failed_alike(self._journal.trials.values())
        if reason is not None and not self.is_over:
            ended = len(self._journal.trials) - len(self._journal.open)
            self._stop_for_good(
                f"the first {ended} trials failed alike, so the others are not tried: {reason}. Correct it and run the"
                " sweep again; --resume tries only those that are left"
            )

    def _stop_for_good(self, reason: str) -> None:
        """Stops, unless that was asked before; the stop file stays, so that no supervisor starts the sweep again."""
        if not self.stopping:
            self.leaves_stop_file = True
            self._notify(reason)
            self._stop()

    def _is_out_of_time(self) -> bool:
        ends_at_s = self._limits.ends_at_s
        return ends_at_s is not None and self._clocks.elapsed_s() >= ends_at_s

    def _end_what_waits(self) -> None:
        """Leaves out trials that never ran, and ends those that paused where they are: the time is over."""
        self._out += self._queue.drop_unwritten()
        for number in self._journal.open:
            if not self._has_attempt(number):
                self._close(number, "stopped", "the sweep's time is over", None)

    def _made_all_evaluations(self, trial: TrialHistory) -> bool:
        return trial.last_evaluation >= self._limits.longest

    # Another driver's journal

    def _resume(self) -> None:
        """Continues where an earlier driver was; with an empty journal, begins."""
        self._exploits.add(replay(self._journal, self._sampler, self._scheduler, self._limits.goal).values())
        for number, trial in sorted(self._journal.trials.items()):
            if trial.running:  # its driver was killed
                self._journal.write("interrupted", number)
            if trial.status == "failed" and trial.failure in LOST:
                self._journal.write("reopened", number)
                self._scheduler.add(number, cast("Sampled", trial.spec["sampled"]))
                self._notify(f"trial {number} had failed with its process and is tried again")
        for number, trial in self._journal.open.items():
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
        self._out.append(events.Notify(text=text))

    def _times(self) -> dict[str, float]:
        return {"at": self._clocks.now(), "elapsed_s": self._clocks.elapsed_s()}
