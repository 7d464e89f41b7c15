"""The interface through which a run reports its metrics and checkpoints."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol


class Reporter(Protocol):
    """Receives a run's metrics. Names are those of a W&B run: train/*, eval/*, best/*, time/*, memory/*."""

    def log(self, metrics: Mapping[str, float]) -> None:
        """Takes numbers between evaluations (loss, learning rate, times, memory). Must be quick.

        May raise an exception to end the run, for example when it holds more memory than its share.
        """

    def report(self, metrics: Mapping[str, float], checkpoint: Path | None) -> None:
        """Takes the numbers of one evaluation and the checkpoint of the same step, None where nothing is trained.

        May raise SystemExit to end the run; the checkpoint folder may be gone after the call returns.
        """

    def wants_checkpoint(self) -> bool:
        """Called after every optimizer step; True saves a checkpoint and passes it to `interrupted`."""

    def interrupted(self, checkpoint: Path) -> None:
        """Takes a checkpoint between two evaluations. May raise SystemExit: the run loses no step."""


class NullReporter:
    """Ignores everything."""

    def log(self, metrics: Mapping[str, float]) -> None:
        """Does nothing."""

    def report(self, metrics: Mapping[str, float], checkpoint: Path | None) -> None:
        """Does nothing."""

    def wants_checkpoint(self) -> bool:
        """Returns False."""
        return False

    def interrupted(self, checkpoint: Path) -> None:
        """Does nothing."""


class RecordingReporter(NullReporter):
    """Records everything, for tests and notebooks."""

    def __init__(self) -> None:
        self.logs: list[dict[str, float]] = []
        self.reports: list[dict[str, float]] = []

    def log(self, metrics: Mapping[str, float]) -> None:
        """Records a copy."""
        self.logs.append(dict(metrics))

    def report(self, metrics: Mapping[str, float], checkpoint: Path | None) -> None:
        """Records a copy."""
        self.reports.append(dict(metrics))
