"""Conducts a sweep: which trial comes next, when one is stopped, what a failure leads to, and what is written down.

Called by Tune through tune_door; knows no Ray itself, so a whole sweep can be conducted in a test.
"""

import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, cast

from cluster.estimator.calibration import record_peak
from common.errors import RequestError
from common.files import write_text
from common.goal import Goal, best_of
from common.storage import Patience
from common.strict import from_mapping
from tune_jobs.config.anomalies import Anomalies
from tune_jobs.driver.card_line import CardLine
from tune_jobs.driver.exploit import Exploiter
from tune_jobs.driver.housekeeping import forget_checkpoints, keep_best_models, leave_in_order
from tune_jobs.driver.pending import Holder, WaitsSaid, why_pending
from tune_jobs.driver.stall_watch import StallWatch
from tune_jobs.driver.storage_watch import StorageWatch
from tune_jobs.driver.trial_line import OrderMaker, TrialLine
from tune_jobs.driver.view import View
from tune_jobs.records.journal import EndStatus, Journal, TrialHistory
from tune_jobs.records.ledger import SweepFolder
from tune_jobs.records.outcomes import peak_of, record_of
from tune_jobs.records.progress import SweepProgress
from tune_jobs.records.trial_spec import (
    EVALUATION_KEY,
    FAILURE_KEY,
    FAILURE_MESSAGE_KEY,
    INTERRUPTED_KEY,
    STOP_FILE,
    WAITS_KEY,
    Bundle,
    TrialOrder,
    identity,
)
from tune_jobs.search.samplers import CompletedTrial, Outcome, Proposer, Sampled
from tune_jobs.search.stopping import StoppingRule
from tune_jobs.team.admission import Admission, OpenAdmission
from tune_jobs.trial.recovery import FailureKind, classify, next_bytes

_STOPPED = "the driver was asked to stop"
WAIT_SAID_S = 30.0  # a trial that waits longer for its place says why


@dataclass(frozen=True, kw_only=True)
class Clocks:
    """Where time comes from.

    Attributes:
        elapsed_s: Only grows; for durations.
        now: Unix seconds; for records.
    """

    elapsed_s: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time


class SweepConductor:
    """Makes every decision of one sweep.

    Args:
        proposer: Where trials come from.
        orders: Makes them runnable.
        rule: When they are stopped early.
        progress: Filled with what happens.
        view: Shows it.
        folder: The sweep's results.
        journal: Its events; what it holds already is gone through first.
        cards: Who gets which cards; where None, Ray alone counts.
        shares: Classes of shares in rising order, for recovery.
        anomalies: What is done about trials that go wrong.
        calibration: Ledger of measured peaks, shared by sweeps; None keeps none.
        ends_at_s: Reading of `clocks.elapsed_s` after which every trial ends at its next report; None for never.
        patience: Waits for a storage in trouble; None fails at once.
        admission: Whether a trial may start, by the quotas of a team; everybody may where None.
        exploiter: Moves weights between the trials of a population; None where every trial keeps its own.
        clocks: Injected in tests.
        all_saved: Called when a clean stop was asked for and no trial runs any more.
    """

    def __init__(
        self,
        *,
        proposer: Proposer,
        orders: OrderMaker,
        rule: StoppingRule,
        progress: SweepProgress,
        view: View,
        folder: SweepFolder,
        journal: Journal,
        cards: CardLine | None = None,
        shares: tuple[float, ...] = (1.0,),
        anomalies: Anomalies | None = None,
        calibration: Path | None = None,
        ends_at_s: float | None = None,
        patience: Patience | None = None,
        admission: Admission | None = None,
        exploiter: Exploiter | None = None,
        clocks: Clocks | None = None,
        all_saved: Callable[[], None] = lambda: None,
    ) -> None:
        self._proposer, self._orders, self._rule = proposer, orders, rule
        self._progress, self._view, self._folder, self._journal = progress, view, folder, journal
        self._shares, self._calibration, self._anomalies = shares, calibration, anomalies or Anomalies()
        self._ends_at_s, self._clocks = ends_at_s, clocks or Clocks()
        self._patience = patience
        self._watch = StorageWatch(folder.path, view.event, elapsed_s=self._clocks.elapsed_s)
        self._admission, self._all_saved = admission or OpenAdmission(), all_saved
        self._exploiter = exploiter
        self._cards = cards or CardLine()
        self._line = TrialLine(
            proposer=proposer,
            orders=orders,
            cards=self._cards,
            journal=journal,
            admission=self._admission,
            exploiter=exploiter,
            progress=progress,
            view=view,
            refuse=self._refuse,
            lose=lambda number, error: self._close(number, "failed", str(error), "wrong_request"),
            begins_to_wait=self._begins_to_wait,
        )
        self._withdrawn: set[int] = set()
        self._pausing: dict[int, str] = {}
        self._reasons: dict[int, str] = {}
        self._failures: dict[int, tuple[FailureKind, str]] = {}
        self._stop_asked = self._stopping = self._left = False
        self._stalls = StallWatch(self._anomalies.stall_limit_s)
        self._waits = WaitsSaid(WAIT_SAID_S)
        self._needs: dict[int, tuple[Bundle, ...]] = {}
        self._go_through_journal()

    def next_order(self, key: str) -> Mapping[str, object] | Literal["later"] | None:
        """Returns the next trial that may start; see TrialLine."""
        if self._stop_asked:
            return None
        if self._window_closed():
            self._line.exhausted = True
            return None
        return self._line.next_order()

    def _exploits(self, number: int, evaluation: int) -> str | None:
        return self._exploiter.consider(number, evaluation) if self._exploiter is not None else None

    @property
    def was_asked_to_stop(self) -> bool:
        """Whether somebody waits for the driver to end."""
        return self._stop_asked

    @property
    def is_over(self) -> bool:
        """Whether every trial is over and none is left to propose."""
        ended = all(trial.status is not None for trial in self._journal.trials.values())
        return ended and self._line.is_empty

    def started(self, order: Mapping[str, object], bundle: Bundle) -> None:
        """Notes the start."""
        number, name = identity(order)
        self._admission.started(name, bundle.gpus)
        self._cards.started(name)
        self._waits.end(number)
        trial = self._journal.write("started", number, bundle=asdict(bundle), **self._times())
        self._stalls.started(number, self._clocks.elapsed_s())
        self._progress.started(number, name, now_s=self._clocks.elapsed_s(), share=bundle.gpus)
        where = f", {bundle.gpus:g} of a card" if 0 < bundle.gpus < 1 else ""
        where = f", {bundle.gpus:g} cards" if bundle.ranks > 1 else where
        attempt = trial.starts - trial.pauses
        again = f" again (attempt {attempt})" if attempt > 1 else ""
        verb = "goes on after a pause" if trial.pauses and not again else f"starts{again}"
        self._view.event(f"trial {number} {verb}{where}: {name}")

    def reported(self, order: Mapping[str, object], result: Mapping[str, object]) -> bool:
        """Notes an evaluation and asks the rule."""
        number, name = identity(order)
        if INTERRUPTED_KEY in result:
            self._pausing[number] = _STOPPED
            return True
        if FAILURE_KEY in result:
            self._failures[number] = cast("FailureKind", result[FAILURE_KEY]), str(result[FAILURE_MESSAGE_KEY])
            return True
        now_s = self._clocks.elapsed_s()
        if WAITS_KEY in result:
            self._stalls.started(number, now_s)
            return self._waits_with_its_place(number, name, str(result[WAITS_KEY]))
        self._stalls.reported(number, now_s)
        evaluation, value = cast("int", result[EVALUATION_KEY]), float(cast("float", result[str(order["metric"])]))
        self._journal.write(
            "reported", number, evaluation=evaluation, value=value, metrics=_plain(result), **self._times()
        )
        verdict = self._rule.report(str(number), evaluation, value)
        place = (str(result["trial/node"]), str(result["trial/card"])) if "trial/card" in result else None
        self._progress.reported(number, iteration=evaluation, value=value, rung=verdict.rung, now_s=now_s, place=place)
        if evaluation >= self._progress.longest:
            return False  # it ends by itself now: there is nothing left to stop or to pause
        if verdict.stop:
            self._reasons[number] = verdict.reason
        elif self._window_closed():
            self._reasons[number] = "the sweep's time is over"
        elif why := self._must_pause(name) or self._exploits(number, evaluation):
            self._pausing[number] = why
        return number in self._reasons or number in self._pausing

    def _must_pause(self, name: str) -> str | None:
        return _STOPPED if self._stop_asked else self._admission.must_pause(name)

    def stop(self) -> None:
        """Asks for a clean stop: trials save where they are and end, none starts. Quick: signal handlers call it."""
        self._stop_asked = True

    def _waits_with_its_place(self, number: int, name: str, reason: str) -> bool:
        if self._progress.trials[number].reason != reason:
            self._view.event(f"trial {number} waits with what it holds: {reason}")
        self._progress.waits(number, name, reason=reason)
        if self._window_closed():
            self._reasons[number] = "the sweep's time is over"
        if self._stop_asked:
            self._pausing[number] = _STOPPED
        return number in self._reasons or number in self._pausing

    def saved(self, order: Mapping[str, object], folder: Path) -> None:
        """Notes a checkpoint, and removes the one that an earlier start of the trial left."""
        number, _ = identity(order)
        earlier = self._journal.trials[number].checkpoint
        self._journal.write("saved", number, folder=str(folder))
        if earlier is not None and earlier.parent != folder.parent:
            forget_checkpoints(earlier)

    def retried(self, order: Mapping[str, object], error: BaseException | None, bundle: Bundle) -> Bundle | None:
        """Lets a trial start again at once, on what it held.

        None where the policy is against it, and after an out-of-memory: that one goes back to the head of the line,
        where it gets a larger share on whichever GPU model has room for it first.
        """
        number, _ = identity(order)
        self._pausing.pop(number, None)
        if self._exploiter is not None:
            self._exploiter.forget(number)
        kind, message = self._what_failed(number, error)
        if not self._anomalies.starts_again(kind):
            self._failures[number] = kind, message
            return None
        if kind == "out_of_memory" and bundle.gpus:
            self._wants_more(number, message, bundle)
            return None
        self._starts_again(number, kind, message)
        self._begins_to_wait(number, (bundle,))
        return bundle

    def _wants_more(self, number: int, message: str, bundle: Bundle) -> None:
        """Sends a trial that ran out of memory back to the line, or gives up where no card could hold more of it."""
        order = from_mapping(TrialOrder, self._journal.trials[number].order)
        least_bytes = next_bytes(bundle.gpus, order.usable_bytes or 0, self._shares)
        try:
            offers = self._orders.offers(order, least_bytes)
        except RequestError as error:
            self._failures[number] = "out_of_memory", f"{message}; it had all that a card here can give: {error}"
            return
        wanted = next((o.placed.bundle for o in offers if o.placed.bundle.labels == bundle.labels), None)
        change = "; a larger card is needed"
        if wanted is not None:
            change = f"; {bundle.gpus:g} -> {wanted.gpus:g} {'cards' if wanted.ranks > 1 else 'of a card'}"
        self._starts_again(number, "out_of_memory", message, change, least_bytes=least_bytes)
        self._withdrawn.add(number)

    def _starts_again(self, number: int, kind: FailureKind, message: str, change: str = "", **found: int) -> None:
        self._journal.write("retried", number, kind=kind, message=message, **found, **self._times())
        reason = f"{kind.replace('_', ' ')}{change}"
        self._progress.ended(number, status="waiting", reason=reason, now_s=self._clocks.elapsed_s())
        self._progress.trials[number].retries += 1
        self._view.event(f"trial {number} failed and starts again: {reason} ({message})")

    def ended(self, key: str, order: Mapping[str, object], error: BaseException | None) -> None:
        """Writes the outcome down and teaches the search."""
        number, name = identity(order)
        self._waits.end(number)
        self._cards.release(name)
        self._admission.over(name)
        if error is not None:
            self._failures[number] = self._what_failed(number, error)
        self._stalls.left(number)
        if number in self._withdrawn:
            self._withdrawn.discard(number)
            self._line.join(number, first=True)
            return
        if error is None and number in self._pausing and number not in self._failures:
            self._pause(number)
            return
        failure = self._failures.get(number)
        status: EndStatus = "failed" if failure else "stopped" if number in self._reasons else "finished"
        reason = failure[1] if failure else self._reasons.get(number, "")
        self._close(number, status, reason, failure[0] if failure else None)

    def tick(self) -> Collection[int]:
        """Lets the view redraw and returns the trials that hang, each once per start."""
        self._view.refresh(self._progress)
        self._admission.tick()
        self._watch.tick()
        if self._stop_asked:
            self._stop_cleanly()
        self._say_why_pending()
        hanging = self._stalls.hanging(self._clocks.elapsed_s())
        for number, reason in hanging.items():
            self._view.event(f"trial {number} hangs: {reason}")
        return list(hanging)

    def _begins_to_wait(self, number: int, needed: tuple[Bundle, ...]) -> None:
        """One of these bundles is what it waits for."""
        self._needs[number] = needed
        self._waits.begin(number, self._clocks.elapsed_s())

    def _say_why_pending(self) -> None:
        due = self._waits.due(self._clocks.elapsed_s())
        if not due:
            return
        trials = self._journal.trials
        running = tuple(
            Holder(number=number, bundle=from_mapping(Bundle, trial.bundle))
            for number, trial in sorted(trials.items())
            if trial.running
        )
        for number, waited_s in due.items():
            trial = trials[number]
            needed, *others = self._needs[number]
            reason = why_pending(needed, waited_s, running, tuple(others))
            self._journal.write("waits", number, reason=reason)
            self._view.event(f"trial {number} waits {reason}")
            self._progress.waits(number, str(trial.order["name"]), reason=reason)

    def _pause(self, number: int) -> None:
        """Puts a trial that gave its place back into the line of those that go on, behind those that wait already."""
        reason = self._pausing.pop(number)
        if self._exploiter is not None:
            self._exploiter.carry_out(number)
        trial = self._journal.write("paused", number, reason=reason, **self._times())
        self._line.join(number)
        self._progress.ended(number, status="paused", reason=reason, now_s=self._clocks.elapsed_s())
        self._view.event(f"trial {number} pauses after evaluation {len(trial.evaluations)}: {reason}")

    def _stop_cleanly(self) -> None:
        """Tells the trials' processes, and says when none runs any more."""
        if not self._stopping:
            self._stopping = True
            self._view.event("asked to stop: trials save a checkpoint at their next step and end")
            write_text(self._folder.path / STOP_FILE, "the driver asks the trials to save and end\n")
        if not any(trial.running for trial in self._journal.trials.values()) and not self._left:
            self._left = True
            self._all_saved()

    def _what_failed(self, number: int, error: BaseException | None) -> tuple[FailureKind, str]:
        """The kind of a failure and its reason; a process that we ended because it hung is no lost worker."""
        kind = classify(error) if error is not None else "worker_lost"
        hung = self._stalls.left(number)
        return ("stalled", hung) if hung is not None and kind == "worker_lost" else (kind, _short(error))

    def _close(self, number: int, status: EndStatus, reason: str, kind: FailureKind | None) -> None:
        trial = self._journal.write("ended", number, status=status, reason=reason, failure=kind, **self._times())
        record = record_of(trial, goal=self._progress.goal, rungs=self._rule.rungs)
        self._insist(lambda: self._folder.append(record))
        peak = peak_of(trial, record)
        if peak is not None and self._calibration is not None:
            calibration = self._calibration
            self._insist(lambda: record_peak(calibration, peak))
        self._proposer.learn(number, _lesson(trial, self._progress.goal))
        self._progress.ended(number, status=status, reason=reason, now_s=self._clocks.elapsed_s())
        self._watch.look()
        self._insist(lambda: leave_in_order(trial))
        keep_best_models(self._journal.trials, self._progress, self._to_come())
        best = self._progress.trials[number].best
        scored = f", best {best:.3f} after {len(trial.evaluations)} evaluations" if best is not None else ""
        self._view.event(f"trial {number} {status}{scored}{': ' + reason if reason else ''}")

    def _to_come(self) -> list[Sampled] | None:
        """What will be sampled for the trials that are not ordered yet; None where results decide."""
        if not self._proposer.knows_all:
            return None
        proposed = (self._proposer.propose(n) for n in self._proposer.order if n not in self._journal.trials)
        return [sampled for sampled in proposed if sampled is not None]

    def _insist(self, action: Callable[[], None]) -> None:
        if self._patience is None:
            action()
        else:
            self._patience.insist(action, self._folder.path)

    def _refuse(self, number: int, sampled: Sampled, error: RequestError) -> None:
        name = f"trial {number}"
        self._journal.write("ordered", number, order={"name": name, "sampled": dict(sampled)})
        self._progress.started(number, name, now_s=self._clocks.elapsed_s())
        self._close(number, "refused", str(error), "wrong_request")

    def _go_through_journal(self) -> None:
        """Brings rule, search, progress and ledger to where an earlier driver left them."""
        for number, evaluation in self._journal.reports:
            report = self._journal.trials[number].evaluations[evaluation]
            self._rule.report(str(number), evaluation, report.value)
        written = {record.trial_id for record in self._folder.load().trials}
        for number, trial in sorted(self._journal.trials.items()):
            self._show_again(trial)
            if trial.status is None:
                self._line.join(number)
                continue
            if str(number) not in written:  # the driver died between the two lines
                self._folder.append(record_of(trial, goal=self._progress.goal, rungs=self._rule.rungs))
            self._progress.ended(number, status=trial.status, reason=trial.reason, now_s=self._clocks.elapsed_s())
            self._proposer.learn(number, _lesson(trial, self._progress.goal))

    def _show_again(self, trial: TrialHistory) -> None:
        now_s = self._clocks.elapsed_s()
        self._progress.started(trial.number, str(trial.order["name"]), now_s=now_s)
        for number, value in trial.values:
            self._progress.reported(trial.number, iteration=number, value=value, rung=None, now_s=now_s)
        self._progress.ended(trial.number, status="waiting", reason="goes on", now_s=now_s)

    def _times(self) -> dict[str, float]:
        return {"at": self._clocks.now(), "elapsed_s": self._clocks.elapsed_s()}

    def _window_closed(self) -> bool:
        return self._ends_at_s is not None and self._clocks.elapsed_s() >= self._ends_at_s


def _lesson(trial: TrialHistory, goal: Goal) -> CompletedTrial:
    values = [value for _, value in trial.values]
    best = best_of(values, lambda value: value, goal)
    outcome: Outcome = "stopped" if trial.status == "stopped" else "finished"
    if trial.failure is not None:
        # Only a training that broke down says something about its configuration; a lost worker or a full card does not.
        outcome = "failed" if trial.failure in ("work_failed", "diverged") else "out_of_memory"
    return CompletedTrial(
        sampled=cast("Sampled", trial.order["sampled"]), outcome=outcome, value=best, step=len(trial.evaluations)
    )


def _plain(result: Mapping[str, object]) -> dict[str, object]:
    """Keeps what the trial reported (its names have a slash), without Tune's own and without what JSON cannot hold."""
    return {
        name: value
        for name, value in result.items()
        if "/" in name
        and not name.startswith("config/")
        and not (isinstance(value, float) and not math.isfinite(value))
    }


def _short(error: BaseException | None) -> str:
    """The last line of an error: Ray puts the worker's whole traceback into the message."""
    if error is None:
        return "its process died"
    lines = [line.strip() for line in str(error).split("\n") if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"[:500]
