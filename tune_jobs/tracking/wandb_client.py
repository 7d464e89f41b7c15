"""The only module that writes to W&B: opens runs, online or offline, and returns whether the server has all of a run.

Only the mirror's process (mirror_process) uses it. Ray's own WandbLoggerCallback starts two more actors for each trial
and waits for uploads when a sweep is stopped. wandb in the trial itself waits for the server when a run is opened (up
to `init_timeout`) and when it is closed. Both make training as slow as W&B is.

Tests cover what is used of wandb 0.31 beyond its documented interface: the run's log of wandb-core
(`logs/debug-internal.log`) has a line of level ERROR if something was not uploaded, and such a run is complete on the
disk, for `wandb sync`.
"""

import logging
import os
import shlex
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from tuning_common.files import open_to_append

logger = logging.getLogger(__name__)
Mode = Literal["auto", "online", "offline", "disabled"]
RunState = Literal["finished", "failed", "preempted"]
STEP = "train/global_step"
FOLDER = "wandb"  # wandb itself puts its runs in a folder of this name
_SYNCED = ".wandb.synced"  # suffix of the file that `wandb sync` writes beside a run that it has sent
_UNAVAILABLE_FOR_S = 300.0  # after a failure, runs are opened offline for this long


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """Description of a trial's run when it is opened.

    Attributes:
        project: W&B project.
        group: The sweep, which groups its trials.
        job_type: The phase.
        name: The experiment.
        run_id: Id that is stable over restarts, which continue the run.
        folder: Parent of the folder `wandb/`.
        entity: Team or user; None for the account's default.
        tags: For filtering.
        config: Sampled and resolved configuration, placement and memory plan.
    """

    project: str
    group: str
    job_type: str
    name: str
    run_id: str
    folder: Path
    entity: str | None = None
    tags: tuple[str, ...] = ()
    config: Mapping[str, object] = field(default_factory=dict)


_USUAL_NAMES = {
    "time/data_s": "time/data_loading",
    "time/forward_s": "time/forward_pass",
    "time/backward_s": "time/backward_pass",
    "time/total_s": "time/total_step",
}


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """How long the mirror waits for a W&B server.

    Attributes:
        init_s: Timeout for opening a run; afterwards it is an offline run.
        finish_s: Timeout for uploading the rest of a run; afterwards it is left to `wandb sync`.
    """

    init_s: float = 20.0
    finish_s: float = 120.0


def resolved_mode(
    mode: Mode, environment: Mapping[str, str], has_login: bool
) -> Literal["online", "offline", "disabled"]:
    """Decides whether runs are sent at once. WANDB_MODE has precedence, as in wandb itself.

    >>> resolved_mode("auto", {}, False), resolved_mode("auto", {"WANDB_API_KEY": "x"}, False)
    ('offline', 'online')
    """
    wished = environment.get("WANDB_MODE", mode)
    for known in ("disabled", "offline", "online"):
        if wished == known:
            return known
    return "online" if environment.get("WANDB_API_KEY") or has_login else "offline"


def mode_here(mode: Mode) -> Literal["online", "offline", "disabled"]:
    """Returns resolved_mode for this process and this user."""
    return resolved_mode(mode, os.environ, has_login(Path.home() / ".netrc", os.environ))


class Wandb:
    """Opens the runs of one sweep.

    Args:
        mode: "online" falls back to "offline" for a while when the server does not accept a run.
        timeouts: How long to wait for the server.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        mode: Literal["online", "offline"],
        timeouts: Timeouts | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        os.environ["WANDB_SILENT"] = "true"
        self._mode, self._timeouts, self._clock = mode, timeouts or Timeouts(), clock
        self._opening = threading.Lock()
        self._unavailable_since_s: float | None = None

    def open(self, run: TrackedRun) -> "WandbRun":
        """Opens a run: online, or offline if the mode is offline or the server does not answer.

        Raises:
            Exception: Whatever wandb raises when not even an offline run can be opened.
        """
        with self._opening:  # one at a time, so that only one run waits for a server that hangs
            if self._mode == "online" and not self._is_unavailable():
                try:
                    return WandbRun(run, "online", self._timeouts)
                except Exception as error:  # wandb's own classes and others: keep the run offline
                    self._unavailable_since_s = self._clock()
                    logger.warning("%s could not be opened online (%s); it is kept offline", run.name, _first(error))
                    # wandb-core keeps the id of a run that could not be opened ("run ID is in use")
                    run = replace(run, run_id=f"{run.run_id}-offline")
            return WandbRun(run, "offline", self._timeouts)

    def _is_unavailable(self) -> bool:
        return self._unavailable_since_s is not None and self._clock() - self._unavailable_since_s < _UNAVAILABLE_FOR_S


class WandbRun:
    """One open W&B run; see Wandb.open."""

    def __init__(self, run: TrackedRun, mode: Literal["online", "offline"], timeouts: Timeouts) -> None:
        import wandb

        self._wandb = wandb
        run.folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=run.project,
            entity=run.entity,
            group=run.group,
            job_type=run.job_type,
            name=run.name,
            id=run.run_id,
            tags=list(run.tags),
            config=dict(run.config),
            dir=str(run.folder),
            mode=mode,
            resume="allow" if mode == "online" else None,  # offline it would only warn, and `wandb sync` appends
            reinit="create_new",  # several runs at once in one process
            settings=wandb.Settings(
                silent=True,
                console="off",
                init_timeout=timeouts.init_s,
                finish_timeout=timeouts.finish_s,
                finish_timeout_raises=True,
                disable_git=True,
                disable_code=True,
                x_save_requirements=False,
                x_disable_stats=True,  # these would be of this process; trials report their own system/*
            ),
        )
        self._run.define_metric(STEP)
        self._run.define_metric("*", step_metric=STEP)
        self.mode = mode
        self.url: str | None = self._run.url if mode == "online" else None
        self.entity: str | None = self._run.entity if mode == "online" else None
        self.folder = Path(self._run.dir).parent

    def log(self, row: Mapping[str, object], step: int) -> None:
        """Adds one row of history."""
        self._run.log(dict(row) | with_usual_names(row), step=step)

    def describe(self, values: Mapping[str, object]) -> None:
        """Updates the configuration."""
        self._run.config.update(dict(values), allow_val_change=True)

    def summarize(self, values: Mapping[str, object]) -> None:
        """Sets final values."""
        self._run.summary.update(dict(values))

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]], step: int) -> None:
        """Logs a table."""
        self._run.log({name: self._wandb.Table(columns=list(columns), data=[list(row) for row in rows])}, step=step)

    def model(self, folder: Path, metadata: Mapping[str, object]) -> None:
        """Logs a folder as this run's model artifact, with the alias `best`."""
        artifact = self._wandb.Artifact(f"model-{self._run.id}", type="model", metadata=dict(metadata))
        artifact.add_dir(str(folder))
        self._run.log_artifact(artifact, aliases=["best"])

    def finish(self, state: RunState) -> bool:
        """Closes the run.

        Returns:
            Whether a server has all of it; False for an offline run.
        """
        if state == "preempted":
            self._run.mark_preempting()
        try:
            self._run.finish(exit_code=0 if state == "finished" else 1)
        except TimeoutError:
            return False
        if self.mode == "offline" or _has_errors(self.folder / "logs" / "debug-internal.log"):
            return False
        os.close(open_to_append(self.folder / f"run-{self._run.id}{_SYNCED}"))
        return True


def with_usual_names(row: Mapping[str, object]) -> dict[str, object]:
    """Returns the parts of a step also under the names that dashboards of other trainers use.

    >>> with_usual_names({"time/total_s": 2.0, "train/loss": 1.0})
    {'time/total_step': 2.0}
    """
    return {usual: row[name] for name, usual in _USUAL_NAMES.items() if name in row}


def sync_command(folder: Path, unsent: Sequence[str]) -> str:
    """Returns the command that sends what was not sent; it skips runs that were sent.

    >>> sync_command(Path("wandb"), ["offline-run-2-a"]), sync_command(Path("wandb"), ["run-1-a"])
    ('wandb sync wandb', 'wandb sync --include-online wandb')
    """
    online = "--include-online " if any(not name.startswith("offline-") for name in unsent) else ""
    return f"wandb sync {online}{shlex.quote(str(folder))}"


def is_sent(folder: Path) -> bool:
    """Returns whether a run's folder has the file of `wandb sync` that confirms that a server has it."""
    return any(folder.glob(f"*{_SYNCED}"))


def _has_errors(log: Path) -> bool:
    try:
        return '"level":"ERROR' in log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True  # without a log, success is unknown


def _first(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def has_login(netrc: Path, environment: Mapping[str, str]) -> bool:
    """Returns whether ~/.netrc has an entry for the W&B host in use; does not read the key."""
    host = environment.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].split(":")[0].rstrip("/")
    try:
        return f"machine {host}" in netrc.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
