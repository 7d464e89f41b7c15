"""A trial whose storage is in trouble waits for it with its card, and continues from what is complete there."""

import logging
import math
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tune_jobs.records.journal import FILE_NAME
from tuning_common.files import write_bytes
from tuning_common.storage import LEAST_BYTES, Backoff, StorageGoneError, free_bytes, troubled_path
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
        others: Further folders that a trial writes to: the temporary one, caches.
        backoff: How long it pauses, and waits at most until its next evaluation.
        sleep: Sleeps for seconds.
    """

    folder: Path
    sweep_folder: Path
    watched: bool
    others: tuple[Path, ...] = ()
    backoff: Backoff = field(default_factory=Backoff)
    sleep: Callable[[float], None] = time.sleep

    @classmethod
    def of(cls, folder: Path, sweep_folder: Path) -> "TrialStorage":
        """Looks whether the sweep's journal is there."""
        watched = (sweep_folder / FILE_NAME).exists()
        return cls(folder=folder, sweep_folder=sweep_folder, watched=watched, others=(Path(tempfile.gettempdir()),))

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
            return self.wait("it is gone", self.folder, None, waiting)
        return True

    def vanished(self, error: BaseException) -> str | None:
        """Says that the trial's own folder vanished under it, where that is what an error is about.

        Nobody but the trial removes anything there, so a folder that it has just made is missing only when the storage
        went away, be it for a moment. torch has its own text for it (torch 2.13, serialization.py).
        """
        text = str(error)
        missing = isinstance(error, FileNotFoundError) or ("Parent directory" in text and "does not exist" in text)
        return "it was gone for a moment" if self.watched and missing and str(self.folder) in text else None

    def where(self, error: BaseException) -> Path:
        """Returns the file that found no room, else the folder that has none."""
        return troubled_path(error, (self.folder, *self.others)) or self.folder

    def wait(
        self,
        trouble: str,
        where: Path,
        checkpoint: Path | None,
        waiting: Callable[[str], None] = lambda reason: None,
    ) -> bool:
        """Pauses, longer after each failure without an evaluation between, and waits until there is room.

        What the failed attempt left half written is removed: it is of no use and takes room. The last complete
        checkpoint lies in the sweep's storage, not here.

        Args:
            trouble: What is wrong, for people.
            where: See there.
            checkpoint: From which the trial will continue; None where it starts anew.
            waiting: Is called at first, and then every minute, with the reason, so that the trial does not count as
                hanging.

        Returns:
            False where the storage was in trouble for too long.
        """
        needed_bytes = LEAST_BYTES + _size_bytes(self.folder) + (_size_bytes(checkpoint) if checkpoint else 0)
        for leftover in self.folder.glob("checkpoint-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        known = "" if where == self.folder else f" ({where})"
        reason = f"{trouble}{known}, needs {format_bytes(needed_bytes)} in {self.folder}"
        logger.warning("%s; waits up to %s", reason, format_duration(self.backoff.limit_s))
        pause_s, unreported_s = self.backoff.failed(), math.inf
        while pause_s is not None:
            if unreported_s >= _REPORT_S:
                waiting(reason)
                unreported_s = 0.0
            self.sleep(pause_s)
            unreported_s += pause_s
            if self._is_usable(needed_bytes, where) and (checkpoint is None or checkpoint.exists()):
                logger.warning("%s: tries again", self.folder)
                return True
            pause_s = None if self.backoff.is_over else _EVERY_S
        return False

    def _is_usable(self, needed_bytes: int, where: Path) -> bool:
        try:
            self.check()
            self.folder.mkdir(parents=True, exist_ok=True)
            write_bytes(self.folder / ".storage", b"x" * 4096)
            (self.folder / ".storage").unlink()
        except OSError:
            return False
        there = next(parent for parent in (where, *where.absolute().parents) if parent.is_dir())
        return free_bytes(there) >= LEAST_BYTES and free_bytes(self.folder) >= needed_bytes


def _size_bytes(folder: Path) -> int:
    """Bytes of the checkpoints and models in a folder; what vanishes meanwhile counts for nothing."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total
