"""python -m tune_jobs top: shows the running sweeps of an output folder."""

import argparse
import sys
import time
from dataclasses import asdict
from pathlib import Path

from tune_jobs.commands.language_option import add_language
from tune_jobs.config.language import tr, use_language
from tuning_common import cli
from tuning_common.errors import RequestError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description = "Shows running sweeps and refreshes: trials, shares, memory, scores, why trials wait."
    parser.epilog = "example: python -m tune_jobs top --once"
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"), metavar="DIR", help="as sweeps name it")
    parser.add_argument("--all", action="store_true", help="show sweeps that do not run, too")
    parser.add_argument("--once", action="store_true", help="show it once and end")
    parser.add_argument(
        "--every", type=float, default=2.0, metavar="S", help="seconds between two refreshes (default 2)"
    )
    add_language(parser)
    parser.add_argument("--format", choices=("text", "json"), default="text", help="json shows it once")
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Shows the sweeps until Ctrl-C.

    Raises:
        RequestError: When there is no such folder.
    """
    with use_language(chosen.language or "en"):
        return _show(chosen)


def _show(chosen: argparse.Namespace) -> int:
    from tune_jobs.analysis.top import read_sweeps

    if not chosen.output_dir.is_dir():
        raise RequestError(f"{chosen.output_dir} does not exist; give --output-dir as your sweeps name it")
    if not chosen.every >= 0.1:
        raise RequestError(f"--every must be at least 0.1, but is {chosen.every:g}")
    if chosen.format == "json":
        sweeps = read_sweeps(chosen.output_dir, time.time())
        cli.emit_json({"sweeps": [asdict(sweep) for sweep in sweeps if sweep.is_running or chosen.all]})
        return 0
    if chosen.once or not sys.stdout.isatty():
        cli.emit(_screen(chosen))
        return 0
    try:
        while True:
            cli.redraw(f"{_screen(chosen)}\n\n{tr('Ctrl-C ends this; the sweeps go on')}")
            time.sleep(chosen.every)
    except KeyboardInterrupt:
        return 0


def _screen(chosen: argparse.Namespace) -> str:
    from tune_jobs.analysis.top import read_sweeps, text_of

    sweeps = read_sweeps(chosen.output_dir, time.time())
    shown = [sweep for sweep in sweeps if sweep.is_running or chosen.all]
    if shown:
        return text_of(shown, cli.terminal_columns())
    if sweeps:
        count = len(sweeps)
        return tr(
            "no sweep runs in {folder}; {count} that ended: --all shows them", folder=chosen.output_dir, count=count
        )
    return tr("no sweep runs in {folder}", folder=chosen.output_dir)
