"""Storage in trouble: a full disk, a share that is gone. Work waits for it instead of failing."""

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from common.errors import WorkError
from common.units import format_duration

T = TypeVar("T")
LEAST_BYTES = 4 * 2**20  # room for logs and numbers; checkpoints are counted by their own size
LIMIT_S = 3600.0  # nobody mends a disk in minutes, and nobody wants to pay for days
_EVERY_S = 5.0
_TROUBLE = {
    errno.ENOSPC: "no space left",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "it can only be read",
    errno.EIO: "input/output error",
    errno.ESTALE: "it is gone (stale file handle)",
    errno.ENOTCONN: "it is gone (not connected)",
    errno.EHOSTDOWN: "its host does not answer",
}
# What torch's, safetensors' and Arrow's writers make of the same errors.
_TEXTS = {
    "No space left on device": "no space left",
    "Disk quota exceeded": "the disk quota is used up",
    "Read-only file system": "it can only be read",
    "Stale file handle": "it is gone (stale file handle)",
    "Transport endpoint is not connected": "it is gone (not connected)",
    "Input/output error": "input/output error",
    "PytorchStreamWriter failed": "no space left, or it is gone",
    "basic_ios::clear: iostream error": "no space left, or it is gone",
    "Unable to set up cluster storage": "it is gone",
}


class StorageGoneError(OSError):
    """A file that must be there is not: the storage is not mounted.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(errno.ESTALE, "it is gone", str(path))


def storage_trouble(error: BaseException) -> str | None:
    """Says what is wrong with the storage, where that is what an error is about.

    Args:
        error: Anything; its causes are looked at too.

    Returns:
        A few words for people; None for every other error.

    >>> storage_trouble(OSError(28, "No space left on device")), storage_trouble(ValueError("x"))
    ('no space left', None)
    """
    seen: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in seen:
        seen.append(link)
        if isinstance(link, OSError) and link.errno in _TROUBLE:
            return _TROUBLE[link.errno]
        for text, trouble in _TEXTS.items():
            if text in str(link):
                return trouble
        link = getattr(link, "cause", None) or link.__cause__ or link.__context__
    return None


class StorageRetry:
    """Repeats what fails because of the storage until it is there again.

    Args:
        notify: Is called when it begins to wait and when it goes on.
        limit_s: How long it waits.
        elapsed_s: Seconds that only grow.
        sleep: Sleeps for seconds.
    """

    def __init__(
        self,
        notify: Callable[[str], None],
        *,
        limit_s: float = LIMIT_S,
        elapsed_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._notify, self._limit_s, self._elapsed_s, self._sleep = notify, limit_s, elapsed_s, sleep

    def run(self, action: Callable[[], T], where: Path) -> T:
        """Runs an action, again and again while the storage is in trouble.

        Args:
            action: May be repeated.
            where: What it works on, for people.

        Raises:
            WorkError: When the storage was in trouble for too long.
        """
        begun_s: float | None = None
        while True:
            try:
                result = action()
            except Exception as error:
                trouble = storage_trouble(error)
                if trouble is None:
                    raise
                now_s = self._elapsed_s()
                if begun_s is None:
                    begun_s = now_s
                    limit = format_duration(self._limit_s)
                    self._notify(
                        f"{where}: {trouble}; everything waits, up to {limit}, and goes on when this is mended"
                    )
                if now_s - begun_s > self._limit_s:
                    raise WorkError(f"{where}: {trouble}, for {format_duration(now_s - begun_s)}") from error
                self._sleep(_EVERY_S)
                continue
            if begun_s is not None:
                self._notify(f"{where}: there again after {format_duration(self._elapsed_s() - begun_s)}; going on")
            return result


def free_bytes(folder: Path) -> int:
    """Returns the space that a person without privileges may still use; 0 where the folder is gone."""
    try:
        stats = os.statvfs(folder)
    except OSError:
        return 0
    return stats.f_bavail * stats.f_frsize
