"""The lock on a sweep's folder: one driver at a time; renames earlier results instead of overwriting them."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from tune_jobs.records.ledger import SweepFolder
from tuning_common.cli import note
from tuning_common.errors import RequestError
from tuning_common.files import open_to_append


@contextmanager
def alone(folder: SweepFolder) -> Iterator[None]:
    """Locks the sweep's folder for this process: two drivers must not write one ledger."""
    with os.fdopen(open_to_append(folder.path.parent / f".{folder.path.name}.lock"), "rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RequestError(
                f"{folder.path}: this sweep is running in another process; wait for it, or give this one another name"
            ) from None
        yield


def is_held(folder: Path) -> bool:
    """Returns whether a driver has locked the folder of a sweep."""
    lock = folder.parent / f".{folder.name}.lock"
    if not lock.exists():
        return False
    with lock.open() as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def check_owner(folder: SweepFolder, member: str | None) -> None:
    """Refuses to touch the results of somebody else whose sweep has the same name.

    Args:
        folder: The sweep's results.
        member: The team member who starts a sweep of that name; None without a team.

    Raises:
        RequestError: When another member started it, or the folder belongs to another user.
    """
    if not folder.path.exists():
        return
    earlier = folder.load().sweep
    owner = earlier.member if earlier is not None else None
    is_foreign = folder.path.stat().st_uid != os.geteuid()
    if is_foreign or (owner is not None and owner != member):
        whose = owner if owner is not None and owner != member else f"another user (uid {folder.path.stat().st_uid})"
        raise RequestError(f"{folder.path}: these are results of {whose}; give your sweep another name")


def put_aside(folder: SweepFolder, member: str | None) -> None:
    """Renames the results of an earlier run of the same sweep by the same member; see check_owner."""
    check_owner(folder, member)
    if not folder.path.exists():
        return
    earlier = folder.load().sweep
    started_at = earlier.started_at if earlier and earlier.started_at is not None else folder.path.stat().st_mtime
    base = f"{folder.path.name}_{datetime.fromtimestamp(started_at):%m%d_%H%M%S}"  # as in trial names
    target, number = folder.path.with_name(base), 1
    while target.exists():
        number += 1
        target = folder.path.with_name(f"{base}_{number}")
    folder.path.rename(target)
    note(f"results of an earlier run are in {target} now")


def names_in(folder: Path) -> set[str]:
    """Returns the names in a folder; empty where it is absent."""
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()
