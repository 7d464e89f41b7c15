"""The one door to W&B: one run a trial, offline without an account, and never a reason for a trial to wait or fail.

The trial's own process logs (Ray's callback would start two more actors a trial on the driver's node); reused
processes share one wandb-core. Local files are the source of truth and W&B mirrors them.
"""

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

logger = logging.getLogger(__name__)
Mode = Literal["auto", "online", "offline", "disabled"]
STEP = "train/global_step"
_INIT_TIMEOUT_S = 20.0
_FINISH_TIMEOUT_S = 30.0  # an upload that takes longer goes on in wandb-core, or `wandb sync` picks it up


class Tracker(Protocol):
    """Mirrors a trial's numbers somewhere."""

    def log(self, metrics: Mapping[str, float]) -> None:
        """Takes numbers of one step; must be quick and must not raise."""
        ...

    def samples(self, rows: Sequence[tuple[str, str, str]]) -> None:
        """Takes a few (dialogue, reference, prediction) rows."""
        ...

    def finish(self, outcome: str) -> None:
        """Ends the run: "finished", "stopped", "failed"; may be called twice."""
        ...


class NullTracker:
    """Mirrors nothing."""

    def log(self, metrics: Mapping[str, float]) -> None:
        """Does nothing."""

    def samples(self, rows: Sequence[tuple[str, str, str]]) -> None:
        """Does nothing."""

    def finish(self, outcome: str) -> None:
        """Does nothing."""


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """What W&B is told about a trial.

    Attributes:
        project: W&B project.
        entity: Team or user; the account's default when None.
        group: The sweep, so that its trials stand together.
        name: The experiment.
        run_id: Stays the same over restarts, which then continue one run.
        tags: For filtering.
        config: Sampled and resolved configuration, placement and memory plan.
        folder: Where `wandb/` goes.
        mode: "auto" is online where a key is at hand and offline elsewhere.
    """

    project: str
    group: str
    name: str
    run_id: str
    folder: Path
    entity: str | None = None
    tags: tuple[str, ...] = ()
    config: Mapping[str, object] = field(default_factory=dict)
    mode: Mode = "auto"


def resolved_mode(
    mode: Mode, environment: Mapping[str, str], has_login: bool
) -> Literal["online", "offline", "disabled"]:
    """Decides whether a run is sent at once. W&B's own WANDB_MODE wins, as its users expect.

    >>> resolved_mode("auto", {}, False), resolved_mode("auto", {"WANDB_API_KEY": "x"}, False)
    ('offline', 'online')
    """
    wished = environment.get("WANDB_MODE", mode)
    for known in ("disabled", "offline", "online"):
        if wished == known:
            return known
    return "online" if environment.get("WANDB_API_KEY") or has_login else "offline"


def open_tracker(run: TrackedRun) -> Tracker:
    """Starts mirroring a trial; falls back to offline, and to nothing, with a warning in the trial's log."""
    mode = resolved_mode(run.mode, os.environ, has_login(Path.home() / ".netrc", os.environ))
    if mode == "disabled":
        return NullTracker()
    try:
        return WandbTracker(run, mode)
    except Exception as error:  # whatever W&B fails with, the trial is worth more
        logger.warning("W&B run could not be opened (%s: %s); going on offline", type(error).__name__, error)
    try:
        return WandbTracker(run, "offline")
    except Exception as error:  # the same
        logger.warning("W&B offline run could not be opened either (%s: %s)", type(error).__name__, error)
        return NullTracker()


class WandbTracker:
    """One W&B run."""

    def __init__(self, run: TrackedRun, mode: Literal["online", "offline"]) -> None:
        os.environ["WANDB_SILENT"] = "true"
        import wandb

        self._wandb = wandb
        run.folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=run.project,
            entity=run.entity,
            group=run.group,
            job_type="trial",
            name=run.name,
            id=run.run_id,
            tags=list(run.tags),
            config=dict(run.config),
            dir=str(run.folder),
            mode=mode,
            resume="allow",
            reinit="create_new",  # several runs one after another in a reused process
            settings=wandb.Settings(
                silent=True,
                console="off",
                init_timeout=_INIT_TIMEOUT_S,
                disable_git=True,
                disable_code=True,
                x_save_requirements=False,
                x_disable_stats=mode == "offline",  # system statistics of a shared machine, a thread a process
            ),
        )
        self._run.define_metric(STEP)
        self._run.define_metric("*", step_metric=STEP)
        self._open = True

    def log(self, metrics: Mapping[str, float]) -> None:
        """Takes numbers of one step."""
        self._quietly(lambda: self._run.log(dict(metrics)))

    def samples(self, rows: Sequence[tuple[str, str, str]]) -> None:
        """Logs a table of summaries beside their references."""
        columns = ["dialogue", "reference", "prediction"]
        self._quietly(
            lambda: self._run.log({"samples": self._wandb.Table(columns=columns, data=[list(row) for row in rows])})
        )

    def finish(self, outcome: str) -> None:
        """Marks the outcome and closes the run, waiting for an upload only so long."""
        if not self._open:
            return
        self._open = False
        self._quietly(lambda: self._run.summary.update({"outcome": outcome}))
        closing = threading.Thread(
            target=self._quietly, args=(lambda: self._run.finish(exit_code=int(outcome == "failed")),), daemon=True
        )
        closing.start()
        closing.join(_FINISH_TIMEOUT_S)
        if closing.is_alive():
            logger.warning("W&B still uploads after %.0f s; not waiting for it", _FINISH_TIMEOUT_S)

    @staticmethod
    def _quietly(action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:  # a mirror that breaks must not end a trial
            logger.warning("W&B: %s: %s", type(error).__name__, error)


def has_login(netrc: Path, environment: Mapping[str, str]) -> bool:
    """Whether `wandb login` left a key for the host in use; only the host's name is looked for."""
    host = environment.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].split(":")[0].rstrip("/")
    try:
        return f"machine {host}" in netrc.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
