"""Ray's jobs: submit, follow, stop, list, over the head's dashboard address. No other module uses Ray's job client.

Sends no secrets: no environment variables, no metadata except names; Ray reads the token from its file.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar, cast

from cluster.machines.tokens import AUTH_MODE, TOKEN_VARIABLE, token_path, token_problem
from tuning_common.errors import RequestError, WorkError

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
PATIENCE_S = 600.0  # longest time without the head while following a job
_POLL_S = 1.0
_STOP_S = 180.0  # longer than raylets._STOP_WAIT_S
JobStatus = Literal["PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED"]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Job:
    """A submitted job.

    Attributes:
        name: Its submission id.
        status: Ray's status.
        entrypoint: The command.
        member: Who submitted it; empty for a job that `ray job submit` sent.
        sweep: Name of its sweep; likewise.
        report: Path of its report below the results; likewise.
        message: Ray's explanation of the status.
        started_at: Unix seconds; None before it started.
        ended_at: Unix seconds; None while it runs.
        exit_code: Exit code of the command; None while it runs, and where its process or machine was lost.
    """

    name: str
    status: JobStatus
    entrypoint: str = ""
    member: str = ""
    sweep: str = ""
    report: str = ""
    message: str = ""
    started_at: float | None = None
    ended_at: float | None = None
    exit_code: int | None = None

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.status in ("STOPPED", "SUCCEEDED", "FAILED")

    @property
    def was_lost(self) -> bool:
        """Whether it ended with its machine or supervisor instead of by its own exit."""
        return self.status == "FAILED" and self.exit_code is None


class Jobs:
    """Jobs of one cluster.

    Args:
        address: The head's dashboard, for example http://127.0.0.1:8265 through an SSH tunnel.

    Raises:
        RequestError: When there is no safe token, no cluster answers, or the cluster refuses the token.
    """

    def __init__(self, address: str = DEFAULT_ADDRESS) -> None:
        _use_token()
        import ray.exceptions
        from ray.job_submission import JobSubmissionClient

        for noisy in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"):
            logging.getLogger(f"ray.{noisy}").setLevel(logging.WARNING)
        self.address = address
        try:
            self._client = JobSubmissionClient(address)
        except ray.exceptions.AuthenticationError:
            path = token_path(os.environ, Path.home())
            raise RequestError(f"{address}: the cluster does not take the token of {path}; copy the head's") from None
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise RequestError(
                f"{address}: no cluster answers ({_first_line(error)})",
                ["start one: python -m cluster start --head, or `ray up`", _TUNNEL],
            ) from None

    def submit(self, name: str, entrypoint: str, folder: Path, metadata: Mapping[str, str]) -> None:
        """Submits a command to the cluster, with a copy of the folder as its working folder.

        Args:
            name: Its submission id.
            entrypoint: The command.
            folder: Its package.
            metadata: `member`, `sweep` and `report`; everyone who sees the jobs can read it.

        Raises:
            RequestError: When Ray refuses.
        """
        try:
            self._client.submit_job(
                entrypoint=entrypoint,
                submission_id=name,
                runtime_env={"working_dir": str(folder)},
                metadata=dict(metadata),
            )
        except (RuntimeError, ValueError) as error:
            raise RequestError(f"{self.address} refuses {name}: {_first_line(error)}") from None

    def find(self, name: str) -> Job:
        """Returns a job.

        Raises:
            RequestError: When no job has this name; the message lists the latest.
        """
        for job in self.list():
            if job.name == name:
                return job
        known = ", ".join(job.name for job in self.list()[-10:]) or "none"
        raise RequestError(f"{self.address} knows no job {name!r}; the latest: {known}")

    def list(self) -> list[Job]:
        """Returns all submitted jobs, oldest first.

        Raises:
            WorkError: When the cluster does not answer.
        """
        entries = self._asked(self._client.list_jobs)
        jobs = [_job(entry) for entry in entries if entry.submission_id]  # drivers that were not submitted have none
        return sorted(jobs, key=lambda job: (job.started_at or time.time(), job.name))

    def logs(self, name: str) -> str:
        """Returns the output of a job so far.

        Raises:
            WorkError: When the cluster does not answer.
        """
        return self.output(self.find(name))

    def output(self, job: Job) -> str:
        """Returns the output so far of a job that is known.

        Raises:
            WorkError: When the cluster does not answer, or does not have the output any more.
        """
        return str(self._asked(lambda: self._client.get_job_logs(job.name)))

    def stop(self, name: str) -> Job:
        """Stops a job cleanly and waits for its end; does nothing for an ended job.

        Raises:
            WorkError: When it has not ended after the time for a clean stop.
        """
        job = self.find(name)
        if job.is_over:
            return job
        self._asked(lambda: self._client.stop_job(name))
        ends = time.monotonic() + _STOP_S
        while time.monotonic() < ends:
            job = self.find(name)
            if job.is_over:
                return job
            time.sleep(_POLL_S / 2)
        raise WorkError(f"{name} has not ended within {_STOP_S:g} s; see its log: python -m tune_jobs jobs logs {name}")

    def follow(self, name: str, write: Callable[[str], None]) -> Job:
        """Passes on the output of a job until it ends; continues after an outage of the head.

        Args:
            name: The job.
            write: Receives the output in pieces.

        Returns:
            The ended job.

        Raises:
            WorkError: When the head does not answer for PATIENCE_S.
        """
        return asyncio.run(self._follow(name, write))

    async def _follow(self, name: str, write: Callable[[str], None]) -> Job:
        import aiohttp  # used by Ray's client

        said, lost_at = 0, None
        while True:
            try:
                seen = 0
                async for piece in self._client.tail_job_logs(name):
                    seen += len(piece)
                    if seen > said:
                        write(piece[-(seen - said) :])
                        said = seen
                    lost_at = None
                job = self.find(name)
                if job.is_over:
                    return job
            except (OSError, RuntimeError, aiohttp.ClientError, WorkError, RequestError) as error:
                lost_at = lost_at or time.monotonic()
                if time.monotonic() - lost_at > PATIENCE_S:
                    raise WorkError(
                        f"{self.address} has not answered for {PATIENCE_S:g} s ({_first_line(error)}); the job may run"
                        f" on; later: python -m tune_jobs jobs logs {name} --follow"
                    ) from None
            await asyncio.sleep(_POLL_S)

    def _asked(self, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except (OSError, RuntimeError) as error:
            raise WorkError(f"{self.address} does not answer: {_first_line(error)}; {_TUNNEL}") from None


_TUNNEL = "from another machine, through a tunnel: ssh -N -L 8265:127.0.0.1:8265 HEAD"


def _use_token() -> None:
    """Sets the token mode, before Ray is imported and reads it."""
    if os.environ.get(AUTH_MODE, "token") != "token":
        return
    trouble = token_problem(os.environ, Path.home())
    if trouble is not None and not os.environ.get(TOKEN_VARIABLE):  # the other side decides which token it takes
        raise RequestError(trouble, [f"for a cluster that was started with --no-token: export {AUTH_MODE}=disabled"])
    os.environ[AUTH_MODE] = "token"


def _job(entry: object) -> Job:
    values = {
        name: getattr(entry, name)
        for name in ("submission_id", "status", "entrypoint", "message", "start_time", "end_time", "driver_exit_code")
    }
    metadata = getattr(entry, "metadata", None) or {}
    return Job(
        name=str(values["submission_id"]),
        status=cast("JobStatus", getattr(values["status"], "value", values["status"])),
        entrypoint=str(values["entrypoint"]),
        member=str(metadata.get("member", "")),
        sweep=str(metadata.get("sweep", "")),
        report=str(metadata.get("report", "")),
        message=str(values["message"] or ""),
        started_at=values["start_time"] / 1000 if values["start_time"] else None,
        ended_at=values["end_time"] / 1000 if values["end_time"] else None,
        exit_code=values["driver_exit_code"],
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
