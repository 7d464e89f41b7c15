"""The only module that uses wandb-workspaces: saves the report of a sweep as a page of its W&B project.

One GraphQL mutation, `upsertView`, saves the page (wandb-workspaces 0.4, reports/v2). W&B draws its panels from the
runs, so a page that was saved early stays current.
"""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from tune_jobs.tracking.sweep_report import SweepReport
from tune_jobs.tracking.wandb_client import STEP

if TYPE_CHECKING:
    import wandb_workspaces.reports.v2 as wr

_COLUMNS = 24  # the width of W&B's grid of panels


@dataclass(frozen=True, kw_only=True)
class Published:
    """A report that a server has saved.

    Attributes:
        report_id: The report's id, for saving it again.
        url: The report's address.
    """

    report_id: str
    url: str


def publish(report: SweepReport, report_id: str = "") -> Published:
    """Saves a report; waits for the server without a timeout.

    Args:
        report: Content of the report.
        report_id: Id of the report to replace; empty for a new one.

    Raises:
        Exception: Whatever wandb raises when the server does not save it.
    """
    os.environ["WANDB_SILENT"] = "true"
    import wandb_workspaces.reports.v2 as wr

    page = wr.Report(
        entity=report.entity,
        project=report.project,
        title=report.title,
        description=f"{report.metric}, {report.goal}",
        blocks=_blocks(report),
        width="fluid",
    )
    page.id = report_id
    page.save()
    return Published(report_id=str(page.id), url=quote(str(page.url), safe=":/?&=%#"))


def filter_text(**wanted: str) -> str:
    """Returns a filter in the package's language, which is parsed as Python; the package itself does not escape quotes.

    >>> filter_text(Group="wide", Name="don't")
    'Metric("Group") == \\'wide\\' and Metric("Name") == "don\\'t"'
    """
    return " and ".join(f'Metric("{name}") == {value!r}' for name, value in wanted.items())


def _blocks(report: SweepReport) -> "list[wr.BlockTypes]":
    import wandb_workspaces.reports.v2 as wr

    blocks: list[wr.BlockTypes] = [wr.MarkdownBlock(text=report.text)]
    if report.winner:
        blocks += [wr.H2("Best run"), _grid(report, [_curves(report), _losses()], Name=report.winner)]
    blocks += [wr.H2("All runs"), _grid(report, [_parallel(report), _importance(report), _curves(report), _rates()])]
    blocks += [wr.H2("Memory"), _grid(report, [_memory()])]
    return blocks


def _grid(report: SweepReport, panels: "list[wr.PanelTypes]", **further: str) -> "wr.PanelGrid":
    """Returns a grid of panels, two in a row, over the runs of the sweep."""
    import wandb_workspaces.reports.v2 as wr

    sorting = wr.OrderBy(wr.SummaryMetric(report.best_metric), ascending=report.goal == "minimize")
    runs = wr.Runset(
        entity=report.entity,
        project=report.project,
        name="best run" if further else "runs of the sweep",
        filters=filter_text(Group=report.group, JobType=report.job_type, **further),
        order=[sorting],
    )
    for i, panel in enumerate(panels):
        panel.layout = wr.Layout(x=_COLUMNS // 2 * (i % 2), y=8 * (i // 2), w=_COLUMNS // 2, h=8)
    return wr.PanelGrid(runsets=[runs], panels=panels)


def _parallel(report: SweepReport) -> "wr.PanelTypes":
    import wandb_workspaces.reports.v2 as wr

    columns = [
        wr.ParallelCoordinatesPlotColumn(metric=wr.Config(axis.name), log=axis.log or None) for axis in report.axes
    ]
    score = wr.ParallelCoordinatesPlotColumn(metric=wr.SummaryMetric(report.best_metric))
    return wr.ParallelCoordinatesPlot(title="Settings and score", columns=[*columns, score])


def _importance(report: SweepReport) -> "wr.PanelTypes":
    import wandb_workspaces.reports.v2 as wr

    return wr.ParameterImportancePlot(with_respect_to=report.best_metric)


def _curves(report: SweepReport) -> "wr.PanelTypes":
    import wandb_workspaces.reports.v2 as wr

    return wr.LinePlot(title="Learning curves", x=STEP, y=[report.metric])


def _losses() -> "wr.PanelTypes":
    import wandb_workspaces.reports.v2 as wr

    return wr.LinePlot(title="Loss", x=STEP, y=["train/loss", "eval/loss"])


def _rates() -> "wr.PanelTypes":
    import wandb_workspaces.reports.v2 as wr

    return wr.LinePlot(title="Learning rate", x=STEP, y=["train/learning_rate"])


def _memory() -> "wr.PanelTypes":
    import wandb_workspaces.reports.v2 as wr

    return wr.ScatterPlot(
        title="Estimated and measured memory",
        x=wr.SummaryMetric("memory/estimated_device_bytes"),
        y=wr.SummaryMetric("memory/measured_device_bytes"),
    )
