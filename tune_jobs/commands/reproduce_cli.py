"""python -m tune_jobs reproduce: runs an experiment again and compares the results."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tuning_common import cli

if TYPE_CHECKING:
    from tune_jobs.after.reproduce import Repetition, Reproduction
    from tune_jobs.records.snapshot_changes import Change

_MOST_OTHERS = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description = (
        "Runs an experiment again from its folder, here and without a cluster, and shows whether its"
        " numbers are the same, within noise, or different, and what has changed: data, code, packages, machine."
    )
    parser.epilog = "example: python -m tune_jobs reproduce outputs/experiments/NAME"
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="outputs/experiments/NAME")
    parser.add_argument(
        "--output", type=Path, help="folder of the repetition; outputs/reproductions/NAME_TIME if absent"
    )
    parser.add_argument(
        "--data-folder", type=Path, help="the folder that has its data files now, under their old names"
    )
    parser.add_argument("--dry-run", action="store_true", help="show what has changed, and train nothing")
    cli.add_format(parser)
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Runs the experiment again; returns 1 if the results are different.

    Raises:
        RequestError: When the folder holds no evaluated experiment, or its files are gone.
        WorkError: When the training fails.
    """
    from dataclasses import asdict
    from datetime import datetime

    from tune_jobs.after.reproduce import default_output, plan_reproduction, reproduce, summary

    plan = plan_reproduction(chosen.folder, chosen.data_folder)
    if chosen.dry_run:
        changes = [asdict(change) for change in plan.changes]
        values = {"has_snapshot": plan.snapshot is not None, "changes": changes}
        cli.answer(chosen.format, values, _changes_text(plan))
        return 0
    if any(change.matters for change in plan.changes):
        cli.note("not everything is as it was:\n" + _table([change for change in plan.changes if change.matters]))
    done = reproduce(plan, chosen.output or default_output(chosen.folder, datetime.now()), cli.note)
    cli.answer(chosen.format, summary(done), _text(done))
    return 1 if done.judgement.outcome == "different" else 0


def _text(done: "Reproduction") -> str:
    found = done.judgement
    lines = [f"{found.outcome}: {found.reason}", f"{found.metric}: {found.before:.4f} then, {found.again:.4f} now"]
    if found.deviation is not None:
        first = found.deviation
        where = f"evaluation {first.evaluation}" if first.evaluation else "the test scores"
        lines.append(
            f"first difference: {first.name} in {where}: {_number(first.before)} then, {_number(first.again)} now"
        )
    if found.same_summaries is not None:
        lines.append(f"summaries: {found.same_summaries} of {found.summaries} are the same")
    if found.same_weights is not None:
        lines.append(f"weights of the best model: {'the same bit for bit' if found.same_weights else 'not the same'}")
    return "\n".join([*lines, "", _changes_text(done.plan), f"repetition: {done.folder}"])


def _changes_text(plan: "Repetition") -> str:
    if plan.snapshot is None:
        return f"what has changed is not known: {plan.no_snapshot}"
    if not plan.changes:
        return "data, code, packages and machine are as they were"
    relevant = [change for change in plan.changes if change.matters]
    others = [change for change in plan.changes if not change.matters]
    parts = []
    if relevant:
        parts.append("not as it was, and may change numbers:\n" + _table(relevant))
    if others:
        more = len(others) - _MOST_OTHERS
        rest = f"\nand {more} more, all in the JSON" if more > 0 else ""
        parts.append("not as it was, and should change none:\n" + _table(others[:_MOST_OTHERS]) + rest)
    return "\n".join(parts)


def _table(changes: "Sequence[Change]") -> str:
    return cli.table(["what", "then", "now"], [[change.what, change.before, change.now] for change in changes])


def _number(value: float | None) -> str:
    return "none" if value is None else repr(value)
