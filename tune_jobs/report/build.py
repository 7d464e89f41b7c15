"""Builds all reports of a sweep from its folder."""

from dataclasses import dataclass
from pathlib import Path

from common.errors import RequestError
from common.files import write_text
from tune_jobs.analysis import Analysis, analyse
from tune_jobs.importance import find_importances
from tune_jobs.records import SweepFolder
from tune_jobs.report.advice import advise
from tune_jobs.report.charts import find_charts
from tune_jobs.report.evidence import gather
from tune_jobs.report.markdown import build_markdown
from tune_jobs.report.page import PageContent, build_page
from tune_jobs.report.picture import write_picture


@dataclass(frozen=True, kw_only=True)
class ReportPaths:
    """Where the reports are.

    Attributes:
        html: For a browser.
        markdown: As text.
        picture: All charts as one PNG.
        best_config: The winner's run configuration; None where there is no winner.
        remarks: What the person who asked should know, for example that no Korean font was found.
        analysis: What they show.
    """

    html: Path
    markdown: Path
    picture: Path
    best_config: Path | None
    remarks: tuple[str, ...]
    analysis: Analysis


def build_report(folder: Path) -> ReportPaths:
    """Writes analysis_report.html, .md and .png, and best_config.yaml of the winner.

    Args:
        folder: outputs/sweep_results/<sweep>, also of a sweep that still runs.

    Raises:
        RequestError: When the folder has no ledger, or one that cannot be read.
    """
    sweep = SweepFolder(folder)
    if not sweep.ledger.exists():
        raise RequestError(
            f"{folder}: no {sweep.ledger.name} in it; give the folder of a sweep, outputs/sweep_results/NAME"
        )
    ledger = sweep.load()
    evidence = gather(analyse(ledger))
    analysis = analyse(ledger, dialogues=evidence.dialogues, paired=evidence.against_second)
    importances = find_importances(analysis.scored, analysis.parameters, maximize=analysis.maximize)
    charts = find_charts(analysis, importances)
    winner_folder = analysis.winner.trial.experiment_dir if analysis.winner else ""
    advice = advise(analysis, importances, _typed(folder), _typed(Path(winner_folder)) if winner_folder else "")
    remarks = write_picture(sweep.report_picture, analysis, charts)
    page = build_page(
        PageContent(analysis=analysis, charts=charts, advice=advice, examples=evidence.examples, remarks=remarks)
    )
    write_text(sweep.report_html, page)
    write_text(sweep.report_markdown, build_markdown(analysis, importances, advice, evidence.examples, remarks))
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


def _typed(path: Path) -> str:
    """A path as a person would type it: from the working folder where it lies inside."""
    inside = path.resolve().is_relative_to(Path.cwd())
    return (path.resolve().relative_to(Path.cwd()) if inside else path).as_posix()
