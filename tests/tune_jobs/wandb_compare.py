"""Holds a W&B run against the ledger's line of its trial, value by value."""

from typing import Any

from tests.tune_jobs.wandb_files import OfflineRun
from tune_jobs.records.ledger import TrialRecord


def compare_with_ledger(run: OfflineRun, record: TrialRecord) -> None:
    """Every number that the ledger has of a trial stands in its W&B run: history, configuration, summary, end."""
    evaluations = [row for row in run.history if any(name.startswith("eval/") for name in row)]
    assert len(evaluations) == len(record.history)
    for there, here in zip(evaluations, record.history, strict=True):
        wanted = {name: value for name, value in here.items() if "/" in name}
        assert wanted
        assert {name: there[name] for name in wanted} == wanted
    if evaluations:
        assert {name: evaluations[-1][name] for name in record.metrics} == record.metrics
    assert {name: run.config[name] for name in record.resolved} == record.resolved
    for name in ("sampled", "estimate", "share", "simulated", "member"):
        assert run.config[name] == getattr(record, name), name
    for name in ("node", "card", "gpu_model"):
        assert run.config.get(f"trial/{name}") == getattr(record, name), name
    wanted_end = 0 if record.status in ("finished", "stopped") else 1
    assert (run.summary["outcome"], run.exit_code, run.preempting) == (record.status, wanted_end, False)
    assert run.summary["trial/retries"] == record.retries
    assert run.summary.get("outcome_reason") == (None if record.error is None else record.error.message)
    compare_summary(run.summary, record)


def compare_summary(summary: dict[str, Any], record: TrialRecord) -> None:
    """The final values: best scores, cost, estimate against measurement."""
    best = {name.replace("eval/", "best/"): v for name, v in record.best_metrics.items() if name.startswith("eval/")}
    assert {name: summary[name] for name in best} == best
    assert (summary["cost/wall_s"], summary["cost/gpu_seconds"]) == (record.wall_s, record.gpu_seconds)
    estimate, measured = record.estimate or {}, record.measured or {}
    for name in ("device_bytes", "upper_bytes"):
        assert summary.get(f"memory/estimated_{name}") == estimate.get(name), name
    assert {name: summary[f"memory/measured_{name}"] for name in measured} == measured
    if "device_bytes" in measured and "device_bytes" in estimate:
        said, held = float(str(estimate["device_bytes"])), measured["device_bytes"]
        assert abs(summary["memory/estimate_error_percent"] - 100 * (said - held) / held) < 1e-9
