"""Writes the reports of a sweep into its folder."""

from dataclasses import dataclass
from pathlib import Path

from tune_jobs.analysis.sweep_analysis import Analysis
from tune_jobs.records.card_sharing import learned_co_tenants
from tune_jobs.records.journal import FILE_NAME, Journal
from tune_jobs.report.charts import find_charts
from tune_jobs.report.findings import Findings, find_findings
from tune_jobs.report.markdown import build_markdown
from tune_jobs.report.page import PageContent, build_page
from tune_jobs.report.picture import write_picture
from tune_jobs.report.summary import facts
from tuning_common.files import write_text


@dataclass(frozen=True, kw_only=True)
class ReportPaths:
    """The files that a report consists of.

    Attributes:
        html: The HTML page.
        markdown: The same report as text.
        picture: All charts as one PNG.
        best_config: The winner's run configuration; None if there is no winner.
        remarks: Messages for the user, for example that no Korean font was found.
        analysis: The analysis that the reports show.
    """

    html: Path
    markdown: Path
    picture: Path
    best_config: Path | None
    remarks: tuple[str, ...]
    analysis: Analysis


def build_report(folder: Path, findings: Findings | None = None) -> ReportPaths:
    """Writes analysis_report.html, .md and .png, and best_config.yaml of the winner.

    Args:
        folder: outputs/sweep_results/<sweep>; the sweep may still run.
        findings: The findings of the folder, if the caller already has them.

    Raises:
        RequestError: When the folder has no ledger, or one that cannot be read.
    """
    found = findings or find_findings(folder)
    sweep, analysis, importances, advice = found.sweep, found.analysis, found.importances, found.advice
    examples = found.summaries.examples
    charts = find_charts(analysis, importances)
    remarks = [
        *write_picture(sweep.report_picture, analysis, charts),
        *learned_co_tenants(Journal(folder / FILE_NAME).earlier).lines(),
    ]
    ran_with = facts(analysis, found.snapshot)
    content = PageContent(
        analysis=analysis, charts=charts, advice=advice, facts=ran_with, examples=examples, remarks=remarks
    )
    write_text(sweep.report_html, build_page(content))
    write_text(sweep.report_markdown, build_markdown(analysis, importances, advice, examples, remarks, ran_with))
    winner = analysis.winner
    if winner is not None:
        sweep.write_best_config(winner.trial)
    return ReportPaths(
        html=sweep.report_html,
        markdown=sweep.report_markdown,
        picture=sweep.report_picture,
        best_config=sweep.best_config if winner is not None else None,
        remarks=tuple(remarks),
        analysis=analysis,
    )
