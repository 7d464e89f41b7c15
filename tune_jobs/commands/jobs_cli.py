"""python -m tune_jobs jobs: lists, shows, follows and stops the submitted sweeps of a cluster."""

import argparse
import os
import re
import time
from dataclasses import asdict
from functools import cache
from typing import TYPE_CHECKING

from tune_jobs.config.language import korean
from tuning_common import cli
from tuning_common.errors import WorkError
from tuning_common.units import format_duration

if TYPE_CHECKING:
    from cluster.machines.jobs import Job, Jobs

_SHOWN_LINES = 5  # of a job's output in `jobs status`


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description = (
        "Shows and stops the jobs of a cluster. `stop` lets every trial save; submit --resume continues."
    )
    parser.epilog = "example: python -m tune_jobs jobs logs minji-wide_search --follow"
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    for name, help_text, action in (
        ("list", "every submitted sweep", list_jobs),
        ("status", "one of them", status),
        ("logs", "print its output", logs),
        ("stop", "end it cleanly", stop),
    ):
        one = actions.add_parser(name, help=help_text, epilog=f"example: python -m tune_jobs jobs {name}")
        if name != "list":
            one.add_argument("name", metavar="NAME", help="name of the job, for example minji-wide_search")
            one.epilog = f"example: python -m tune_jobs jobs {name} minji-wide_search"
        if name == "logs":
            one.add_argument("--follow", action="store_true", help="until it is over")
        else:
            cli.add_format(one)
        one.add_argument("--address", metavar="URL", help="the head's dashboard; http://127.0.0.1:8265 by default")
        one.set_defaults(run=action)


def list_jobs(chosen: argparse.Namespace) -> int:
    """Lists all jobs."""
    jobs = _jobs(chosen)
    found = jobs.list()
    progress = [_progress(jobs, job) for job in found]
    rows = [row(job, shown, time.time()) for job, shown in zip(found, progress, strict=True)]
    header = ["job", "status", "time", "started", "ended", "progress"]
    text = cli.narrow_table(header, rows, cli.terminal_columns(), expendable=(3, 2))
    values = [_summary(job) | {"progress": shown} for job, shown in zip(found, progress, strict=True)]
    cli.answer(chosen.format, values, text if found else "no job was submitted yet; python -m tune_jobs submit SWEEP")
    return 0


def _progress(jobs: "Jobs", job: "Job") -> str:
    if job.started_at is None:
        return ""
    try:
        return progress_line(jobs.output(job))
    except WorkError:  # its node is gone, or Ray has removed it
        return "its output is not there any more"


def status(chosen: argparse.Namespace) -> int:
    """Shows one job, and the end of its output: progress, or the best score and the report."""
    jobs = _jobs(chosen)
    job = jobs.find(chosen.name)
    code = _show(job, chosen)
    if chosen.format == "text" and job.started_at is not None:
        cli.emit("\n".join(_filled(jobs.logs(job.name))[-_SHOWN_LINES:]))
    return code


def logs(chosen: argparse.Namespace) -> int:
    """Prints the output of a job."""
    jobs = _jobs(chosen)
    if not chosen.follow:
        cli.pass_on(jobs.logs(chosen.name))
        return 0
    jobs.find(chosen.name)
    job = jobs.follow(chosen.name, cli.pass_on)
    return 0 if job.status == "SUCCEEDED" else 1


def stop(chosen: argparse.Namespace) -> int:
    """Stops a job; its trials save first."""
    return _show(_jobs(chosen).stop(chosen.name), chosen)


def _jobs(chosen: argparse.Namespace) -> "Jobs":
    from cluster.machines.jobs import DEFAULT_ADDRESS, Jobs

    return Jobs(chosen.address or os.environ.get("RAY_API_SERVER_ADDRESS") or DEFAULT_ADDRESS)


def _show(job: "Job", chosen: argparse.Namespace) -> int:
    if chosen.format == "json":
        cli.emit_json(_summary(job))
        return 0
    cli.emit(f"{job.name}: {job.status.lower()} {_duration(job, time.time())}".rstrip())
    cli.emit(f"command: {job.entrypoint}")
    if job.message and not job.is_over:
        cli.emit(job.message)
    return 0


def _summary(job: "Job") -> dict[str, object]:
    return {name: value for name, value in asdict(job).items() if name != "message"}


def row(job: "Job", progress: str, now: float) -> list[object]:
    """Returns what `jobs list` shows of a job.

    Args:
        job: See Job.
        progress: See progress_line.
        now: Unix seconds.
    """
    ended = _moment(job.ended_at) if job.is_over else ""
    return [job.name, job.status.lower(), _duration(job, now), _moment(job.started_at), ended, progress]


def progress_line(output: str) -> str:
    """Returns how far a sweep is: the last line of its output that counts its trials, with the best score.

    The last line of all where no line counts trials.

    >>> progress_line("3 of 10 trials ended, 2 running | best 24.6 (trial 1) | 4 min\\ntrial 6 starts: wide_6\\n\\n")
    '3 of 10 trials ended, 2 running | best 24.6 (trial 1) | 4 min'
    >>> progress_line("10 of 10 trials ended\\nbest 24.6 (trial 1) | 9 min\\nbest model: outputs/...\\n")
    '10 of 10 trials ended | best 24.6 (trial 1) | 9 min'
    """
    lines = _filled(output)
    counts = [number for number, line in enumerate(lines) if _counts_trials().match(line)]
    if not counts:
        return lines[-1] if lines else ""
    shown = lines[counts[-1]]
    return shown if " | " in shown else " | ".join(lines[counts[-1] :][:2])  # two lines at the end of a sweep


@cache
def _counts_trials() -> re.Pattern[str]:
    message = "{count} of {total} trials ended"
    texts = [re.escape(text) for text in (message, korean()[message])]
    return re.compile("|".join(re.sub(r"\\{\w+\\}", r"\\d+", text) for text in texts))


def _filled(output: str) -> list[str]:
    return [line.rstrip() for line in output.splitlines() if line.strip()]


def _moment(seconds: float | None) -> str:
    return time.strftime("%a %d %b %H:%M", time.localtime(seconds)) if seconds else ""


def _duration(job: "Job", now: float) -> str:
    return "" if job.started_at is None else format_duration((job.ended_at or now) - job.started_at)
