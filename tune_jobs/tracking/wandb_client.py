"""Writes to W&B, alone of all modules: opens runs, online or offline, and says of each whether the server has taken it.

Only the mirror's process comes through here (mirror_process); no trial does. Ray's own WandbLoggerCallback starts two
more actors for each trial and waits for uploads when a sweep is stopped; wandb in the trial itself waits for the server
when a run is opened (up to `init_timeout`) and when it is closed. Both make training as slow as W&B is.

What is relied on in wandb 0.31 beyond its documented interface is held by tests: a run's log of wandb-core
(`logs/debug-internal.log`) has a line of level ERROR where something was not uploaded, and a run that could not be
uploaded lies whole on the disk afterwards, for `wandb sync`.
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

from common.files import open_to_append

logger = logging.getLogger(__name__)
Mode = Literal["auto", "online", "offline", "disabled"]
RunState = Literal["finished", "failed", "preempted"]
STEP = "train/global_step"
FOLDER = "wandb"  # wandb itself puts its runs in a folder of this name
_SYNCED = ".wandb.synced"  # what `wandb sync` leaves beside a run that it has sent
_SICK_FOR_S = 300.0  # after a server did not answer: new runs are opened offline, without asking it again


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """What W&B is told about a trial when its run is opened.

    Attributes:
        project: W&B project.
        group: The sweep, so that its trials stand together.
        job_type: The phase.
        name: The experiment.
        run_id: Stays the same over restarts, which then continue one run.
        folder: Where `wandb/` goes.
        entity: Team or user; the account's default when None.
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


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """How long the mirror waits for a W&B server; no trial ever does.

    Attributes:
        init_s: For a run to be opened; then it is an offline run.
        finish_s: For the rest of a run to be uploaded; then it is left to `wandb sync`.
    """

    init_s: float = 20.0
    finish_s: float = 120.0


def resolved_mode(
    mode: Mode, environment: Mapping[str, str], has_login: bool
) -> Literal["online", "offline", "disabled"]:
    """Decides whether runs are sent at once. W&B's own WANDB_MODE wins, as its users expect.

    >>> resolved_mode("auto", {}, False), resolved_mode("auto", {"WANDB_API_KEY": "x"}, False)
    ('offline', 'online')
    """
    wished = environment.get("WANDB_MODE", mode)
    for known in ("disabled", "offline", "online"):
        if wished == known:
            return known
    return "online" if environment.get("WANDB_API_KEY") or has_login else "offline"


def mode_here(mode: Mode) -> Literal["online", "offline", "disabled"]:
    """As resolved_mode, for this process and this user."""
    return resolved_mode(mode, os.environ, has_login(Path.home() / ".netrc", os.environ))


class Wandb:
    """Opens runs of one sweep, one after another or many at once.

    Args:
        mode: "online" falls back to "offline" for a while when the server does not take a run.
        patience: See there.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        mode: Literal["online", "offline"],
        patience: Timeouts | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        os.environ["WANDB_SILENT"] = "true"
        self._mode, self._patience, self._clock = mode, patience or Timeouts(), clock
        self._opening = threading.Lock()
        self._sick_since_s: float | None = None

    def open(self, run: TrackedRun) -> "WandbRun":
        """Opens a run: online, or offline where W&B is not asked or does not answer.

        Raises:
            Exception: Whatever wandb raises when not even an offline run can be opened.
        """
        with self._opening:  # one at a time: a server that hangs is waited for once, not by every run
            if self._mode == "online" and not self._is_sick():
                try:
                    return WandbRun(run, "online", self._patience)
                except Exception as error:  # wandb's own classes and others; the run is worth more than its upload
                    self._sick_since_s = self._clock()
                    logger.warning("%s could not be opened online (%s); it is kept offline", run.name, _first(error))
                    # wandb-core holds the id of a run that could not be opened as long as it lives ("run ID is in use")
                    run = replace(run, run_id=f"{run.run_id}-offline")
            return WandbRun(run, "offline", self._patience)

    def _is_sick(self) -> bool:
        return self._sick_since_s is not None and self._clock() - self._sick_since_s < _SICK_FOR_S


class WandbRun:
    """One open W&B run; see Wandb.open."""

    def __init__(self, run: TrackedRun, mode: Literal["online", "offline"], patience: Timeouts) -> None:
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
                init_timeout=patience.init_s,
                finish_timeout=patience.finish_s,
                finish_timeout_raises=True,
                disable_git=True,
                disable_code=True,
                x_save_requirements=False,
                x_disable_stats=True,  # of this process; the trial's own machine reports system/*
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
        self._run.log(dict(row), step=step)

    def describe(self, values: Mapping[str, object]) -> None:
        """Adds to the configuration what was not known when the run was opened."""
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
            Whether a server has taken all of it; never for an offline run.
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


def sync_command(folder: Path, unsent: Sequence[str]) -> str:
    """Returns the command that sends what was not sent; runs that were are marked and passed over.

    >>> sync_command(Path("wandb"), ["offline-run-2-a"]), sync_command(Path("wandb"), ["run-1-a"])
    ('wandb sync wandb', 'wandb sync --include-online wandb')
    """
    online = "--include-online " if any(not name.startswith("offline-") for name in unsent) else ""
    return f"wandb sync {online}{shlex.quote(str(folder))}"


def is_sent(folder: Path) -> bool:
    """Whether a run's folder carries the mark of `wandb sync`: a server has it."""
    return any(folder.glob(f"*{_SYNCED}"))


def _has_errors(log: Path) -> bool:
    try:
        return '"level":"ERROR' in log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True  # nobody says that it went well


def _first(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def has_login(netrc: Path, environment: Mapping[str, str]) -> bool:
    """Whether `wandb login` left a key for the host in use; only the host's name is looked for."""
    host = environment.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].split(":")[0].rstrip("/")
    try:
        return f"machine {host}" in netrc.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
