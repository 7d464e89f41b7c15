"""python -m tune_jobs export: writes sweeps for other programs, or for the next sweep."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tuning_common import cli
from tuning_common.errors import Problems, RequestError
from tuning_common.units import counted

if TYPE_CHECKING:
    from tune_jobs.records.ledger import Ledger


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description = (
        "Writes every trial of sweeps, also while they run, into a journal that optuna-dashboard opens; or "
        "prints their best configurations as `search.points` of another sweep."
    )
    parser.epilog = (
        "example: python -m tune_jobs export outputs/sweep_results/sample --optuna journal.log\n"
        "         python -m tune_jobs export outputs/sweep_results/sample --points 5"
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folders", type=Path, nargs="+", metavar="SWEEP", help="outputs/sweep_results/NAME")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--optuna", type=Path, metavar="FILE", help="Optuna's journal; may exist")
    target.add_argument("--points", type=int, metavar="N", help="print the best N configurations of each sweep")
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Writes the studies and prints how to open them, or prints the points.

    Raises:
        RequestError: When a folder is not a sweep's or has no scores, or the file cannot take a study.
    """
    from tune_jobs.after.optuna_study import write_study
    from tune_jobs.records.ledger import SweepFolder
    from tune_jobs.report.findings import with_unfinished

    folders = [SweepFolder(path) for path in chosen.folders]
    problems = Problems()
    for folder in folders:
        if not folder.ledger.exists():
            problems.add(f"{folder.path}: no sweep is in it; give outputs/sweep_results/NAME")
    problems.raise_if_any("nothing was exported")
    ledgers = [with_unfinished(folder, folder.load()) for folder in folders]
    if chosen.points is not None:
        cli.emit(_points_text(ledgers, chosen.points).rstrip())
        return 0
    for ledger in ledgers:
        name = write_study(ledger, chosen.optuna)
        cli.emit(f"{chosen.optuna}: study {name}, {counted(len(ledger.trials), 'trial')}")
    cli.emit(f"open it with: optuna-dashboard {chosen.optuna}")
    return 0


def _points_text(ledgers: "Sequence[Ledger]", count: int) -> str:
    from tune_jobs.analysis.start_points import start_points
    from tune_jobs.analysis.sweep_analysis import analyse
    from tuning_common.strict import dump_yaml

    if count < 1:
        raise RequestError(f"--points must be at least 1, but is {count}")
    analyses = [analyse(ledger) for ledger in ledgers]
    points = start_points(analyses, count)
    if not points:
        raise RequestError("no trial of these sweeps has a score, so there is no configuration to start from")
    of = ", ".join(one.sweep.sweep for one in analyses)
    lines = [f"    - {dump_yaml(point, flow=True).strip()}" for point in points]
    head = f"# The best configurations of {of}, for a sweep that searches the same parameters by bayes or in phases.\n"
    return head + "\n".join(["search:", "  points:", *lines])
