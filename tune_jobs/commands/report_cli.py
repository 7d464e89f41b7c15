"""python -m tune_jobs report: builds the reports of a sweep, also while it runs."""

import argparse
from pathlib import Path

from tune_jobs.commands.language_option import add_language, language_for
from tune_jobs.config.language import use_language
from tuning_common import cli


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description = "Writes analysis_report.html, .md and .png, and best_config.yaml, into the folder of a sweep."
    parser.epilog = "example: python -m tune_jobs report outputs/sweep_results/sample"
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="outputs/sweep_results/NAME")
    add_language(parser, "the sweep's")
    cli.add_format(parser)
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Builds the reports and prints a summary.

    Raises:
        RequestError: When the folder is not a sweep's.
    """
    with use_language(language_for(chosen.language, chosen.folder)):
        return _report(chosen)


def _report(chosen: argparse.Namespace) -> int:
    from tune_jobs.report.build import build_report
    from tune_jobs.report.summary import headline, tiles

    paths = build_report(chosen.folder)
    analysis = paths.analysis
    winner = analysis.winner
    if chosen.format == "json":
        cli.emit_json(
            {
                "sweep": analysis.sweep.sweep,
                "metric": analysis.sweep.metric,
                "best": None if winner is None else {"name": winner.trial.name, "value": winner.score},
                "sureness": analysis.sureness,
                "tied": [one.best.trial.name for one in analysis.tied[1:]],
                "html": str(paths.html),
                "markdown": str(paths.markdown),
                "picture": str(paths.picture),
                "best_config": None if paths.best_config is None else str(paths.best_config),
                "remarks": list(paths.remarks),
            }
        )
        return 0
    cli.emit(headline(analysis))
    cli.emit(cli.table(["", "", ""], [[tile.label, tile.value, tile.detail] for tile in tiles(analysis)]))
    for path in (paths.html, paths.markdown, paths.picture):
        cli.emit(str(path))
    for remark in paths.remarks:
        cli.note(remark)
    return 0
