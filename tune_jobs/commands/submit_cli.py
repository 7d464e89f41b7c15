"""python -m tune_jobs submit: sends a sweep to a cluster and follows it."""

import argparse
import getpass
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tune_jobs.commands.language_option import add_language
from tuning_common import cli
from tuning_common.errors import RequestError, WorkError
from tuning_common.units import counted, format_bytes

if TYPE_CHECKING:
    from cluster.machines.jobs import Job, Jobs
    from tune_jobs.config.sweep import Sweep
    from tune_jobs.jobs.submission import Submission


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description = "Packages the code and the files that the sweep names, and runs it as a job of the cluster."
    parser.epilog = (
        "example: python -m tune_jobs submit tune_jobs/sweeps/wide_search.yaml --member minji --supervise"
        "   (later: python -m tune_jobs jobs list)"
    )
    parser.add_argument("sweep", type=Path, metavar="SWEEP", help="a sweep file")
    parser.add_argument("--member", metavar="NAME", help="whose quota is used; the sweep's own, else your user name")
    parser.add_argument("--address", metavar="URL", help="the head's dashboard; http://127.0.0.1:8265 by default")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="folder of results, below the cluster's shared folder"
    )
    parser.add_argument("--no-follow", action="store_true", help="return as soon as the job is submitted")
    parser.add_argument("--supervise", action="store_true", help="restart the driver and continue when it dies")
    earlier = parser.add_mutually_exclusive_group()
    earlier.add_argument("--resume", action="store_true", help="continue an earlier run of this sweep")
    earlier.add_argument(
        "--restart", action="store_true", help="put an earlier run aside and begin anew, as without --resume"
    )
    parser.add_argument("--no-key", action="store_true", help="do not send your W&B key: the runs stay offline")
    parser.add_argument("--dry-run", action="store_true", help="show what would be sent, and send nothing")
    parser.add_argument("--count", type=int, metavar="N", help="how many trials, where the file has none")
    parser.add_argument("--until", metavar="PHASE", help="of a staged sweep: stop after this phase")
    parser.add_argument("--start-at", metavar="HH:MM", help="wait for this hour (the team's zone, else local time)")
    add_language(parser, "the sweep file's tracking.language")
    parser.add_argument("--strict", action="store_true", help="refuse a sweep on which there is a warning")
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Submits the sweep.

    Raises:
        RequestError: When the sweep, its files or the cluster cannot be used, or the job was a wrong request.
        WorkError: When the job failed, was stopped, or its machine was lost.
    """
    from tune_jobs.config.sweep_file import load_sweep

    sweep = load_sweep(chosen.sweep, chosen.count)
    submission = _submission(sweep, chosen)
    if chosen.dry_run:
        cli.emit(_described(submission))
        return 0
    from cluster.machines.jobs import DEFAULT_ADDRESS, Jobs

    jobs = Jobs(chosen.address or os.environ.get("RAY_API_SERVER_ADDRESS") or DEFAULT_ADDRESS)
    name = _send(submission, jobs)
    if chosen.no_follow:
        cli.emit(f"{name} is submitted; follow it: python -m tune_jobs jobs logs {name} --follow")
        return 0
    return _finish(_follow(submission, jobs, name, chosen), chosen)


def _submission(sweep: "Sweep", chosen: argparse.Namespace, *, resume: bool = False) -> "Submission":
    from tune_jobs.jobs.package import files_of
    from tune_jobs.jobs.sealed_key import own_key, package_root, read_token
    from tune_jobs.jobs.submission import Submission, entrypoint_of, job_name

    here = Path.cwd()
    member = chosen.member or sweep.team.member
    quota_of = chosen.member if Path(sweep.team.file).exists() else None
    if chosen.member and quota_of is None:
        cli.note(f"no {sweep.team.file} here: --member names the job, and no quota is used")
    key = None if chosen.no_key or sweep.tracking.wandb in ("offline", "disabled") else own_key(os.environ, Path.home())
    token = None
    if key is not None:
        try:
            token = read_token(os.environ, Path.home())
        except OSError:
            key = None
            cli.note(
                "no cluster token on this machine, so the W&B key is not sent (it would be readable): runs stay offline"
            )
    return Submission(
        name=job_name(member or getpass.getuser(), sweep.name),
        metadata={
            "member": member or getpass.getuser(),
            "sweep": sweep.name,
            "report": f"sweep_results/{sweep.name}/analysis_report.html",
        },
        entrypoint=entrypoint_of(
            str(chosen.sweep),
            here,
            member=quota_of,
            output=chosen.output,
            resume=chosen.resume or resume,
            supervise=chosen.supervise,
            options=_passed_on(chosen),
        ),
        files=files_of(sweep.with_member(quota_of), package_root(), here),
        key=key,
        token=token,
    )


def _passed_on(chosen: argparse.Namespace) -> list[str]:
    """Returns the options that are passed to `run` unchanged; refuses an invalid start time here."""
    from tune_jobs.driver.start_at import next_moment

    if chosen.start_at is not None:
        next_moment(chosen.start_at, datetime.now(UTC), UTC)
    options = ["--strict"] if chosen.strict else []
    names = (
        ("--count", chosen.count),
        ("--until", chosen.until),
        ("--start-at", chosen.start_at),
        ("--language", chosen.language),
    )
    for name, value in names:
        options += [name, str(value)] if value else []
    return options


def _send(submission: "Submission", jobs: "Jobs") -> str:
    from tune_jobs.jobs.submission import free_name, is_same, scratch, write_submission

    known = jobs.list()
    for job in known:
        if not job.is_over and is_same(job.name, submission.name):
            end = f"python -m tune_jobs jobs stop {job.name}"
            raise RequestError(f"{job.name} is {job.status.lower()}; wait for it, or end it: {end}")
    name = free_name(submission.name, {job.name for job in known})
    with scratch() as folder:
        write_submission(submission, Path(folder))
        jobs.submit(name, submission.entrypoint, Path(folder), submission.metadata)
    cli.note(
        f"{name} is submitted to {jobs.address}: {counted(len(submission.files), 'file')},"
        f" {format_bytes(submission.size_bytes)}"
    )
    return name


def _follow(submission: "Submission", jobs: "Jobs", name: str, chosen: argparse.Namespace) -> "Job":
    from tune_jobs.config.sweep_file import load_sweep

    try:
        job = jobs.follow(name, cli.pass_on)
        while job.was_lost and chosen.supervise:
            cli.note(f"{job.name} was lost with its machine ({job.message.splitlines()[0]}); it is submitted again")
            again = _submission(load_sweep(chosen.sweep, chosen.count), chosen, resume=True)
            job = jobs.follow(_send(again, jobs), cli.pass_on)
    except KeyboardInterrupt:
        raise WorkError(
            f"{name} runs on; follow it: python -m tune_jobs jobs logs {name} --follow;"
            f" end it: python -m tune_jobs jobs stop {name}"
        ) from None
    return job


def _finish(job: "Job", chosen: argparse.Namespace) -> int:
    if job.status == "SUCCEEDED":
        cli.note(f"{job.name} succeeded")
        return 0
    if job.exit_code == 2:
        raise RequestError(f"{job.name}: the request was wrong; the reason is above")
    resume = f"resume with: python -m tune_jobs submit {chosen.sweep} --resume"
    if job.status == "STOPPED":
        raise WorkError(f"{job.name} was stopped; {resume}")
    why = (
        f"exit code {job.exit_code}"
        if job.exit_code is not None
        else (job.message.splitlines() or ["no reason known"])[0]
    )
    raise WorkError(f"{job.name} failed ({why}); {resume}")


def _described(submission: "Submission") -> str:
    lines = [f"job:     {submission.name}", f"command: {submission.entrypoint}"]
    lines.append(f"package: {counted(len(submission.files), 'file')}, {format_bytes(submission.size_bytes)}")
    code = {"tuning_common", "dialsum", "cluster", "tune_jobs"}
    others = [file.target for file in submission.files if file.target.parts[0] not in code]
    lines += [f"         {target}" for target in others]
    lines.append(f"W&B key: {'sealed with the cluster token' if submission.key else 'none is sent'}")
    return "\n".join(lines)
