"""python -m tune_jobs clean: frees disk space."""

import argparse
from pathlib import Path

from tuning_common import cli
from tuning_common.units import format_bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description = (
        "Removes checkpoints of sweeps that are over, weights of all but each sweep's best models, weights"
        " of repetitions (reproductions/), and old cache entries."
        " Numbers, summaries and winners stay; sweeps that run or can be resumed are not touched."
    )
    parser.epilog = "example: python -m tune_jobs clean outputs --keep 1 --dry-run"
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="the output folder of sweeps, for example outputs")
    parser.add_argument("--keep", type=int, default=5, metavar="N", help="models that each sweep keeps; 5 if absent")
    parser.add_argument("--cache", type=Path, default=Path(".cache/dialsum"), help=".cache/dialsum if absent")
    parser.add_argument(
        "--cache-days",
        type=float,
        default=7.0,
        metavar="D",
        help="cache entries older than D days are removed; 7 if absent",
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would be removed, and remove nothing")
    cli.add_format(parser)
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Cleans up; returns 1 if something could not be removed.

    Raises:
        RequestError: When the folder holds no sweep, or a ledger cannot be read.
    """
    import time

    from tune_jobs.after.cleaning import KINDS, plan_cleaning, remove

    plan = plan_cleaning(chosen.output, chosen.cache, keep=chosen.keep, cache_days=chosen.cache_days, now=time.time())
    failed = [] if chosen.dry_run else remove(plan.leftovers)
    gone = [one for one in plan.leftovers if chosen.dry_run or not one.path.exists()]
    total = sum(one.size_bytes for one in gone)
    if chosen.format == "json":
        listed = [{"path": str(one.path), "kind": one.kind, "size_bytes": one.size_bytes} for one in gone]
        answer = {"dry_run": chosen.dry_run, "freed_bytes": total, "removed": listed}
        cli.emit_json(answer | {"kept": list(plan.kept), "failed": failed})
        return 1 if failed else 0
    rows = [
        [kind, len(sizes), format_bytes(sum(sizes))]
        for kind in KINDS
        if (sizes := [one.size_bytes for one in gone if one.kind == kind])
    ]
    if rows:
        cli.emit(cli.table(["what", "how many", "size"], rows))
    cli.emit(f"{'would free' if chosen.dry_run else 'freed'} {format_bytes(total)}")
    for text in (*plan.kept, *failed):
        cli.note(text)
    return 1 if failed else 0
