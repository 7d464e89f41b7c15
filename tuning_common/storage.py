"""Recognizes storage errors (a full disk, a lost mount) and retries until the storage is back."""

import errno
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from tuning_common.errors import WorkError
from tuning_common.units import format_duration

T = TypeVar("T")
LEAST_BYTES = 4 * 2**20  # for logs and numbers; checkpoints are counted by their own size
LIMIT_S = 3600.0  # time to repair a disk, without paying for idle GPUs for days
_EVERY_S = 5.0
_LONGEST_PAUSE_S = 60.0
_TROUBLE = {
    errno.ENOSPC: "no space left",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "it can only be read",
    errno.EIO: "input/output error",
    errno.ESTALE: "it is gone (stale file handle)",
    errno.ENOTCONN: "it is gone (not connected)",
    errno.EHOSTDOWN: "its host does not answer",
}
# Texts of the same errors from the writers of torch, safetensors and Arrow.
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
    """A required file is missing because the storage is not mounted.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(errno.ESTALE, "it is gone", str(path))


def storage_trouble(error: BaseException) -> str | None:
    """Returns the storage problem that an error reports, if any.

    Args:
        error: Anything; its causes are checked too.

    Returns:
        A short description; None for every other error.

    >>> storage_trouble(OSError(28, "No space left on device")), storage_trouble(ValueError("x"))
    ('no space left', None)
    """
    for link in _chain(error):
        if isinstance(link, OSError) and link.errno in _TROUBLE:
            return _TROUBLE[link.errno]
        for text, trouble in _TEXTS.items():
            if text in str(link):
                return trouble
    return None


def troubled_path(error: BaseException, folders: Iterable[Path]) -> Path | None:
    """Returns the file that an error is about; where it names none, the first folder without room.

    Args:
        error: Anything; its causes are checked too.
        folders: Folders on the disks that may be full.

    >>> troubled_path(OSError(28, "No space left on device", "/tmp/a.bin"), []).as_posix()
    '/tmp/a.bin'
    """
    for link in _chain(error):
        if isinstance(link, OSError) and isinstance(link.filename, str | os.PathLike):
            return Path(link.filename)
    return next((folder for folder in folders if free_bytes(folder) < LEAST_BYTES), None)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in seen:
        seen.append(link)
        yield link
        link = getattr(link, "cause", None) or link.__cause__ or link.__context__


class Backoff:
    """Pauses between tries: each is twice the one before, and one limit covers all tries until one succeeds.

    Args:
        limit_s: Longest time without a success, in seconds.
        elapsed_s: A monotonic clock, in seconds.

    >>> backoff = Backoff(elapsed_s=lambda: 0.0)
    >>> [backoff.failed() for _ in range(6)], backoff.succeeded(), backoff.failed()
    ([5.0, 10.0, 20.0, 40.0, 60.0, 60.0], None, 5.0)
    """

    def __init__(self, *, limit_s: float = LIMIT_S, elapsed_s: Callable[[], float] = time.monotonic) -> None:
        self.limit_s, self._elapsed_s = limit_s, elapsed_s
        self._begun_s: float | None = None
        self._pause_s = _EVERY_S

    @property
    def is_over(self) -> bool:
        """Whether it has failed for longer than the limit."""
        return self._begun_s is not None and self._elapsed_s() - self._begun_s > self.limit_s

    def failed(self) -> float | None:
        """Takes in a failure; returns the seconds until the next try, None where there is none."""
        if self._begun_s is None:
            self._begun_s = self._elapsed_s()
        pause_s, self._pause_s = self._pause_s, min(2 * self._pause_s, _LONGEST_PAUSE_S)
        return None if self.is_over else pause_s

    def succeeded(self) -> None:
        """Takes in a success."""
        self._begun_s, self._pause_s = None, _EVERY_S


class StorageRetry:
    """Repeats an action that fails on a storage error until the storage is back.

    Args:
        notify: Called with a message when it begins to wait and when it continues.
        limit_s: Longest wait, in seconds.
        elapsed_s: A monotonic clock, in seconds.
        sleep: Sleeps for a number of seconds.
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
        """Runs an action and repeats it on storage errors.

        Args:
            action: Must be safe to repeat.
            where: The path that it works on, for messages.

        Raises:
            WorkError: When the storage stayed unavailable longer than the limit.
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
    """Returns the bytes that an unprivileged user may still write; 0 where the folder is gone."""
    try:
        stats = os.statvfs(folder)
    except OSError:
        return 0
    return stats.f_bavail * stats.f_frsize
