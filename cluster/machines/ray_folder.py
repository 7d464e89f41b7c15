"""Keeps Ray's files on this machine in a folder that only its owner may enter.

Ray makes its own folders writable for every user (mode 777), runs code from them and unpickles files in them.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tuning_common.errors import WorkError
from tuning_common.files import is_private, private_folder
from tuning_common.storage import free_bytes
from tuning_common.units import format_bytes

VARIABLE = "RAY_TMPDIR"  # Ray's variable: it creates its folder `ray` inside
UMASK = 0o077  # of Ray's processes
ROOM_BYTES = 16 * 2**20  # without it Ray fails after half a minute, with a traceback
_OWN_UMASK = "TUNE_JOBS_UMASK"


def private_root(environment: Mapping[str, str]) -> Path:
    """Returns the folder for Ray's files, without creating it.

    It is the temporary folder where that is private, else a folder in it. Its name is short, as the path of a
    socket may have 107 characters and Ray needs about 70 of them.

    >>> private_root({"RAY_TMPDIR": "/tmp"}).as_posix() == f"/tmp/ray-{os.geteuid()}"
    True
    """
    base = Path(environment.get(VARIABLE) or tempfile.gettempdir())
    return base if is_private(base) else base / f"ray-{os.geteuid()}"


def ray_folder(environment: Mapping[str, str]) -> Path:
    """Returns Ray's own folder below private_root."""
    return private_root(environment) / "ray"


@contextmanager
def private_ray() -> Iterator[None]:
    """Makes a Ray that is started in this block keep its files private.

    Raises:
        RequestError: When other users can enter the folder.
        WorkError: When its disk is full.
    """
    root = private_folder(private_root(os.environ))
    left_bytes = free_bytes(root)
    if left_bytes < ROOM_BYTES:
        raise WorkError(
            f"{root}: only {format_bytes(left_bytes)} are left for Ray's files; make room, or name a folder on another"
            f" disk: export {VARIABLE}=DIR"
        )
    os.environ[VARIABLE] = str(root)
    before = os.umask(UMASK)
    os.environ.update(own_umask(before))
    try:
        yield
    finally:
        os.umask(before)


def own_umask(mask: int) -> dict[str, str]:
    """Returns the variable that passes the user's umask to Ray's processes; see restore_umask."""
    return {_OWN_UMASK: f"{mask:03o}"}


def restore_umask() -> None:
    """Restores the user's umask in a process that Ray started: the team may read results."""
    mask = os.environ.get(_OWN_UMASK)
    if mask is not None:
        os.umask(int(mask, 8))


def own_address() -> str | None:
    """Returns the address of the cluster that this user started on this machine, or None.

    Reads the file of `ray start` in the private folder, or in Ray's usual one where this user owns the file: another
    user's cluster would receive this user's token and could run code here.
    """
    usual = Path(os.environ.get(VARIABLE) or tempfile.gettempdir()) / "ray"
    for folder in (ray_folder(os.environ), usual):
        try:
            with (folder / "ray_current_cluster").open(encoding="utf-8") as stream:
                if os.fstat(stream.fileno()).st_uid == os.geteuid():
                    return stream.read(200).strip() or None
        except OSError:
            continue
    return None
