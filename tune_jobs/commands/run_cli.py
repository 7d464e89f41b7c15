"""python -m tune_jobs run: runs a sweep file."""

import argparse
import logging
import os
import shlex
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tune_jobs.commands.language_option import add_language
from tune_jobs.config.language import use_language
from tune_jobs.driver.orphan import end_with_job
from tuning_common import cli
from tuning_common.errors import RequestError, WorkError

if TYPE_CHECKING:
    from tune_jobs.config.sweep import Sweep
    from tune_jobs.driver.run_sweep import RunOptions, Trainable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description = "Runs every trial of a sweep file on the Ray cluster at hand, or on an embedded one."
    parser.epilog = "example: python -m tune_jobs run tune_jobs/sweeps/sample.yaml"
    parser.add_argument("sweep", type=Path, metavar="SWEEP", help="a sweep file")
    earlier = parser.add_mutually_exclusive_group()
    earlier.add_argument("--resume", action="store_true", help="continue an earlier run of this sweep")
    earlier.add_argument(
        "--restart", action="store_true", help="put an earlier run aside and begin anew, as without --resume"
    )
    parser.add_argument("--count", type=int, metavar="N", help="how many trials, where the file has none")
    parser.add_argument("--supervise", action="store_true", help="restart and continue when this process dies")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder of results; instead of tracking.output_dir")
    parser.add_argument("--member", metavar="NAME", help="whose quota is used; instead of team.member")
    parser.add_argument("--until", metavar="PHASE", help="of a staged sweep: stop after this phase; --resume continues")
    cards = parser.add_mutually_exclusive_group()
    cards.add_argument("--simulate", metavar="CARDS", help="simulated cards, for example 2x24GiB,1x80GiB")
    cards.add_argument("--cpu-only", action="store_true", help="no cards at all: place by CPUs and host memory")
    parser.add_argument(
        "--start-at", metavar="HH:MM", help="wait for this hour (the team's time zone, else local time)"
    )
    parser.add_argument("--dashboard", action="store_true", help="show Ray's dashboard on this machine while it runs")
    add_language(parser, "the sweep file's tracking.language")
    parser.add_argument("--strict", action="store_true", help="refuse a sweep on which there is a warning")
    cli.add_format(parser)
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace, trainable: "Trainable | None" = None) -> int:
    """Runs the sweep.

    Args:
        chosen: The arguments.
        trainable: What runs in a trial's process; run_trial where None.

    Raises:
        RequestError: When the file, the data or the cluster cannot be used.
        WorkError: When the sweep was interrupted, or no trial has a result.
    """
    cli.outlast_readers()
    end_with_job(os.environ)
    if chosen.supervise:
        from tune_jobs.jobs.supervise import supervise

        return supervise(chosen.sweep, chosen.output, sys.argv[1:], chosen.count)
    from tune_jobs.driver.ray_session import attached
    from tune_jobs.driver.run_sweep import RunOptions
    from tune_jobs.records.redaction import Redactor

    if chosen.dashboard and attached():
        raise RequestError(
            "--dashboard is for a Ray that this command starts, but RAY_ADDRESS names a cluster; it has a dashboard"
            " already, by default at http://127.0.0.1:8265 of its head's machine"
        )
    handler = logging.StreamHandler()
    handler.setFormatter(cli.VisibleFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    options = RunOptions(
        resume=chosen.resume,
        simulate=chosen.simulate,
        cpu_only=chosen.cpu_only,
        dashboard=chosen.dashboard,
        trainable=trainable,
        command=Redactor.of_environment(os.environ).hide(shlex.join(["python", "-m", "tune_jobs", *sys.argv[1:]])),
    )
    sweep = _with_results_folder(_read(chosen), chosen.output)
    with use_language(sweep.tracking.language):
        return _run(sweep, options, chosen, trainable)


def _read(chosen: argparse.Namespace) -> "Sweep":
    from tune_jobs.config.sweep_file import load_sweep

    return load_sweep(chosen.sweep, chosen.count).with_member(chosen.member).with_language(chosen.language)


def _run(sweep: "Sweep", options: "RunOptions", chosen: argparse.Namespace, trainable: "Trainable | None") -> int:
    from tune_jobs.commands.outcome_text import as_json, as_text
    from tune_jobs.driver.phases import StagedOutcome, run_staged
    from tune_jobs.driver.run_sweep import run_sweep
    from tune_jobs.driver.sweep_end import SweepOutcome
    from tune_jobs.driver.trained_model import with_trained_base
    from tune_jobs.driver.view import view_for
    from tune_jobs.jobs.sealed_key import take_own_key
    from tune_jobs.planning.known_facts import facts_of, remarks_on
    from tune_jobs.search.inputs import prepare_inputs
    from tune_jobs.search.text_lengths import cache_of, find_cut_texts

    problem = take_own_key()
    if problem is not None:
        cli.note(problem)
    if sweep.trained_model is not None:
        sweep = with_trained_base(sweep)
    if chosen.until is not None and not sweep.phases:
        raise RequestError(f"--until {chosen.until}: {chosen.sweep} has no phases; leave it out")
    for text in sweep.notes:
        cli.note(f"note: {text}")
    inputs = prepare_inputs(sweep)  # reports problems now, also if the sweep starts later
    cut_texts: tuple[str, ...] = ()
    if inputs.trains and trainable is None:
        cut_texts = find_cut_texts(inputs.of_phases(), cache_of(sweep), sweep.source)
    for text in cut_texts:
        cli.note(f"warning: {text}")
    options = replace(options, inputs=inputs, cut_texts=cut_texts)
    for remark in remarks_on(sweep, facts_of(sweep, inputs), strict=chosen.strict):
        cli.note(f"warning: {remark}")
    if chosen.start_at is not None:
        _wait(sweep, chosen.start_at)
    outcome: StagedOutcome | SweepOutcome
    if sweep.phases:
        outcome = run_staged(sweep, options, view_for(), until=chosen.until)
        is_as_asked = bool(outcome.phases) and outcome.phases[-1].name == chosen.until
    else:
        outcome, is_as_asked = run_sweep(sweep, options, view_for()), False
    cli.answer(chosen.format, as_json(outcome), as_text(outcome))
    if outcome.interrupted and not is_as_asked:
        raise WorkError(_how_to_resume(chosen))
    if outcome.best is None:
        raise WorkError(f"no trial has a result; the reasons are in {outcome.folder.ledger}")
    return 0


def _with_results_folder(sweep: "Sweep", output: Path | None) -> "Sweep":
    """Returns the sweep with its effective output folder; prints that folder for a submitted sweep.

    Raises:
        RequestError: When the cluster's shared folder does not exist.
    """
    from cluster.machines.storage import STORAGE, is_submitted
    from tune_jobs.config.result_paths import with_output_folder

    sweep = with_output_folder(sweep, output, os.environ, Path.home())
    if is_submitted(os.environ):
        if not os.environ.get(STORAGE):
            cli.note(
                "this cluster has no shared folder (python -m cluster start --storage DIR), so results stay on this"
                " machine"
            )
        cli.note(f"results go to {Path(sweep.tracking.output_dir).absolute()}")
    return sweep


def _wait(sweep: "Sweep", text: str) -> None:
    """Waits until the start time."""
    from cluster.scheduling.quotas import load_team
    from tune_jobs.driver.start_at import next_moment, wait_until, zone_of

    zone = zone_of(load_team(Path(sweep.team.file)).time_zone if sweep.team.member else None)
    wait_until(next_moment(text, datetime.now(UTC), zone), zone, cli.note)


def _how_to_resume(chosen: argparse.Namespace) -> str:
    """Returns the message with the command that resumes the sweep, with its folder, member and cards."""
    arguments = [str(chosen.sweep)]
    for option in ("count", "output", "member", "simulate", "until", "language"):
        value = getattr(chosen, option)
        arguments += [f"--{option}", str(value)] if value is not None else []
    arguments += ["--cpu-only"] if chosen.cpu_only else []
    arguments += ["--dashboard"] if chosen.dashboard else []
    return f"stopped before the end; resume with: python -m tune_jobs run {shlex.join(arguments)} --resume"
