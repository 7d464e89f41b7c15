"""python -m tune_jobs week: builds the weekly dashboard of a team."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tune_jobs.commands.language_option import add_language
from tune_jobs.config.language import use_language
from tuning_common import cli

if TYPE_CHECKING:
    from tune_jobs.analysis.weekly import Pair, Week


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description = (
        "Sums up seven days of all sweeps of an output folder against the seven before: runs, success and"
        " failure, GPU-hours, best score, by member, model and sweep; in the terminal and as one HTML page."
    )
    parser.epilog = "example: python -m tune_jobs week outputs --until 2026-11-24"
    parser.add_argument("output", type=Path, nargs="?", default=Path("outputs"), metavar="OUTPUT", help="outputs")
    parser.add_argument(
        "--until", metavar="DATE", help="last day of the week, YYYY-MM-DD; the last seven days if absent"
    )
    parser.add_argument("--wandb", metavar="ENTITY/PROJECT", help="runs that only W&B knows count too, if it answers")
    parser.add_argument("--html", type=Path, metavar="FILE", help="the page; OUTPUT/weeks/week_DATE.html if absent")
    add_language(parser)
    cli.add_format(parser)
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Summarizes the week, writes the page, and prints.

    Raises:
        RequestError: When there is no ledger, the date is invalid, or --wandb is given without a key.
    """
    from datetime import datetime

    from tune_jobs.analysis.week_sources import end_of_week, merged, read_output
    from tune_jobs.analysis.weekly import WEEK, summarize
    from tune_jobs.report.week_page import build_week_page, page_name
    from tuning_common.files import write_text

    end = end_of_week(chosen.until, datetime.now().astimezone())
    source = read_output(chosen.output)
    if chosen.wandb is not None:
        from tune_jobs.tracking.wandb_runs import read_project

        source = merged([source, read_project(chosen.wandb, end - 3 * WEEK)])  # a run may last a week
    week = summarize(source.runs, end)
    page = chosen.html or chosen.output / "weeks" / page_name(end)
    with use_language(chosen.language or "en"):
        write_text(page, build_week_page(week, source.remarks))
        text = _text(week, source.remarks, page)
    cli.answer(chosen.format, _summary(week, source.remarks, page), text)
    return 0


def _text(week: "Week", remarks: "tuple[str, ...]", page: Path) -> str:
    from tune_jobs.report.week_page import eyebrow, headline, tables, week_notes, week_tiles

    tiles = cli.table(["", "", ""], [[tile.label, tile.value, tile.detail] for tile in week_tiles(week)])
    parts = [f"{headline(week)}\n{eyebrow(week)}", tiles.lstrip("\n")]
    parts += [f"{title}\n{cli.table(header, rows)}" for title, (header, rows) in tables(week)]
    return "\n\n".join([*parts, "\n".join(week_notes(week, remarks)), str(page)])


def _summary(week: "Week", remarks: "tuple[str, ...]", page: Path) -> dict[str, object]:
    from dataclasses import asdict

    return {
        "start": week.start.isoformat(),
        "end": week.end.isoformat(),
        "total": _pair(week.total),
        "members": {name: _pair(pair) for name, pair in week.members.items()},
        "models": {name: _pair(pair) for name, pair in week.models.items()},
        "sweeps": {name: _pair(pair) for name, pair in week.sweeps.items()},
        "scales": [{**asdict(scale), **_pair(pair)} for scale, pair in week.scales.items()],
        "reasons": dict(week.reasons),
        "remarks": list(remarks),
        "html": str(page),
    }


def _pair(pair: "Pair") -> dict[str, object]:
    from dataclasses import asdict

    return {
        "week": asdict(pair.now) | {"success": pair.now.success},
        "week_before": asdict(pair.before) | {"success": pair.before.success},
    }
