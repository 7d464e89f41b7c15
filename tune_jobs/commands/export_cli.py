"""python -m tune_jobs export: writes a sweep for other programs."""

import argparse
from pathlib import Path

from tuning_common import cli
from tuning_common.errors import RequestError


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to `python -m tune_jobs`."""
    parser = commands.add_parser(
        "export",
        help="write a sweep as a study of Optuna",
        description="Writes every trial of a sweep, also while it runs, into a journal that optuna-dashboard opens.",
        epilog="example: python -m tune_jobs export outputs/sweep_results/sample --optuna journal.log",
    )
    parser.add_argument("folder", type=Path, metavar="SWEEP", help="outputs/sweep_results/NAME")
    parser.add_argument("--optuna", type=Path, metavar="FILE", required=True, help="Optuna's journal; may exist")
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Writes the study and prints how to open it.

    Raises:
        RequestError: When the folder is not a sweep's, or the file cannot take the study.
    """
    from tune_jobs.after.optuna_study import write_study
    from tune_jobs.records.ledger import SweepFolder
    from tune_jobs.report.unfinished import with_unfinished

    folder = SweepFolder(chosen.folder)
    if not folder.ledger.exists():
        raise RequestError(f"{chosen.folder}: no sweep is in it; give outputs/sweep_results/NAME")
    ledger = with_unfinished(folder, folder.load())
    name = write_study(ledger, chosen.optuna)
    cli.emit(f"{chosen.optuna}: study {name}, {len(ledger.trials)} trials")
    cli.emit(f"open it with: optuna-dashboard {chosen.optuna}")
    return 0
