"""A sweep on its way to a cluster: its name, its command, its package. Decided here, sent by cluster.machines.jobs."""

import re
import shlex
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import RequestError
from tune_jobs.jobs.package import Piece, target_of, write_package
from tune_jobs.jobs.sealed_key import FILE, seal

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What is sent.

    Attributes:
        name: Of the job, before a number is added where earlier ones have it.
        entrypoint: Its command.
        pieces: Files of its package.
        key: The member's W&B key; None where there is none, or it is not to be sent.
        token: The cluster's token, which the key is sealed with.
    """

    name: str
    entrypoint: str
    pieces: tuple[Piece, ...]
    key: str | None = None
    token: str | None = None

    @property
    def size_bytes(self) -> int:
        """Of its files."""
        return sum(piece.size_bytes for piece in self.pieces)

    def __repr__(self) -> str:
        return f"Submission({self.name!r})"  # a key must not get into a log


def job_name(member: str, sweep: str) -> str:
    """Names a job `{member}-{sweep}`.

    Raises:
        RequestError: When the member's name cannot be part of it.

    >>> job_name("ann", "wide")
    'ann-wide'
    """
    if not _NAME.fullmatch(member):
        raise RequestError(f"--member must be letters, digits, '.', '_' or '-', but is {member!r}")
    return f"{member}-{sweep}"


def free_name(name: str, taken: Collection[str]) -> str:
    """Returns the name, with a number where earlier jobs have it: Ray keeps the logs of each.

    >>> free_name("ann-wide", {"ann-wide", "ann-wide-2"})
    'ann-wide-3'
    """
    free, number = name, 1
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    return free


def is_same(name: str, other: str) -> bool:
    """Whether a job of this name is a submission of the sweep that another name stands for.

    >>> is_same("ann-wide-2", "ann-wide"), is_same("ann-wide-long", "ann-wide")
    (True, False)
    """
    return re.fullmatch(re.escape(other) + r"(-\d+)?", name) is not None


def entrypoint_of(
    source: str,
    here: Path,
    *,
    member: str | None = None,
    output: Path | None = None,
    resume: bool = False,
    supervise: bool = False,
    options: Sequence[str] = (),
) -> str:
    """Returns the command that the job runs in its package.

    >>> entrypoint_of("sweeps/a b.yaml", Path("/home/a"), member="ann", supervise=True, options=["--strict"])
    "python -m tune_jobs run 'sweeps/a b.yaml' --member ann --supervise --strict"
    """
    command = ["python", "-m", "tune_jobs", "run", target_of(source, here).as_posix()]
    command += ["--member", member] if member else []
    command += ["--output", str(output)] if output else []
    command += [flag for flag, wanted in (("--resume", resume), ("--supervise", supervise)) if wanted]
    return shlex.join([*command, *options])


def lay_out(submission: Submission, folder: Path) -> None:
    """Writes a package into a folder that only this user reads."""
    write_package(submission.pieces, folder)
    if submission.key is not None:
        assert submission.token is not None, "a key is never sent unsealed"
        (folder / FILE).write_bytes(seal(submission.key, submission.token))


def scratch() -> "tempfile.TemporaryDirectory[str]":
    """A folder for a package, for as long as the upload takes; mode 700."""
    return tempfile.TemporaryDirectory(prefix="tune_jobs_")
