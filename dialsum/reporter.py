"""How a run speaks to whoever started it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol


class Reporter(Protocol):
    """Receives a run's numbers. Names are those of a W&B run: train/*, eval/*, best/*, time/*, memory/*."""

    def log(self, metrics: Mapping[str, float]) -> None:
        """Takes numbers between evaluations (loss, learning rate, times, memory). Must be quick.

        May raise what should end the run, for example when it holds more memory than its share.
        """

    def report(self, metrics: Mapping[str, float], checkpoint: Path) -> None:
        """Takes the numbers of one evaluation and the checkpoint that was saved at the same step.

        May raise SystemExit to end the run; the checkpoint folder may be gone after the call returns.
        """


class NullReporter:
    """Listens to nothing."""

    def log(self, metrics: Mapping[str, float]) -> None:
        """Does nothing."""

    def report(self, metrics: Mapping[str, float], checkpoint: Path) -> None:
        """Does nothing."""


class RecordingReporter:
    """Keeps everything, for tests and notebooks."""

    def __init__(self) -> None:
        self.logs: list[dict[str, float]] = []
        self.reports: list[dict[str, float]] = []

    def log(self, metrics: Mapping[str, float]) -> None:
        """Keeps a copy."""
        self.logs.append(dict(metrics))

    def report(self, metrics: Mapping[str, float], checkpoint: Path) -> None:
        """Keeps a copy."""
        self.reports.append(dict(metrics))
