"""Runs a sweep from its file to its best model: checks, folders, Ray, the conductor, the report."""

from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from cluster.hardware import Inventory
from common.errors import Problems, RequestError
from common.files import write_bytes
from tune_jobs.conductor import Clocks, SweepConductor
from tune_jobs.grid import planned_trials, sampled_configs
from tune_jobs.inputs import check_inputs, collect, ensure_sample_data, longest_trial
from tune_jobs.journal import FILE_NAME as JOURNAL_NAME
from tune_jobs.journal import Journal
from tune_jobs.live import View
from tune_jobs.order_factory import Placer, SweepOrders
from tune_jobs.progress import SweepProgress, best_of
from tune_jobs.records import ExperimentFolder, SweepFolder, SweepRecord, TrialRecord
from tune_jobs.resources import HostPlacer, this_host
from tune_jobs.search import ListProposer, Proposer, TpeProposer
from tune_jobs.sweep import Sweep
from tune_jobs.sweep_folder import alone, names_in, put_aside

CACHE_DIR = Path(".cache/dialsum")
ATTEMPTS = 5  # of one trial: two or three larger shares, and a lost worker or node


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a sweep is run this time.

    Attributes:
        resume: Go on where an earlier run of the same sweep was ended.
        command: What the person typed, for the ledger.
    """

    resume: bool = False
    command: str = ""


@dataclass(frozen=True, kw_only=True)
class SweepOutcome:
    """What a sweep ended with.

    Attributes:
        folder: Its results.
        best: The trial with the best value; None where no trial has one.
        progress: All trials.
        interrupted: Whether it was stopped before the end, so that --resume goes on.
    """

    folder: SweepFolder
    best: TrialRecord | None
    progress: SweepProgress
    interrupted: bool


def run_sweep(sweep: Sweep, options: RunOptions, view: View, clocks: Clocks | None = None) -> SweepOutcome:
    """Runs a plain sweep.

    Args:
        sweep: As read; without phases.
        options: See there.
        view: Shows the progress.
        clocks: Injected in tests.

    Raises:
        RequestError: Before anything runs: data, models, places, folders.
        WorkError: When the cluster cannot be started.
    """
    clocks = clocks or Clocks()
    ensure_sample_data(sweep)
    check_inputs(sweep)
    folder = SweepFolder.of(Path(sweep.tracking.output_dir), sweep.name)
    with alone(folder):
        if not options.resume:
            put_aside(folder)
        elif not (folder.path / JOURNAL_NAME).exists():
            raise RequestError(f"{folder.path}: nothing to resume; run the sweep without --resume")
        return _run_in(folder, sweep, options, view, clocks)


def _run_in(folder: SweepFolder, sweep: Sweep, options: RunOptions, view: View, clocks: Clocks) -> SweepOutcome:
    from tune_jobs.ray_session import clean_stop, session
    from tune_jobs.trainable import run_trial
    from tune_jobs.tune_door import FitSettings, fit

    inventory = Inventory(nodes=(this_host(),))
    placer: Placer = HostPlacer(inventory=inventory, cpus=sweep.resources.cpus_per_trial)
    slots = _slots(sweep, inventory)
    longest = longest_trial(sweep)
    earlier = folder.load().sweep
    started_at = earlier.started_at if earlier and earlier.started_at is not None else clocks.now()
    output_dir = Path(sweep.tracking.output_dir)
    orders = SweepOrders(
        sweep,
        placer,
        output_dir=output_dir,
        cache_dir=CACHE_DIR,
        started=datetime.fromtimestamp(started_at),  # local time, as on the wall of who reads the name
        taken=names_in(ExperimentFolder.of(output_dir, "").path),
    )
    rule = sweep.early_terminate.rule(sweep.metric.goal, longest)
    proposer = _proposer(sweep)
    _check_places(sweep, placer)
    folder.append(_sweep_record(sweep, options, started_at, rule.rungs, placer.simulated))
    write_bytes(folder.sweep_file, Path(sweep.source).read_bytes())
    progress = SweepProgress(
        sweep=sweep.name,
        metric=sweep.metric.name,
        goal=sweep.metric.goal,
        total=proposer.total,
        longest=longest,
        slots=slots,
        started_s=clocks.elapsed_s(),
        simulated=placer.simulated,
    )
    budget_s = sweep.resources.time_budget_s
    conductor = SweepConductor(
        proposer=proposer,
        orders=orders,
        rule=rule,
        progress=progress,
        view=view,
        folder=folder,
        journal=Journal(folder.path / JOURNAL_NAME),
        ends_at_s=None if budget_s is None else clocks.elapsed_s() + budget_s,
        clocks=clocks,
    )
    view.event(
        f"sweep {sweep.name}: {proposer.total} trials ({sweep.method}), up to {slots} side by side on"
        f" {inventory.describe()}; rungs at evaluations {', '.join(map(str, rule.rungs)) or 'none'} of {longest}"
    )
    settings = FitSettings(
        folder=folder.path.resolve() / "tune",
        name=f"{clocks.now():.0f}",
        attempts=ATTEMPTS,
        max_concurrent=slots if sweep.resources.max_concurrent_trials or sweep.method in ("bayes", "bohb") else None,
    )
    with session(inventory), clean_stop():
        fit(run_trial, conductor, settings)
    for trial in progress.trials.values():
        if trial.status == "running":
            progress.ended(trial.number, status="interrupted", reason="", now_s=clocks.elapsed_s())
    view.close(progress)
    return _outcome(folder, progress, conductor.is_over)


def _proposer(sweep: Sweep) -> Proposer:
    if sweep.method in ("grid", "random"):
        return ListProposer(sampled_configs(sweep))
    if sweep.method in ("bayes", "bohb"):
        return TpeProposer(
            sweep.space,
            sweep.trials,
            goal=sweep.metric.goal,
            seed=sweep.search.seed,
            startup_trials=sweep.search.startup_trials,
        )
    raise RequestError(f"{sweep.source}: method {sweep.method} cannot be run yet; take grid, random, bayes or bohb")


def _check_places(sweep: Sweep, placer: Placer) -> None:
    """Refuses a sweep of which no trial can run; single impossible trials are refused when their turn comes."""
    if sweep.method not in ("grid", "random"):
        return
    problems = Problems()
    trials = planned_trials(sweep)
    for number, trial in enumerate(trials, start=1):
        collect(problems, partial(placer.place, f"trial {number}", trial.resolved))
    if len(problems) >= len(trials):
        problems.raise_if_any(f"{sweep.source}: no trial can run")


def _slots(sweep: Sweep, inventory: Inventory) -> int:
    by_cpus = int(sum(node.cpus for node in inventory.nodes) / sweep.resources.cpus_per_trial)
    return max(1, min(by_cpus, sweep.resources.max_concurrent_trials or by_cpus))


def _outcome(folder: SweepFolder, progress: SweepProgress, is_over: bool) -> SweepOutcome:
    winner = best_of(progress.trials.values(), progress.goal)
    records = {record.trial_id: record for record in folder.load().trials}
    best = records.get(str(winner.number)) if winner else None
    if best is not None:
        folder.write_best_config(best)
    return SweepOutcome(folder=folder, best=best, progress=progress, interrupted=not is_over)


def _sweep_record(
    sweep: Sweep, options: RunOptions, started_at: float, rungs: tuple[int, ...], simulated: bool
) -> SweepRecord:
    stop = sweep.early_terminate
    shown = f", eta {stop.eta:g}" if stop.type in ("asha", "hyperband") else ""
    return SweepRecord(
        sweep=sweep.name,
        metric=sweep.metric.name,
        goal=sweep.metric.goal,
        method=sweep.method,
        parameters={parameter.name: parameter.spec() for parameter in sweep.space.searched},
        trials=sweep.trials,
        stopping=f"{stop.type}{shown}, rungs {', '.join(map(str, rungs))}" if rungs else stop.type,
        started_at=started_at,
        command=options.command,
        simulated=simulated,
        member=sweep.team.member,
        source=sweep.source,
    )
