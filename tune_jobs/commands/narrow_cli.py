"""python -m tune_jobs narrow: writes a narrower sweep from a finished one."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tuning_common import cli
from tuning_common.errors import RequestError
from tuning_common.files import write_text

if TYPE_CHECKING:
    from tune_jobs.config.sweep import Sweep
    from tune_jobs.search.next_sweep import NextSweep


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description = (
        "Cuts the box of the best trials out of a sweep's space and writes it as a sweep file, with the "
        "reason for every bound."
    )
    parser.epilog = "example: python -m tune_jobs narrow outputs/sweep_results/sample --output next.yaml"
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="outputs/sweep_results/NAME")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: next_sweep.yaml in FOLDER")
    parser.add_argument(
        "--keep-fraction", type=float, default=0.25, metavar="PART", help="best part of all trials; 0.25"
    )
    parser.add_argument("--margin", type=float, default=0.1, metavar="PART", help="of the box, on each side; 0.1")
    parser.add_argument("--count", type=int, metavar="N", help="trials of the next sweep; half as many as before")
    cli.add_format(parser)
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Writes the file and prints its content.

    Raises:
        RequestError: When the folder holds no finished sweep, or a number is out of its range.
    """
    from tune_jobs.config.sweep_file import load_sweep
    from tune_jobs.records.ledger import SweepFolder
    from tune_jobs.search.next_sweep import next_sweep

    _check(chosen)
    folder = SweepFolder(chosen.folder)
    found = next_sweep(chosen.folder, keep_fraction=chosen.keep_fraction, margin=chosen.margin, count=chosen.count)
    before = load_sweep(folder.sweep_file)
    target = chosen.output or folder.next_sweep
    write_text(target, found.text())
    if chosen.format == "json":
        cli.emit_json(_summary(before, found, target))
        return 0
    for line in found.head:
        cli.emit(line)
    cli.emit(cli.table(["parameter", "before", "next", "why"], _rows(before, found)))
    cli.emit(f"written: {target}")
    return 0


def _check(chosen: argparse.Namespace) -> None:
    if not 0 < chosen.keep_fraction <= 1:
        raise RequestError(f"--keep-fraction must be above 0 and at most 1, but is {chosen.keep_fraction:g}")
    if not 0 <= chosen.margin <= 1:
        raise RequestError(f"--margin must be from 0 to 1, but is {chosen.margin:g}")
    if chosen.count is not None and chosen.count < 1:
        raise RequestError(f"--count must be at least 1, but is {chosen.count}")


def _rows(before: "Sweep", found: "NextSweep") -> list[list[object]]:
    from tune_jobs.config.parameters import show_spec

    rows: list[list[object]] = []
    for one in found.sweep.space.parameters:
        earlier = show_spec(before.space[one.name].spec()) if one.name in before.space else "-"
        first, *more = found.reasons.get(one.name, "").split("\n")
        rows.append([one.name, earlier, show_spec(one.spec()), first])
        rows += [["", "", "", line] for line in more]
    return rows


def _summary(before: "Sweep", found: "NextSweep", target: Path) -> dict[str, object]:
    return {
        "sweep": found.sweep.name,
        "follows": before.name,
        "method": found.sweep.method,
        "trials": found.sweep.trials,
        "tried": found.box.tried if found.box else None,
        "best": len(found.box.best) if found.box else None,
        "parameters": {
            one.name: {
                "before": before.space[one.name].spec() if one.name in before.space else None,
                "next": one.spec(),
                "reasons": found.reasons.get(one.name, "").split("\n"),
            }
            for one in found.sweep.space.parameters
        },
        "points": list(found.sweep.search.points),
        "file": str(target),
    }
