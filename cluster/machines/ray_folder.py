"""Ray's files on this machine lie below a folder that only its owner may enter.

Ray makes its own folders writable for every user (mode 777), runs code from them and unpickles what lies in them.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from common.files import is_private, private_folder

VARIABLE = "RAY_TMPDIR"  # Ray's own: it puts its folder `ray` below
UMASK = 0o077  # of Ray's processes
_OWN_UMASK = "TUNE_JOBS_UMASK"


def private_root(environment: Mapping[str, str]) -> Path:
    """Returns the folder for Ray's files; makes nothing.

    It is the temporary folder itself where that is private, else one below it. Its name is short, as the path of a
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
    """Whatever Ray is started in this block keeps its files to their owner.

    Raises:
        RequestError: When the folder is not this user's alone.
    """
    os.environ[VARIABLE] = str(private_folder(private_root(os.environ)))
    before = os.umask(UMASK)
    os.environ.update(own_umask(before))
    try:
        yield
    finally:
        os.umask(before)


def own_umask(mask: int) -> dict[str, str]:
    """Returns the variable that hands a person's umask on to what Ray runs for them; see restore_umask."""
    return {_OWN_UMASK: f"{mask:03o}"}


def restore_umask() -> None:
    """Gives a process that Ray started the umask of the person who started Ray: results may be the team's to read."""
    mask = os.environ.get(_OWN_UMASK)
    if mask is not None:
        os.umask(int(mask, 8))


def own_address() -> str | None:
    """Returns the address of the cluster that this user started on this machine; None where there is none.

    Reads what `ray start` left in the private folder, or in Ray's usual one where the file belongs to this user: a
    neighbour's would lead to a cluster that gets this user's token and runs code here.
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
