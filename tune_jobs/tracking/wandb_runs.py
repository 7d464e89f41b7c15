"""The only module that reads from W&B: the runs of a project, for the weekly dashboard.

It uses wandb's public API (wandb 0.31: Api.runs, one GraphQL query a page) in a thread with a bounded wait, because
wandb-core repeats a failing request for minutes.
"""

import os
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast

from dialsum.config import COMPOSITE, METRIC_GOALS
from tune_jobs.analysis.week_sources import Source
from tune_jobs.analysis.weekly import UNKNOWN, WeekRun, scale_of
from tune_jobs.config.parameters import to_number
from tune_jobs.records.ledger import OUTCOMES, TrialOutcome
from tune_jobs.tracking.wandb_client import has_login
from tuning_common.errors import RequestError

if TYPE_CHECKING:
    from wandb.apis.public import Run

PATIENCE_S = 60.0
_PAGE = 200
_STATES: Mapping[str, TrialOutcome] = {"finished": "finished", "running": "running", "pending": "running"}


@dataclass(frozen=True, kw_only=True)
class MirroredRun:
    """A run at W&B, as plain values.

    Attributes:
        name: Display name; for runs of this program, the experiment's name.
        state: "finished", "running", "crashed", "failed", "killed".
        group: The sweep.
        user: The user whose key sent it.
        created_at: ISO 8601.
        heartbeat_at: ISO 8601, the last heartbeat; empty if there was none.
        config: The logged configuration.
        summary: Last values.
    """

    name: str
    state: str
    group: str
    user: str
    created_at: str
    heartbeat_at: str
    config: Mapping[str, object]
    summary: Mapping[str, object]


def read_project(path: str, since: datetime, patience_s: float = PATIENCE_S) -> Source:
    """Reads the runs of a W&B project; if that fails, returns no runs and a remark with the reason.

    Args:
        path: ENTITY/PROJECT.
        since: Runs that were created earlier are left out.
        patience_s: How long to wait.

    Raises:
        RequestError: When the path is malformed, or there is no key for W&B.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", path):
        raise RequestError(f"--wandb {path} must be ENTITY/PROJECT, for example my-team/summaries")
    if not os.environ.get("WANDB_API_KEY") and not has_login(Path.home() / ".netrc", os.environ):
        raise RequestError("--wandb needs a key: run `wandb login` once, or set WANDB_API_KEY")
    found: list[MirroredRun] = []
    failure: list[Exception] = []

    def ask() -> None:
        try:
            found.extend(_fetch(path, since))
        except Exception as error:  # any failure: the local ledgers remain
            failure.append(error)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(patience_s)
    if asking.is_alive():
        return Source(runs=(), remarks=(f"W&B {path} did not answer within {patience_s:g} s and is left out.",))
    if failure:
        reason = str(failure[0]).strip().split("\n")[0] or type(failure[0]).__name__
        return Source(runs=(), remarks=(f"W&B {path} could not be read and is left out: {reason}",))
    return Source(runs=tuple(week_run(run) for run in found))


def week_run(run: MirroredRun) -> WeekRun:
    """Converts a W&B run; a run of another program has only the fields that can be derived.

    GPU time is the share at the run's start times its run time; W&B does not measure it.
    """
    config = _mapping(run.config.get("resolved")) or run.config
    bundle = _mapping(run.config.get("bundle"))
    wall_s = (
        to_number(_mapping(run.summary.get("_wandb")).get("runtime")) or to_number(run.summary.get("_runtime")) or 0.0
    )
    gpu_s = wall_s * (to_number(bundle.get("gpus")) or 0.0)
    simulated = bool(run.config.get("simulated", False))
    metric = str(config["metric"]) if config.get("metric") in METRIC_GOALS else COMPOSITE
    best, last = (to_number(run.summary.get(name)) for name in (metric.replace("eval/", "best/"), metric))
    score = last if best is None else best
    outcome = outcome_of(run.state, run.summary.get("outcome"))
    return WeekRun(
        name=run.name,
        sweep=run.group or UNKNOWN,
        member=str(run.config.get("member") or run.user or UNKNOWN),
        model=str(config.get("model") or UNKNOWN).rstrip("/").rsplit("/", 1)[-1],
        outcome=outcome,
        at=_seconds(run.created_at if outcome == "running" else run.heartbeat_at or run.created_at),
        gpu_s=0.0 if simulated else gpu_s,
        simulated_gpu_s=gpu_s if simulated else 0.0,
        wall_s=wall_s,
        scale=None if score is None else scale_of(metric, METRIC_GOALS[metric], config),
        score=score,
    )


def outcome_of(state: str, recorded: object) -> TrialOutcome:
    """Returns the outcome of a run: the one that this program recorded, unless W&B reports a crash.

    >>> outcome_of("finished", "stopped"), outcome_of("crashed", None), outcome_of("finished", None)
    ('stopped', 'failed', 'finished')
    """
    reported = _STATES.get(state, "failed")
    if reported != "running" and recorded in OUTCOMES and (reported == "finished" or recorded != "finished"):
        return recorded
    return reported


def _fetch(path: str, since: datetime) -> Sequence[MirroredRun]:
    os.environ["WANDB_SILENT"] = "true"
    import wandb

    api = wandb.Api(timeout=20)
    wanted = {"created_at": {"$gte": since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}}
    return [_plain(run) for run in api.runs(path, filters=wanted, per_page=_PAGE, lazy=False)]


def _plain(run: "Run") -> MirroredRun:
    return MirroredRun(
        name=str(run.name),
        state=str(run.state),
        group=str(run.group or ""),
        user=str(run.user.username) if run.user is not None else "",
        created_at=str(run.created_at),
        heartbeat_at=str(run.heartbeat_at or ""),
        config=dict(run.config),
        summary=dict(run.summary_metrics),
    )


def _mapping(value: object) -> Mapping[str, object]:
    return cast("Mapping[str, object]", value) if isinstance(value, dict) else {}


def _seconds(text: str) -> float:
    """Parses W&B's times, which are UTC with or without a suffix.

    >>> _seconds("2026-11-20T10:00:00Z") == _seconds("2026-11-20T10:00:00") == 1795168800.0
    True
    """
    read = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()
