"""Checks the sweep's storage now and then, so that a person learns why nothing moves."""

from collections.abc import Callable
from pathlib import Path

from tune_jobs.records.journal import FILE_NAME
from tuning_common.storage import LEAST_BYTES, free_bytes
from tuning_common.units import format_bytes

_EVERY_S = 5.0


class StorageWatch:
    """Notifies once when the storage is full or gone, and once when it is well again.

    Trials wait by themselves, without a report: only this reaches the driver's terminal.

    Args:
        folder: The sweep's results.
        notify: Shows a line.
        elapsed_s: Seconds that only grow.
        free: Bytes that are free in a folder.
    """

    def __init__(
        self,
        folder: Path,
        notify: Callable[[str], None],
        *,
        elapsed_s: Callable[[], float],
        free: Callable[[Path], int] = free_bytes,
    ) -> None:
        self._folder, self._notify, self._elapsed_s, self._free = folder, notify, elapsed_s, free
        self._next_s = elapsed_s()
        self._was_there = False
        self._trouble = ""

    def tick(self) -> None:
        """Is called several times a second."""
        if self._elapsed_s() < self._next_s:
            return
        self.check()

    def check(self) -> None:
        """Checks at once, for example when a trial has ended: the next tick may come after the sweep."""
        self._next_s = self._elapsed_s() + _EVERY_S
        trouble = self._find()
        if trouble and not self._trouble:
            self._notify(f"{self._folder}: {trouble}; trials wait with what they hold and go on when this is mended")
        if self._trouble and not trouble:
            self._notify(f"{self._folder}: the storage is well again")
        self._trouble = trouble

    def _find(self) -> str:
        is_there = (self._folder / FILE_NAME).exists()
        self._was_there |= is_there
        if self._was_there and not is_there:
            return "it is gone"
        left_bytes = self._free(self._folder)
        return f"only {format_bytes(left_bytes)} are left" if is_there and left_bytes < LEAST_BYTES else ""
