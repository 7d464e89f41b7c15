"""The name, command and package of a submitted sweep; cluster.machines.jobs sends it."""

import re
import shlex
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tune_jobs.jobs.package import PackagedFile, target_of, write_package
from tune_jobs.jobs.sealed_key import FILE, seal
from tuning_common.errors import RequestError

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A job to submit.

    Attributes:
        name: Name of the job, before a number is added to make it unique.
        entrypoint: Its command.
        files: Files of its package.
        key: The member's W&B key; None if there is none, or it must not be sent.
        token: The cluster's token, which encrypts the key.
        metadata: Names that Ray's dashboard and `ray job list` show: the member, the sweep, the report's path in the
            cluster's folder of results.
    """

    name: str
    entrypoint: str
    files: tuple[PackagedFile, ...]
    key: str | None = None
    token: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """Total size of its files."""
        return sum(file.size_bytes for file in self.files)

    def __repr__(self) -> str:
        return f"Submission({self.name!r})"  # a key must not get into a log


def job_name(member: str, sweep: str) -> str:
    """Returns the job name `{member}-{sweep}`.

    Raises:
        RequestError: When the member's name cannot be part of it.

    >>> job_name("ann", "wide")
    'ann-wide'
    """
    if not _NAME.fullmatch(member):
        raise RequestError(f"--member must be letters, digits, '.', '_' or '-', but is {member!r}")
    return f"{member}-{sweep}"


def free_name(name: str, taken: Collection[str]) -> str:
    """Returns the name, with a number if earlier jobs have it, because Ray keeps the logs of each job.

    >>> free_name("ann-wide", {"ann-wide", "ann-wide-2"})
    'ann-wide-3'
    """
    free, number = name, 1
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    return free


def is_same(name: str, other: str) -> bool:
    """Returns whether a job name is another job name, with or without an added number.

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


def write_submission(submission: Submission, folder: Path) -> None:
    """Writes a package into a folder that only this user can read."""
    write_package(submission.files, folder)
    if submission.key is not None:
        assert submission.token is not None, "a key is never sent unsealed"
        (folder / FILE).write_bytes(seal(submission.key, submission.token))


def scratch() -> "tempfile.TemporaryDirectory[str]":
    """Returns a temporary folder (mode 700) for a package during the upload."""
    return tempfile.TemporaryDirectory(prefix="tune_jobs_")
