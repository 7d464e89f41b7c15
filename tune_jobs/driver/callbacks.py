"""What follows a sweep without deciding anything: its ledger, the live view, Prometheus metrics and W&B.

Each is a `tune.Callback`. While Tune runs they are called by it; between two runs of Tune the driver calls `update`.
All of them derive what they show from the journal.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from ray import tune

from cluster.estimator.calibration import record_peak
from cluster.machines.metrics import METER_S, Meter
from tune_jobs.config.sweep import Sweep
from tune_jobs.driver.housekeeping import keep_best_models, leave_in_order
from tune_jobs.driver.view import View
from tune_jobs.records.journal import Journal
from tune_jobs.records.ledger import SweepFolder
from tune_jobs.records.outcomes import peak_of, record_of
from tune_jobs.records.progress import STATUSES, SweepFrame, SweepProgress, progress_of
from tune_jobs.tracking.mirroring import MirrorProcess, mirroring
from tuning_common.storage import StorageRetry

REMOVAL_S = 2.0  # at least, between two removals of weights


class SweepCallback(tune.Callback):  # type: ignore[misc]  # ray publishes no types
    """Base: catches up with the journal after every step of Tune."""

    def update(self) -> None:
        """Catches up with the journal."""

    def trial_closed(self, number: int) -> None:
        """Takes in that a trial has ended for good."""

    def run_ended(self) -> None:
        """Takes in that no trial runs any more."""
        self.update()

    def on_step_end(self, iteration: int, trials: Sequence[object], **info: object) -> None:
        """Is called by Tune several times a second."""
        self.update()

    def __getstate__(self) -> dict[str, object]:
        return {}


class LedgerCallback(SweepCallback):
    """Writes the outcome of every trial: the ledger, its peak for the calibration; and removes what is not needed.

    Args:
        folder: The sweep's results.
        journal: What is known of all trials.
        frame: Of the sweep.
        calibration: Ledger of measured peaks, shared by sweeps.
        retry: Waits for a storage in trouble.
        to_come: Returns the values of trials that were not tried yet; None where results decide.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        folder: SweepFolder,
        journal: Journal,
        frame: SweepFrame,
        *,
        calibration: Path | None,
        retry: StorageRetry,
        to_come: Callable[[], Sequence[Mapping[str, object]] | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._journal, self._frame = folder, journal, frame
        self._calibration, self._retry, self._to_come, self._clock = calibration, retry, to_come, clock
        self._light: set[tuple[int, int]] = set()  # see keep_best_models
        self._has_closed = False
        self._next_removal_s = clock()

    def write_missing(self) -> None:
        """Writes trials that have ended and are not in the ledger: their driver died between the two files."""
        written = {record.trial_id for record in self._folder.load().trials if record.status != "running"}
        for number, trial in sorted(self._journal.trials.items()):
            if trial.status is not None and str(number) not in written:
                self._folder.append(record_of(trial, goal=self._frame.goal, rungs=self._frame.rungs))

    def trial_closed(self, number: int) -> None:
        """Writes the outcome."""
        trial = self._journal.trials[number]
        record = record_of(trial, goal=self._frame.goal, rungs=self._frame.rungs)
        where = self._folder.path
        self._retry.run(lambda: self._folder.append(record), where)
        peak = peak_of(trial, record)
        if peak is not None and self._calibration is not None:
            calibration = self._calibration
            self._retry.run(lambda: record_peak(calibration, peak), where)
        self._retry.run(lambda: leave_in_order(trial, self._folder), where)
        self._has_closed = True

    def update(self) -> None:
        """Removes weights when it is time: it looks at all trials, which short ones must not wait for."""
        if self._has_closed and self._clock() >= self._next_removal_s:
            self.run_ended()

    def run_ended(self) -> None:
        """Removes the weights of trials that cannot win any more."""
        self._has_closed = False
        self._next_removal_s = self._clock() + REMOVAL_S
        progress = progress_of(self._frame, self._journal.trials, 0.0)
        keep_best_models(self._journal.trials, progress, self._folder.output, self._to_come(), self._light)


class ViewCallback(SweepCallback):
    """Redraws the live view and sets the sweep's metrics, at most as often as each wants.

    Args:
        view: Shows the progress.
        progress: Returns it as it is now.
        meter: Sets metrics.
        member: Whose sweep it is; empty where there are no quotas.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        view: View,
        progress: Callable[[], SweepProgress],
        meter: Meter,
        member: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._view, self._progress, self._meter, self._member, self._clock = view, progress, meter, member, clock
        self._next_draw_s = self._next_meter_s = clock()
        self._retries = 0
        self._cards: set[tuple[str, str]] = set()

    def update(self) -> None:
        """Shows the present state when it is time."""
        now_s = self._clock()
        if now_s < min(self._next_draw_s, self._next_meter_s):
            return
        progress = self._progress()
        if now_s >= self._next_draw_s:
            self._next_draw_s = now_s + self._view.interval_s
            self._view.refresh(progress)
        if now_s >= self._next_meter_s:
            self._next_meter_s = now_s + METER_S
            self.measure(progress)

    def close(self, progress: SweepProgress) -> None:
        """Shows the final state."""
        self.measure(progress)
        self._view.close(progress)

    def measure(self, progress: SweepProgress) -> None:
        """Sets the metrics."""
        tags = {"sweep": progress.frame.sweep, "member": self._member}
        for state in STATUSES:
            self._meter.gauge("tuning_trials", progress.count(state), state=state, **tags)
        best = progress.best()
        if best is not None and best.best is not None:
            self._meter.gauge("tuning_best_score", best.best, metric=progress.frame.metric, **tags)
        retries = sum(trial.retries for trial in progress.trials.values())
        if retries > self._retries:
            self._meter.count("tuning_retries", retries - self._retries, **tags)
            self._retries = retries
        tenants = Counter(
            (trial.location[0], card)
            for trial in progress.trials.values()
            if trial.status == "running" and trial.location
            for card in trial.location[1].split(",")  # a trial on several cards is a tenant of each
        )
        self._cards |= set(tenants)
        for node, card in self._cards:  # a card that nobody is on any more gets 0 instead of its last number
            self._meter.gauge("tuning_card_tenants", tenants[node, card], node=node, card=card, **tags)


class WandbLoggerCallback(SweepCallback):
    """Logs the sweep to W&B from a process of its own, which reads the journal; nothing there can block a trial.

    Ray's own WandbLoggerCallback starts two actors for each trial and waits for W&B's servers (Ray 2.60).

    Args:
        folder: The sweep's results.
        sweep: What is logged where.
        group: The staged search that the sweep is a phase of; empty for a sweep of its own.
        phase: Name of that phase.
    """

    def __init__(self, folder: SweepFolder, sweep: Sweep, *, group: str = "", phase: str = "") -> None:
        self._stack = ExitStack()
        self._process: MirrorProcess | None = None
        self._folder, self._sweep, self._group, self._phase = folder, sweep, group, phase

    def start(self) -> None:
        """Starts the process."""
        self._process = self._stack.enter_context(
            mirroring(self._folder, self._sweep, group=self._group, phase=self._phase)
        )

    def sweep_ended(self) -> None:
        """Lets the process close its runs while the reports are built."""
        if self._process is not None:
            self._process.end()

    def close(self) -> None:
        """Waits a little for the process, and shows where the runs are."""
        self._stack.close()
