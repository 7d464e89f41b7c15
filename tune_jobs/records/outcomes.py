"""Converts a trial's journal to its ledger record and its calibration peak. Pure."""

from collections.abc import Mapping
from dataclasses import fields
from typing import cast

from cluster.estimator.calibration import Layout, Peak
from tune_jobs.records.card_sharing import SLOWDOWN_KEY
from tune_jobs.records.journal import EndStatus, TrialHistory
from tune_jobs.records.ledger import TrialError, TrialOutcome, TrialRecord
from tune_jobs.records.trial_spec import RunShape
from tuning_common.goal import Goal, best_of

_MEASURED = ("allocated_bytes", "reserved_bytes", "device_bytes", "host_rss_bytes")


def record_of(trial: TrialHistory, *, goal: Goal, rungs: tuple[int, ...] = ()) -> TrialRecord:
    """Returns the ledger record of a trial; `running` before its end.

    Args:
        trial: The trial's history.
        goal: Whether the metric is maximized or minimized.
        rungs: Evaluations at which trials were compared.
    """
    kind = trial.failure
    spec = trial.spec
    last = _numbers(trial.evaluations[max(trial.evaluations)].metrics) if trial.evaluations else {}
    seen = trial.evaluations[max(trial.evaluations)].metrics if trial.evaluations else {}
    resolved = cast("dict[str, object]", spec.get("config", {}))
    return TrialRecord(
        trial_id=str(trial.number),
        name=str(spec["name"]),
        sweep=str(spec.get("sweep", "")),
        status="running" if trial.status is None else _outcome(trial.status, kind),
        phase=str(spec.get("phase", "")),
        sampled=dict(cast("Mapping[str, object]", spec.get("sampled", {}))),
        resolved=resolved,
        metrics=last,
        best_metrics=_best_metrics(trial, goal),
        history=_history(trial, rungs),
        error=TrialError(type=kind, message=trial.reason) if kind else None,
        started_at=trial.first_start_at,
        ended_at=trial.last_at,
        wall_s=trial.run_s,
        gpu_seconds=trial.gpu_s,
        node=_text(seen.get("trial/node")),
        card=_text(seen.get("trial/card")),
        gpu_model=_text(seen.get("trial/gpu_model")) or _text(spec.get("gpu_model") or None),
        share=float(cast("float", trial.bundle.get("gpus", 0.0))),
        estimate=cast("dict[str, object] | None", spec.get("estimate") or None),
        plan=_plan(seen, spec),
        measured=_measured(trial),
        retries=max(trial.starts - 1 - trial.pauses, 0),
        seed=cast("int | None", resolved.get("seed")),
        simulated=bool(spec.get("simulated", False)),
        experiment_dir=str(spec.get("folder", "")),
        member=cast("str | None", spec.get("member")),
        lineage=list(trial.copies),
        trained=cast("str | None", spec.get("trained")),
        damaged=list(trial.damaged),
        attempts=list(trial.attempts) if len(trial.attempts) > 1 else [],
    )


def peak_of(trial: TrialHistory, record: TrialRecord) -> Peak | None:
    """Returns the calibration record of a trial: predicted bytes of its submitted shape and measured bytes.

    For a trial that ran out of memory, the cap is a lower bound. Where the NVIDIA driver does not report the bytes of
    a process (in most containers), torch's reserved bytes plus the assumed context are used.

    Returns:
        The peak; None for a simulated card, without an estimate, or without a measurement.
    """
    estimate, measured = record.estimate, record.measured or {}
    if record.simulated or estimate is None or "device_bytes" not in estimate or not trial.evaluations:
        return None
    submitted = cast("Mapping[str, object]", trial.spec.get("shape") or {})
    reshaped = any(submitted.get(name, value) != value for name, value in (record.plan or {}).items())
    outgrew = reshaped or "out_of_memory" in trial.retries or record.status == "oom"
    held_bytes = measured.get("device_bytes")
    if held_bytes is None and "reserved_bytes" in measured:
        held_bytes = measured["reserved_bytes"] + cast("float", estimate["context_bytes"])
    if outgrew:
        held_bytes = cast("float", estimate["cap_bytes"])
    if held_bytes is None:
        return None
    seen = trial.evaluations[max(trial.evaluations)].metrics
    return Peak(
        family=str(estimate["family"]),
        gpu=str(estimate["gpu"]),
        precision=str(estimate["precision"]),
        torch_version=str(seen.get("trial/torch", "")),
        predicted_device_bytes=cast("int", estimate["device_bytes"]),
        measured_device_bytes=int(held_bytes),
        outgrew=outgrew,
        run=record.name,
        layout=cast("Layout", estimate["layout"]),
    )


def _outcome(status: EndStatus, kind: str | None) -> TrialOutcome:
    return "oom" if status == "failed" and kind == "out_of_memory" else status


def _best_metrics(trial: TrialHistory, goal: Goal) -> dict[str, float]:
    evaluations = [trial.evaluations[number] for number in sorted(trial.evaluations)]
    best = best_of(evaluations, lambda evaluation: evaluation.value, goal)
    return _numbers(best.metrics) if best else {}


def _history(trial: TrialHistory, rungs: tuple[int, ...]) -> list[dict[str, float | None]]:
    rows = []
    for number in sorted(trial.evaluations):
        evaluation = trial.evaluations[number]
        row: dict[str, float | None] = {
            "rung": float(rungs.index(number)) if number in rungs else None,
            "iteration": float(number),
            "wall_s": evaluation.run_s,
        }
        kept = ("eval/", "train/global_step", "train/epoch", "train/loss", SLOWDOWN_KEY)
        row |= {name: value for name, value in _numbers(evaluation.metrics).items() if name.startswith(kept)}
        rows.append(row)
    return rows


def _measured(trial: TrialHistory) -> dict[str, float] | None:
    peaks: dict[str, float] = {}
    held_bytes = 0.0
    for evaluation in trial.evaluations.values():
        numbers = _numbers(evaluation.metrics)
        for name in _MEASURED:
            if (value := numbers.get(f"memory/{name}")) is not None:
                peaks[name] = max(value, peaks.get(name, 0.0))
        held = evaluation.metrics.get("trial/held_bytes")
        if isinstance(held, float):
            held_bytes = max(held, held_bytes)
    # The card's total includes other processes; only the process's own bytes count.
    peaks.pop("device_bytes", None)
    return (peaks | ({"device_bytes": held_bytes} if held_bytes else {})) or None


def _plan(seen: Mapping[str, object], spec: Mapping[str, object]) -> dict[str, object] | None:
    """Returns the last reported shape of the trial, else the submitted one."""
    if "trial/micro_batch" in seen:
        return {one.name: seen[key] for one in fields(RunShape) if (key := f"trial/{one.name}") in seen}
    return cast("dict[str, object] | None", spec.get("shape"))


def _numbers(metrics: Mapping[str, object]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in metrics.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and not name.startswith("trial/")
    }


def _text(value: object) -> str | None:
    return None if value is None else str(value)
