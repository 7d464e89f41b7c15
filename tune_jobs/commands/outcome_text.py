"""Formats what a sweep, plain or staged, ended with as text and JSON."""

from dataclasses import asdict

from tune_jobs.config.language import duration_text, tr
from tune_jobs.config.naming import brief_settings
from tune_jobs.driver.phases import StagedOutcome
from tune_jobs.driver.sweep_end import SweepOutcome
from tuning_common.cli import table


def as_text(outcome: SweepOutcome | StagedOutcome) -> str:
    """Returns the phases of a staged sweep, its best trial with score, model and report, and where the results are."""
    best, lines = outcome.best, []
    if isinstance(outcome, StagedOutcome) and outcome.phases:
        rows = [[one.name, one.trials, _score(one.best), duration_text(one.span_s)] for one in outcome.phases]
        lines.append(table([tr("phase"), tr("trials"), tr("best"), tr("time")], rows))
        lines += [f"{one.name}: {one.decision}" for one in outcome.phases]
    if best is not None:
        took = f"   ({duration_text(best.wall_s)})" if isinstance(outcome, SweepOutcome) else ""
        lines += [
            f"{tr('best')}: {best.name}   {outcome.metric} {_score(outcome.score)}{took}",
            f"  {brief_settings(best.sampled)}",
            f"{tr('model')}: {best.model_folder}",
            f"{tr('report')}: {outcome.folder.report_html}",
        ]
    lines.append(f"{tr('results')}: {outcome.folder.path}")
    if outcome.simulated:
        lines.append(tr("The cards were simulated: trials ran on the CPU."))
    return "\n".join(lines)


def as_json(outcome: SweepOutcome | StagedOutcome) -> dict[str, object]:
    """Returns the same as JSON values, with the status of each trial of a plain sweep."""
    best = outcome.best
    values: dict[str, object] = {
        "sweep": outcome.folder.path.name,
        "metric": outcome.metric,
        "best": None if best is None else {"name": best.name, "value": outcome.score},
        "best_model_dir": None if best is None else best.model_folder,
        "folder": str(outcome.folder.path),
        "interrupted": outcome.interrupted,
        "simulated": outcome.simulated,
    }
    if isinstance(outcome, StagedOutcome):
        return values | {"phases": [asdict(one) for one in outcome.phases]}
    trials = {trial.number: trial.status for trial in outcome.progress.trials.values()}
    report = None if outcome.analysis is None else outcome.analysis.sweep.wandb_report
    return values | {"trials": trials, "wandb_report": report}


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
