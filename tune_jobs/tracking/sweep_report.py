"""Content of a sweep's W&B report: the best run, and panels over the sweep's runs. Pure; wandb_report saves it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from tune_jobs.config.parameters import show_value
from tune_jobs.records.ledger import SweepRecord
from tune_jobs.tracking.mirror import MirrorSettings, job_type, run_id
from tuning_common.goal import Goal

if TYPE_CHECKING:
    from tune_jobs.analysis.sweep_analysis import Analysis

_LONGEST_TITLE = 128  # wandb-workspaces 0.4 refuses a longer one
_SHOWN_RUNS = 5


@dataclass(frozen=True, kw_only=True)
class SearchedParameter:
    """One searched parameter.

    Attributes:
        name: Its name in a run's configuration.
        log: Whether it is searched on a logarithmic scale.
    """

    name: str
    log: bool = False


@dataclass(frozen=True, kw_only=True)
class SweepReport:
    """The report of one sweep, as plain values.

    Attributes:
        entity: W&B user or team.
        project: W&B project.
        title: Title of the page.
        group: Group of the shown runs.
        job_type: Job type of the shown runs.
        metric: What trials are compared by, as every evaluation logs it, for example "eval/rouge_combined_f1".
        best_metric: Name of its best value in a run's summary.
        goal: Whether to maximize or minimize it.
        axes: Searched parameters.
        text: Markdown above the panels.
        winner: Display name of the best run; empty while there is none.
    """

    entity: str
    project: str
    title: str
    group: str
    job_type: str
    metric: str
    best_metric: str
    goal: Goal
    axes: tuple[SearchedParameter, ...]
    text: str
    winner: str = ""


def live_report(settings: MirrorSettings, sweep: SweepRecord, entity: str) -> SweepReport:
    """Returns the report of a sweep that has just started; its panels show the runs as they proceed."""
    name = sweep.metric.split("/", 1)[-1]
    return SweepReport(
        entity=entity,
        project=settings.project,
        title=f"Sweep {settings.sweep}"[:_LONGEST_TITLE],
        group=settings.group,
        job_type=job_type(settings.phase),
        metric=f"eval/{name}",
        best_metric=f"best/{name}",
        goal=sweep.goal,
        axes=axes_of(sweep.parameters),
        text="The sweep is running; the panels show its runs. The best run is added here at the end.",
    )


def final_report(
    live: SweepReport, analysis: "Analysis", settings: MirrorSettings, urls: Mapping[str, str]
) -> SweepReport:
    """Returns the report of a finished sweep, with the texts of the sweep's other reports.

    Args:
        live: The report while the sweep ran.
        analysis: The analysis of the ledger.
        settings: Settings of the mirror.
        urls: Addresses of runs by folder name, which ends with the run's id.
    """
    from tune_jobs.report.markdown import code, link, markdown_table, plain
    from tune_jobs.report.summary import headline, notes, runs_table

    parts = [f"**{plain(headline(analysis))}**"]
    if analysis.winner is not None:
        trial = analysis.winner.trial
        url = next((url for name, url in urls.items() if name.endswith(run_id(trial.name, settings.folder))), "")
        shown = link(trial.name, url) if url else plain(trial.name)
        parts.append(f"Best run: {shown}, {code(live.best_metric)} {analysis.winner.score:.4g}")
        rows = [(axis.name, show_value(trial.sampled[axis.name])) for axis in live.axes if axis.name in trial.sampled]
        parts += [markdown_table(("Parameter", "Best run"), rows)] if rows else []
        parts.append(markdown_table(*runs_table(analysis, _SHOWN_RUNS)))
    bullets = [f"* {plain(text)}" for text in notes(analysis)]
    parts += ["\n".join(bullets)] if bullets else []
    winner = analysis.winner.trial.name if analysis.winner is not None else ""
    return replace(live, text="\n\n".join(parts), winner=winner)


def axes_of(parameters: Mapping[str, Mapping[str, object]]) -> tuple[SearchedParameter, ...]:
    """Returns the parameters that differ between trials, and whether each is searched on a logarithmic scale.

    >>> axes_of({"lr": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-3}, "model": {"value": "t5"},
    ...          "batch_size": {"values": [8, 16]}, "precision": {"values": ["bf16"]}})
    (SearchedParameter(name='lr', log=True), SearchedParameter(name='batch_size', log=False))
    """
    return tuple(
        SearchedParameter(name=name, log="log" in str(spec.get("distribution", "")))
        for name, spec in parameters.items()
        if "value" not in spec and len(cast("Sequence[object]", spec.get("values", (0, 1)))) > 1
    )
