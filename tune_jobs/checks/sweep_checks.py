"""Checks of one sweep before, during and after its run. Pure: facts in, checks out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cluster.machines.checks import Check, Status
from tuning_common.units import format_bytes, format_duration

Stage = Literal["before", "during", "after"]
SILENT_S = 1800.0  # the driver waits at least this long for a report of a trial
BUSY_PERCENT = 30  # below this, an allocated card is mostly idle


@dataclass(frozen=True, kw_only=True)
class LoginFacts:
    """Facts about the W&B login.

    Attributes:
        wished: `tracking.wandb` of the sweep, or WANDB_MODE.
        has_key: Whether there is a key.
        user: The owner of the key according to the server; None if it was not asked or did not answer.
        error: Why the server could not be asked; "401" if it refuses the key.
    """

    wished: str
    has_key: bool
    user: str | None = None
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class RunningFacts:
    """Facts about a running sweep.

    Attributes:
        silent_s: Seconds since its last event.
        running: Trials that run.
        ended: Trials that are over.
        total: Trials in all; None if unknown.
        anomalies: Sentences of report.anomalies.
        busy: (card, utilisation in percent over the last second) of every card here.
    """

    silent_s: float
    running: int
    ended: int
    total: int | None = None
    anomalies: tuple[str, ...] = ()
    busy: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, kw_only=True)
class LeftFacts:
    """Facts about an ended sweep.

    Attributes:
        model: Folder of the winner's model; None if no trial has a result.
        model_error: Why it cannot be read; empty if it can.
        report: The report's file.
        report_error: What is wrong with it; empty if nothing is.
        leftovers: Checkpoints and temporary files that are not needed any more.
        leftover_bytes: Their size.
        held: (card, bytes) that processes of this user still hold.
        unfinished: Trials that are not over.
        anomalies: Sentences of report.anomalies.
        source: The sweep file, as the user gave it.
    """

    model: str | None
    model_error: str = ""
    report: str = ""
    report_error: str = ""
    leftovers: tuple[str, ...] = ()
    leftover_bytes: int = 0
    held: tuple[tuple[str, int], ...] = ()
    unfinished: int = 0
    anomalies: tuple[str, ...] = ()
    source: str = "SWEEP"


def login_check(facts: LoginFacts) -> Check:
    """Checks the W&B login.

    >>> login_check(LoginFacts(wished="online", has_key=False)).status
    'failed'
    """
    if facts.wished == "disabled":
        return Check(name="W&B login", status="skipped", detail="the sweep keeps to its files")
    if facts.wished == "offline":
        return Check(name="W&B login", status="ok", detail="runs stay offline; wandb sync sends them later")
    if not facts.has_key:
        status: Status = "failed" if facts.wished == "online" else "ok"
        remedy = "wandb login, or export WANDB_API_KEY; or write wandb: offline"
        detail = "no key is at hand" + ("" if status == "failed" else ": runs stay offline")
        return Check(name="W&B login", status=status, detail=detail, remedy=remedy if status == "failed" else "")
    if facts.error == "401":
        remedy = "wandb login --relogin with the key of your account"
        return Check(name="W&B login", status="failed", detail="the server refuses the key", remedy=remedy)
    if facts.user is None:
        remedy = "check the network and WANDB_BASE_URL; runs go on offline until then"
        detail = f"the server could not be asked ({facts.error})"
        return Check(name="W&B login", status="warning", detail=detail, remedy=remedy)
    return Check(name="W&B login", status="ok", detail=f"logged in as {facts.user}")


def pipeline_check(error: str, duration_s: float) -> Check:
    """Checks the quick run of the whole pipeline.

    Args:
        error: The last lines of its error output; empty on success.
        duration_s: Its duration.
    """
    if error:
        remedy = "the lines above are those of python -m dialsum train on a few dialogues of this sweep's data"
        return Check(name="pipeline", status="failed", detail=error, remedy=remedy)
    detail = f"a tiny model was trained, scored and saved on this sweep's data in {format_duration(duration_s)}"
    return Check(name="pipeline", status="ok", detail=detail)


def during_checks(facts: RunningFacts) -> list[Check]:
    """Checks a running sweep."""
    of = f" of {facts.total}" if facts.total is not None else ""
    counts = (
        f"{facts.ended}{of} trials ended, {facts.running} running, last event {format_duration(facts.silent_s)} ago"
    )
    progress = Check(name="progress", status="ok", detail=counts)
    if facts.silent_s > SILENT_S:
        remedy = "a hanging trial is ended automatically; check training.log of the running trials, and ray status"
        progress = Check(name="progress", status="warning", detail=counts, remedy=remedy)
    return [progress, _utilisation(facts.busy), _anomalies(facts.anomalies)]


def after_checks(facts: LeftFacts) -> list[Check]:
    """Checks an ended sweep."""
    checks = []
    if facts.unfinished:
        remedy = f"python -m tune_jobs run {facts.source} --resume"
        checks.append(Check(name="trials", status="warning", detail=f"{facts.unfinished} are not over", remedy=remedy))
    if facts.model is None:
        remedy = "the reasons are in all_results.jsonl"
        checks.append(Check(name="best model", status="failed", detail="no trial has a result", remedy=remedy))
    elif facts.model_error:
        remedy = "python -m tune_jobs reproduce EXPERIMENT trains it again"
        detail = f"{facts.model}: {facts.model_error}"
        checks.append(Check(name="best model", status="failed", detail=detail, remedy=remedy))
    else:
        checks.append(Check(name="best model", status="ok", detail=facts.model))
    status: Status = "failed" if facts.report_error else "ok"
    remedy = "python -m tune_jobs report FOLDER" if facts.report_error else ""
    checks.append(Check(name="report", status=status, detail=facts.report_error or facts.report, remedy=remedy))
    checks.append(_leftovers(facts))
    if facts.held:
        detail = ", ".join(f"{card}: {format_bytes(size)}" for card, size in facts.held)
        remedy = "a process of yours still holds it: nvidia-smi names it; end it, or ray stop"
        checks.append(Check(name="gpu caches", status="warning", detail=detail, remedy=remedy))
    else:
        checks.append(Check(name="gpu caches", status="ok", detail="no process of yours holds memory of a card"))
    return [*checks, _anomalies(facts.anomalies)]


def _leftovers(facts: LeftFacts) -> Check:
    if not facts.leftovers:
        return Check(name="temporary files", status="ok", detail="none is left")
    size = format_bytes(facts.leftover_bytes)
    detail = f"{len(facts.leftovers)} left, {size}: {facts.leftovers[0]}" + (" ..." if len(facts.leftovers) > 1 else "")
    if facts.unfinished:
        return Check(name="temporary files", status="ok", detail=f"{detail} (--resume needs them)")
    remedy = f"python -m tune_jobs check FOLDER --clean, or rm -r {facts.leftovers[0]}"
    return Check(name="temporary files", status="warning", detail=detail, remedy=remedy)


def _utilisation(busy: Sequence[tuple[str, int]]) -> Check:
    if not busy:
        return Check(name="utilisation", status="skipped", detail="no NVIDIA card on this machine")
    detail = ", ".join(f"{card}: {percent} %" for card, percent in busy)
    if all(percent >= BUSY_PERCENT for _, percent in busy):
        return Check(name="utilisation", status="ok", detail=detail)
    remedy = "more trials a card (resources.max_trials_per_gpu), larger batches, or data on a faster disk"
    return Check(name="utilisation", status="warning", detail=detail, remedy=remedy)


def _anomalies(found: Sequence[str]) -> Check:
    if not found:
        return Check(name="anomalies", status="ok", detail="nothing odd")
    remedy = "python -m tune_jobs report FOLDER shows them beside the trials"
    return Check(name="anomalies", status="warning", detail="\n".join(found), remedy=remedy)
