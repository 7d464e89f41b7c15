"""What a trial's process reports: evaluations and checkpoints to the driver, steps to a file, memory to its guard."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from cluster.guard import Guard
from tune_jobs.config.anomalies import LossWatch
from tune_jobs.records.trial_spec import EVALUATION_KEY, INTERRUPTED_KEY, STOP_FILE, TrialSpec
from tune_jobs.records.trial_state import write_state
from tune_jobs.trial.meter import TrialMeter
from tune_jobs.trial.storage import TrialStorage
from tuning_common.errors import DivergedError, WorkError

POLL_S = 0.5  # for STOP_FILE, which may lie on a slow shared file system
HELD_BYTES = "trial/held_bytes"  # what the process was seen to hold on its card at most

Send = Callable[[Mapping[str, object], Path | None], None]
Keep = Callable[[Mapping[str, float]], None]  # takes the numbers of one step; step_log.StepLog


class StopFile:
    """Looks now and then whether the driver asks the trials to save and end.

    Args:
        sweep_folder: Where the driver leaves the stop file.
        clock: Seconds that only grow; injected in tests.
    """

    def __init__(self, sweep_folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock, self._next_poll_s = sweep_folder / STOP_FILE, clock, -math.inf

    def asked(self) -> bool:
        """Whether the file was there at this look; False between two looks."""
        now_s = self._clock()
        if now_s < self._next_poll_s:
            return False
        self._next_poll_s = now_s + POLL_S
        return self._path.exists()


class TrialReporter:
    """Passes every evaluation on to the driver, keeps the steps between them, and counts them over restarts.

    Args:
        spec: The trial.
        send: Sends to the driver; raises SystemExit when the attempt should end.
        keep: Takes every step.
        guard: Holds the process to its share; None on a machine without GPUs.
        evaluations: How many an earlier attempt had made at the checkpoint that this one starts from.
        losses: Its first and lowest training loss; None where there was none.
        meter: Shows the trial's numbers to whoever watches the cluster; None shows none.
        storage: Is looked at before anything is written there; None looks at nothing.
        clock: Seconds that only grow; injected in tests.
    """

    def __init__(
        self,
        spec: TrialSpec,
        send: Send,
        keep: Keep,
        *,
        guard: Guard | None = None,
        evaluations: int = 0,
        losses: tuple[float, float] | None = None,
        meter: TrialMeter | None = None,
        storage: TrialStorage | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._storage = storage
        self.shape = spec.shape
        self.checkpoint: Path | None = None
        self.peaks: dict[str, float] = {}
        self.evaluations = evaluations
        self._spec, self._send, self._keep, self._guard, self._meter = spec, send, keep, guard, meter
        self._loss = LossWatch(spec.exploding_loss, seen=losses)
        self._stop = StopFile(Path(spec.sweep_folder), clock)

    @property
    def limit_bytes(self) -> int | None:
        """What torch may reserve; None where nobody limits it."""
        return None if self._guard is None else self._guard.limit.allocator_bytes

    def log(self, metrics: Mapping[str, float]) -> None:
        """Keeps numbers between evaluations and the highest memory readings, looks at the share.

        Raises:
            OutOfMemoryError: When the process holds more than its share.
            DivergedError: When the training loss explodes.
        """
        self._watch(metrics)
        self._keep(metrics)
        problem = self._loss.see(metrics["train/loss"]) if "train/loss" in metrics else None
        if problem is not None:
            rate = metrics.get("train/learning_rate")
            now = f" (now {rate:.2g})" if rate is not None else ""
            raise DivergedError(f"{problem}; a smaller learning rate{now} or a longer warm-up would help")

    def report(self, metrics: Mapping[str, float], checkpoint: Path | None) -> None:
        """Sends one evaluation with its checkpoint; see Reporter.

        Raises:
            WorkError: When the sweep's metric is absent: no later report would mend that.
            DivergedError: When it is no number.
            SystemExit: When the driver stops the trial.
        """
        value = metrics.get(self._spec.metric)
        if value is None:
            raise WorkError(f"no {self._spec.metric} among the reported {', '.join(sorted(metrics))}")
        if not math.isfinite(value):
            raise DivergedError(
                f"{self._spec.metric} became {value}: the training diverged; try a smaller learning rate"
            )
        if self._storage is not None:
            self._storage.check()
        self.evaluations += 1
        self.checkpoint = checkpoint
        self._watch(metrics)
        if checkpoint is not None:
            self._write_state(checkpoint)
        self._send(
            dict(metrics)
            | self.peaks
            | {
                EVALUATION_KEY: self.evaluations,
            }
            | {f"trial/{name}": value for name, value in asdict(self.shape).items() if value is not None},
            checkpoint,
        )
        if self._storage is not None:
            self._storage.backoff.succeeded()

    def wants_checkpoint(self) -> bool:
        """Looks now and then whether the driver asks the trials to save and end."""
        return self._stop.asked()

    def interrupted(self, checkpoint: Path) -> None:
        """Sends a checkpoint without an evaluation; raises SystemExit when the driver stops the trial."""
        self._write_state(checkpoint)
        self._send({INTERRUPTED_KEY: True}, checkpoint)

    def _write_state(self, checkpoint: Path) -> None:
        trial = self._spec.to_dict()
        write_state(checkpoint, evaluations=self.evaluations, losses=self._loss.seen, trial=trial)

    def _watch(self, metrics: Mapping[str, float]) -> None:
        if self._guard is not None:
            self._guard.check()
            if self._guard.peak_bytes is not None:
                self.peaks[HELD_BYTES] = float(self._guard.peak_bytes)
        for name, value in metrics.items():
            if name.startswith("memory/") or name == HELD_BYTES:
                self.peaks[name] = max(value, self.peaks.get(name, 0.0))
        if self._meter is not None:
            self._meter.log({**metrics, **self.peaks})
