"""A trial whose storage is in trouble waits for it with its card, and continues from what is complete there."""

import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tune_jobs.records.journal import FILE_NAME
from tuning_common.files import write_bytes
from tuning_common.storage import LEAST_BYTES, LIMIT_S, StorageGoneError, free_bytes
from tuning_common.units import format_bytes, format_duration

logger = logging.getLogger(__name__)
_EVERY_S = 5.0
_REPORT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class TrialStorage:
    """Where a trial writes.

    Attributes:
        folder: Of the experiment.
        sweep_folder: Of the sweep; its journal is there while the storage is mounted.
        watched: Whether the journal was there when the trial began; outside a sweep there is none.
        limit_s: How long a trial waits.
        elapsed_s: Seconds that only grow.
        sleep: Sleeps for seconds.
    """

    folder: Path
    sweep_folder: Path
    watched: bool
    limit_s: float = LIMIT_S
    elapsed_s: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    @classmethod
    def of(cls, folder: Path, sweep_folder: Path) -> "TrialStorage":
        """Looks whether the sweep's journal is there."""
        return cls(folder=folder, sweep_folder=sweep_folder, watched=(sweep_folder / FILE_NAME).exists())

    def check(self) -> None:
        """Refuses to write below a mount point.

        Raises:
            StorageGoneError: When the sweep's journal is not there any more.
        """
        if self.watched and not (self.sweep_folder / FILE_NAME).exists():
            raise StorageGoneError(self.sweep_folder / FILE_NAME)

    def wait_for_journal(self, waiting: Callable[[str], None]) -> bool:
        """Waits until the sweep's journal is there: without it a checkpoint that is missing is not lost.

        Returns:
            False where it was missing for too long.
        """
        try:
            self.check()
        except StorageGoneError:
            return self.wait("it is gone", None, waiting)
        return True

    def vanished(self, error: BaseException) -> str | None:
        """Says that the trial's own folder vanished under it, where that is what an error is about.

        Nobody but the trial removes anything there, so a folder that it has just made is missing only when the storage
        went away, be it for a moment. torch has its own text for it (torch 2.13, serialization.py).
        """
        text = str(error)
        missing = isinstance(error, FileNotFoundError) or ("Parent directory" in text and "does not exist" in text)
        return "it was gone for a moment" if self.watched and missing and str(self.folder) in text else None

    def wait(self, trouble: str, checkpoint: Path | None, waiting: Callable[[str], None] = lambda reason: None) -> bool:
        """Waits until there is room for what failed.

        What the failed attempt left half written is removed: it is of no use and takes room. The last complete
        checkpoint lies in the sweep's storage, not here.

        Args:
            trouble: What is wrong, for people.
            checkpoint: From which the trial will continue; None where it starts anew.
            waiting: Is called at first, and then every minute, with the reason, so that the trial does not count as
                hanging.

        Returns:
            False where the storage was in trouble for too long.
        """
        needed_bytes = LEAST_BYTES + _size_bytes(self.folder) + (_size_bytes(checkpoint) if checkpoint else 0)
        for leftover in self.folder.glob("checkpoint-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        logger.warning(
            "%s: %s; waits up to %s for %s",
            self.folder,
            trouble,
            format_duration(self.limit_s),
            format_bytes(needed_bytes),
        )
        begun_s = report_at_s = self.elapsed_s()
        while self.elapsed_s() - begun_s <= self.limit_s:
            if self._is_usable(needed_bytes) and (checkpoint is None or checkpoint.exists()):
                logger.warning("%s: there again after %s", self.folder, format_duration(self.elapsed_s() - begun_s))
                return True
            if self.elapsed_s() >= report_at_s:
                waiting(f"{trouble}, needs {format_bytes(needed_bytes)} in {self.folder}")
                report_at_s = self.elapsed_s() + _REPORT_S
            self.sleep(_EVERY_S)
        return False

    def _is_usable(self, needed_bytes: int) -> bool:
        try:
            self.check()
            self.folder.mkdir(parents=True, exist_ok=True)
            write_bytes(self.folder / ".storage", b"x" * 4096)
            (self.folder / ".storage").unlink()
        except OSError:
            return False
        return free_bytes(self.folder) >= needed_bytes


def _size_bytes(folder: Path) -> int:
    """Bytes of the checkpoints and models in a folder; what vanishes meanwhile counts for nothing."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total
