"""Runs a sweep from its file to its best model: checks, folders, Ray, the conductor, the report."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from cluster.estimator.calibration import load_calibration
from cluster.estimator.estimate import Estimator
from cluster.machines.hardware import Inventory
from cluster.machines.metrics import Meters
from cluster.scheduling.placement import Demand
from common.cli import note
from common.errors import Problems, RequestError
from common.files import write_bytes
from common.storage import Patience
from tune_jobs.config.points import points_of
from tune_jobs.config.result_paths import own_places
from tune_jobs.config.sweep import Sweep
from tune_jobs.driver.cards import cards_at_hand
from tune_jobs.driver.conductor import Clocks, SweepConductor
from tune_jobs.driver.exploit import exploiter_for
from tune_jobs.driver.metered_view import MeteredView
from tune_jobs.driver.specs import Placer, SweepOrders
from tune_jobs.driver.sweep_end import SweepOutcome, outcome_of
from tune_jobs.driver.trained_model import as_placed, with_trained_base
from tune_jobs.driver.view import View
from tune_jobs.placing.resources import SHARE_CLASSES, SharePlacer, placer_for, slots
from tune_jobs.placing.start_order import largest_numbers_first, starts_largest_first
from tune_jobs.records.journal import FILE_NAME as JOURNAL_NAME
from tune_jobs.records.journal import Journal
from tune_jobs.records.ledger import ExperimentFolder, SweepFolder, SweepRecord
from tune_jobs.records.progress import SweepProgress
from tune_jobs.records.snapshot import keep_code
from tune_jobs.records.sweep_lock import alone, names_in, put_aside
from tune_jobs.records.trial_spec import STOP_FILE
from tune_jobs.search.grid import drawn_configs, planned_trials, sampled_configs
from tune_jobs.search.inputs import check_inputs, ensure_sample_data, longest_trial
from tune_jobs.search.samplers import CompletedTrial, ListSampler, Proposer, Sampled, TpeSampler
from tune_jobs.team.admission import Admission
from tune_jobs.tracking.mirroring import mirroring

CALIBRATION_NAME = "calibration.jsonl"  # in the output folder: shared by all sweeps
ATTEMPTS = 5  # of one trial: two or three larger shares, and a lost worker or node


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a sweep is run this time.

    Attributes:
        resume: Go on where an earlier run of the same sweep was ended.
        simulate: Described logical cards, instead of the sweep's own word.
        cpu_only: Place by CPUs and host memory, also where cards would be simulated.
        command: What the person typed, for the ledger.
        group: The staged search that this sweep is a phase of; empty for a sweep of its own.
        phase: Name of that phase.
    """

    resume: bool = False
    simulate: str | None = None
    cpu_only: bool = False
    command: str = ""
    group: str = ""
    phase: str = ""


def run_sweep(
    sweep: Sweep, options: RunOptions, view: View, clocks: Clocks | None = None, *, inventory: Inventory | None = None
) -> SweepOutcome:
    """Runs a plain sweep.

    Args:
        sweep: As read; without phases.
        options: See there.
        view: Shows the progress.
        clocks: Injected in tests.
        inventory: What there is, where the caller has looked and is connected already.

    Raises:
        RequestError: Before anything runs: data, models, places, folders.
        WorkError: When the cluster cannot be started.
    """
    clocks = clocks or Clocks()
    if sweep.trained_model is not None:
        sweep = with_trained_base(sweep)
    ensure_sample_data(sweep)
    check_inputs(sweep)
    folder = SweepFolder.of(Path(sweep.tracking.output_dir), sweep.name)
    with alone(folder):
        if options.resume and not (folder.path / JOURNAL_NAME).exists():
            raise RequestError(f"{folder.path}: nothing to resume; run the sweep without --resume")
        with nullcontext(inventory) if inventory is not None else at_hand(sweep, options) as found:
            placer = _placer(sweep, found)
            _check_places(sweep, placer)
            with _admission(sweep) as admission:
                if not options.resume:
                    put_aside(folder)
                return _conduct(folder, sweep, options, view, clocks, found, placer, admission)


def check_places(sweep: Sweep, inventory: Inventory) -> None:
    """Refuses a sweep of which no trial can run on what there is."""
    _check_places(sweep, _placer(sweep, inventory))


def at_hand(sweep: Sweep, options: RunOptions) -> AbstractContextManager[Inventory]:
    """Connects to the cluster at hand, or looks at this machine; see cards_at_hand."""
    return cards_at_hand(options.simulate or sweep.resources.simulate, cpu_only=options.cpu_only)


def _placer(sweep: Sweep, inventory: Inventory) -> Placer:
    def estimator() -> Estimator:
        from tune_jobs.placing.memory_templates import template_finder

        calibration = load_calibration(Path(sweep.tracking.output_dir) / CALIBRATION_NAME)
        return Estimator(template_finder(note), calibration)

    return placer_for(inventory, sweep.resources, estimator=estimator)


@contextmanager
def _admission(sweep: Sweep) -> Iterator[Admission]:
    """What lets trials in, entered at once where the cluster is at hand: a refusal leaves earlier results in place."""
    from tune_jobs.driver.ray_session import attached
    from tune_jobs.team.team_actor import admission_for, refuse_without_member

    admission = admission_for(sweep)
    if attached():
        refuse_without_member(sweep)
        admission.open()
    try:
        yield admission
    finally:
        admission.close()


def _conduct(
    folder: SweepFolder,
    sweep: Sweep,
    options: RunOptions,
    view: View,
    clocks: Clocks,
    inventory: Inventory,
    placer: Placer,
    admission: Admission,
) -> SweepOutcome:
    from cluster.machines.inventory import free_gpus
    from tune_jobs.driver.ray_session import attached, clean_stop, interrupt_self, session
    from tune_jobs.driver.tuner import FitSettings, fit
    from tune_jobs.trial.run_trial import run_trial

    side_by_side = min(slots(inventory, sweep.resources), sweep.resources.max_concurrent_trials or 10**6)
    longest = longest_trial(sweep)
    rule = sweep.early_terminate.rule(sweep.metric.goal, longest)
    proposer = _proposer(sweep, placer)
    earlier = folder.load().sweep
    view = MeteredView(view, Meters(), sweep.team.member or "")
    started_at = earlier.started_at if earlier and earlier.started_at is not None else clocks.now()
    folder.append(_sweep_record(sweep, options, started_at, rule.rungs, inventory))
    write_bytes(folder.sweep_file, Path(sweep.source).read_bytes())
    keep_code(folder.snapshot, options.command, {"search": sweep.search.seed})
    progress = SweepProgress(
        sweep=sweep.name,
        metric=sweep.metric.name,
        goal=sweep.metric.goal,
        total=proposer.total,
        longest=longest,
        slots=side_by_side,
        started_s=clocks.elapsed_s(),
        simulated=placer.simulated,
    )
    budget_s = sweep.resources.time_budget_s
    output_dir = Path(sweep.tracking.output_dir)
    patience = Patience(view.event)
    journal = Journal(folder.path / JOURNAL_NAME, patience)
    known = {number: str(trial.order["name"]) for number, trial in journal.trials.items()}
    conductor = SweepConductor(
        proposer=proposer,
        orders=SweepOrders(
            sweep,
            placer,
            output_dir=output_dir,
            places=own_places(output_dir),
            started=datetime.fromtimestamp(started_at),  # local time, as on the wall of who reads the name
            taken=names_in(ExperimentFolder.of(output_dir, "").path) - set(known.values()),
            known=known,
        ),
        rule=rule,
        progress=progress,
        view=view,
        folder=folder,
        journal=journal,
        exploiter=exploiter_for(sweep, journal, folder.path, side_by_side=side_by_side),
        patience=patience,
        cards=placer.line(free_gpus if attached() else None),
        shares=SHARE_CLASSES,
        anomalies=sweep.anomalies,
        calibration=output_dir / CALIBRATION_NAME,
        ends_at_s=None if budget_s is None else clocks.elapsed_s() + budget_s,
        admission=admission,
        clocks=clocks,
        all_saved=interrupt_self,
    )
    view.event(_opening(sweep, proposer, rule.rungs, longest, inventory, side_by_side))
    limited = sweep.resources.max_concurrent_trials or sweep.method in ("bayes", "bohb", "pbt") or placer.simulated
    settings = FitSettings(
        folder=folder.path.resolve() / "tune",
        name=f"{clocks.now():.0f}",
        attempts=ATTEMPTS,
        max_concurrent=side_by_side if limited else None,
    )
    stop_file = folder.path / STOP_FILE
    stop_file.unlink(missing_ok=True)  # of an earlier driver
    with mirroring(folder, sweep, group=options.group, phase=options.phase) as mirror:
        with session(inventory), clean_stop(conductor.stop):
            admission.open()
            try:
                fit(run_trial, conductor, settings)
            finally:
                admission.close()  # an embedded Ray ends with its session
        if mirror is not None:
            mirror.end()
        stop_file.unlink(missing_ok=True)
        for trial in progress.trials.values():
            if trial.status == "running":
                progress.ended(trial.number, status="interrupted", reason="", now_s=clocks.elapsed_s())
        view.close(progress)
        return outcome_of(folder, progress, conductor)


def _opening(
    sweep: Sweep, proposer: Proposer, rungs: tuple[int, ...], longest: int, inventory: Inventory, side_by_side: int
) -> str:
    compared = (
        f"compared at evaluations {', '.join(map(str, rungs))} of {longest}" if rungs else f"{longest} evaluations"
    )
    where = inventory.describe() if inventory.cards else f"{sum(node.cpus for node in inventory.nodes):g} CPUs"
    return (
        f"sweep {sweep.name}: {proposer.total} trials ({sweep.method}) on {where}, up to {side_by_side} side by side,"
        f" {compared}"
    )


def _proposer(sweep: Sweep, placer: Placer) -> Proposer:
    if sweep.method in ("grid", "random"):
        configurations = sampled_configs(sweep)
        return ListSampler(configurations, _start_order(sweep, placer, configurations))
    if sweep.method in ("bayes", "bohb"):
        points = points_of(sweep)
        return TpeSampler(
            sweep.space,
            sweep.trials,
            goal=sweep.metric.goal,
            seed=sweep.search.seed,
            startup_trials=sweep.search.startup_trials,
            points=[point.sampled for point in points if point.score is None],
            known=[
                CompletedTrial(sampled=point.sampled, outcome="finished", value=point.score)
                for point in points
                if point.score is not None
            ],
        )
    return ListSampler(drawn_configs(sweep, sweep.trials))  # pbt


def _start_order(sweep: Sweep, placer: Placer, configurations: Sequence[Sampled]) -> Sequence[int] | None:
    if not isinstance(placer, SharePlacer) or not starts_largest_first(sweep):
        return None
    demands: dict[int, Demand] = {}
    for number, sampled in enumerate(configurations, start=1):
        with suppress(RequestError):  # said when its turn comes
            demands[number] = placer.demand(f"trial {number}", as_placed(sweep, sweep.resolve(sampled).resolved))
    return largest_numbers_first(len(configurations), demands, placer.inventory)


def _check_places(sweep: Sweep, placer: Placer) -> None:
    """Refuses a sweep of which no trial can run; single impossible trials are refused when their turn comes."""
    if sweep.method not in ("grid", "random"):
        return
    problems = Problems()
    trials = planned_trials(sweep)
    for number, trial in enumerate(trials, start=1):
        shown = ", ".join(f"{name} {value}" for name, value in trial.sampled.items())
        problems.collect(partial(placer.check, f"trial {number} ({shown})", as_placed(sweep, trial.resolved)))
    if len(problems) >= len(trials):
        problems.raise_if_any(f"{sweep.source}: no trial can run")


def _sweep_record(
    sweep: Sweep, options: RunOptions, started_at: float, rungs: tuple[int, ...], inventory: Inventory
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
        simulated=inventory.simulated,
        cards=[
            {"node": node.address, "card": str(card.index), "gpu_model": card.model, "total_bytes": card.total_bytes}
            for node in inventory.nodes
            for card in node.cards
        ],
        member=sweep.team.member,
        source=sweep.source,
    )
