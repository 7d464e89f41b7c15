"""Formats the outcome of a staged sweep as text and JSON."""

from dataclasses import asdict

from tune_jobs.config.language import duration_text, tr
from tune_jobs.config.naming import brief_settings
from tune_jobs.driver.phases import StagedOutcome
from tune_jobs.records.ledger import SweepFolder, TrialRecord
from tuning_common.cli import table


def staged_text(outcome: StagedOutcome) -> str:
    """Returns the outcome as text."""
    lines = []
    if outcome.phases:
        rows = [[one.name, one.trials, _score(one.best), duration_text(one.span_s)] for one in outcome.phases]
        lines.append(table([tr("phase"), tr("trials"), tr("best"), tr("time")], rows))
        lines += [f"{one.name}: {one.decision}" for one in outcome.phases]
    if outcome.best is not None:
        lines += best_lines(outcome.best, f"{outcome.metric} {_score(outcome.score)}", outcome.folder)
    lines.append(f"{tr('results')}: {outcome.folder.path}")
    if outcome.simulated:
        lines.append(tr("The cards were simulated: trials ran on the CPU."))
    return "\n".join(lines)


def best_lines(best: TrialRecord, score: str, folder: SweepFolder) -> list[str]:
    """Returns the lines that show a sweep's best trial at its end: name, settings, score, model and report."""
    return [
        f"{tr('best')}: {best.name}   {score}",
        f"  {brief_settings(best.sampled)}",
        f"{tr('model')}: {best.model_folder}",
        f"{tr('report')}: {folder.report_html}",
    ]


def staged_summary(outcome: StagedOutcome) -> dict[str, object]:
    """Returns the outcome as JSON values."""
    best = outcome.best
    return {
        "sweep": outcome.folder.path.name,
        "metric": outcome.metric,
        "phases": [asdict(one) for one in outcome.phases],
        "best": None if best is None else {"name": best.name, "value": outcome.score},
        "best_model_dir": None if best is None else best.model_folder,
        "folder": str(outcome.folder.path),
        "interrupted": outcome.interrupted,
        "simulated": outcome.simulated,
    }


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
