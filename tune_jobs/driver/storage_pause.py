"""Pauses a driver whose Tune found no room for its own files, which are in Ray's folder and not in the results."""

import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from cluster.machines.ray_folder import ray_folder
from tuning_common.errors import WorkError
from tuning_common.storage import Backoff, storage_trouble, troubled_path
from tuning_common.units import format_duration


class StoragePause:
    """Says for how long no attempt starts.

    Args:
        folder: The sweep's results.
        notify: Shows a line.
        elapsed_s: Seconds that only grow.
    """

    def __init__(self, folder: Path, notify: Callable[[str], None], elapsed_s: Callable[[], float]) -> None:
        self._folder, self._notify, self._elapsed_s = folder, notify, elapsed_s
        self._backoff = Backoff(elapsed_s=elapsed_s)
        self._ends_s = -math.inf

    @property
    def is_on(self) -> bool:
        """Whether attempts should wait."""
        return self._elapsed_s() < self._ends_s

    def begin(self, error: Exception) -> bool:
        """Begins a pause where an error of Tune is about a storage; each is longer than the one before.

        Returns:
            Whether it is.

        Raises:
            WorkError: When Tune has found no room for too long.
        """
        trouble = storage_trouble(error)
        if trouble is None:
            return False
        folders = (self._folder, ray_folder(os.environ), Path(tempfile.gettempdir()))
        path = troubled_path(error, [folder for folder in folders if folder.exists()])
        what = f"{path}: {trouble}" if path is not None else trouble
        pause_s = self._backoff.failed()
        if pause_s is None:
            raise WorkError(f"{what}, for {format_duration(self._backoff.limit_s)}") from error
        self._ends_s = self._elapsed_s() + pause_s
        self._notify(f"{what}; the sweep waits and tries again in {format_duration(pause_s)}")
        return True

    def succeeded(self) -> None:
        """Takes in an evaluation: the next pause is short again."""
        self._backoff.succeeded()
