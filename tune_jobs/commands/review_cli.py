"""python -m tune_jobs review: writes the experiment review of a sweep."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tune_jobs.commands.language_option import add_language, language_for
from tune_jobs.config.language import use_language
from tuning_common import cli
from tuning_common.errors import RequestError

if TYPE_CHECKING:
    from tune_jobs.report.findings import Findings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description = (
        "Writes review.md into the folder of a sweep: the winner, the main factor, the improvement,"
        " anomalies, and recommendations as boxes to tick. `run` writes it too. An edited review is kept."
    )
    parser.epilog = "example: python -m tune_jobs review outputs/sweep_results/sample"
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="outputs/sweep_results/NAME")
    parser.add_argument("--overwrite", action="store_true", help="replace a review that was edited")
    add_language(parser, "the sweep's")
    cli.add_format(parser)
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Writes the review and prints it.

    Raises:
        RequestError: When the folder is not a sweep's, or its review was edited.
    """
    with use_language(language_for(chosen.language, chosen.folder)):
        return _review(chosen)


def _review(chosen: argparse.Namespace) -> int:
    from tune_jobs.report.findings import find_findings
    from tune_jobs.report.review import write_review

    findings = find_findings(chosen.folder)
    path = write_review(findings, overwrite=chosen.overwrite)
    if path is None:
        edited = findings.sweep.review
        raise RequestError(
            f"{edited} was edited since it was written; --overwrite replaces it, with all notes and ticks"
        )
    if chosen.format == "json":
        cli.emit_json(_summary(findings, path))
    else:
        cli.emit(path.read_text(encoding="utf-8").rsplit("\n<!--", 1)[0].rstrip())
        cli.note(str(path))
    return 0


def _summary(findings: "Findings", path: Path) -> dict[str, object]:
    from dataclasses import asdict

    from tune_jobs.report.anomalies import find_anomalies
    from tune_jobs.report.review import find_improvements, main_factor

    analysis = findings.analysis
    return {
        "review": str(path),
        "best": None if analysis.winner is None else analysis.winner.trial.name,
        "main_factor": main_factor(analysis, findings.importances),
        "improvements": [asdict(one) for one in find_improvements(analysis)],
        "anomalies": find_anomalies(analysis, findings.summaries.summaries),
        "recommendations": [asdict(one) for one in findings.advice],
    }
