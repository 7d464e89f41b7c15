"""Runs a sweep from its file to its best model: checks, folders, Ray, the driver, the report."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cluster.machines.hardware import Inventory
from cluster.machines.metrics import Meters
from cluster.scheduling.broker_client import BrokerClient
from tune_jobs.config.result_paths import own_shared_folders
from tune_jobs.config.sweep import Sweep
from tune_jobs.config.sweep_file import kept_text
from tune_jobs.driver.broker_access import largest_share_units, open_broker
from tune_jobs.driver.callbacks import LedgerCallback, SweepCallback, ViewCallback, WandbLoggerCallback
from tune_jobs.driver.cards import cards_at_hand
from tune_jobs.driver.identity import check_identity, identity_of, keep_identity
from tune_jobs.driver.inherit import inherit_into
from tune_jobs.driver.kill_process import kill_process
from tune_jobs.driver.learning import learning_of
from tune_jobs.driver.ray_session import attached, session
from tune_jobs.driver.rebuild import rebuild_journal
from tune_jobs.driver.recovery import RetryPolicy
from tune_jobs.driver.resume import adopt, check_paths
from tune_jobs.driver.sampling import check_trials, sampler_for, to_come
from tune_jobs.driver.specs import SweepSpecs
from tune_jobs.driver.stop_signals import StopRequest, stop_on_signals
from tune_jobs.driver.storage_watch import StorageWatch
from tune_jobs.driver.sweep_driver import RunTuner, SweepDriver
from tune_jobs.driver.sweep_end import SweepOutcome, outcome_of
from tune_jobs.driver.sweep_parts import Clocks, SweepLimits, SweepParts
from tune_jobs.driver.sweep_state import SweepState
from tune_jobs.driver.trained_model import with_trained_base
from tune_jobs.driver.trial_loggers import TrialLoggers
from tune_jobs.driver.tuner import TunerSettings, run_tuner
from tune_jobs.driver.view import View
from tune_jobs.placing.placer import CALIBRATION_NAME, Placer, slots, sweep_placer
from tune_jobs.placing.submission import submission_limits
from tune_jobs.placing.throughput import Throughput
from tune_jobs.planning.earlier import earlier_ledgers, observations_of
from tune_jobs.records.journal import FILE_NAME as JOURNAL_NAME
from tune_jobs.records.journal import Journal
from tune_jobs.records.ledger import ExperimentFolder, SweepFolder, SweepRecord
from tune_jobs.records.progress import SweepFrame, SweepProgress, progress_of
from tune_jobs.records.snapshot import keep_code
from tune_jobs.records.sweep_lock import alone, names_in, put_aside
from tune_jobs.records.trial_spec import STOP_FILE
from tune_jobs.search.early_stopping import EarlyStopping
from tune_jobs.search.inputs import DataSizes, SweepInputs, prepare_inputs
from tune_jobs.search.samplers import Sampler
from tune_jobs.search.tune_schedulers import scheduler_for
from tune_jobs.tracking.tune_loggers import TENSORBOARD_FOLDER, check_installed, openers
from tune_jobs.trial.run_trial import run_trial
from tuning_common.errors import RequestError
from tuning_common.files import write_bytes
from tuning_common.storage import StorageRetry
from tuning_common.units import counted

Trainable = Callable[[dict[str, object]], None]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a sweep is run this time.

    Attributes:
        resume: Go on where an earlier run of the same sweep was ended.
        simulate: Described simulated cards, instead of those of the sweep file.
        cpu_only: Place by CPUs and host memory, also where cards would be simulated.
        command: What the person typed, for the ledger.
        group: The staged search that this sweep is a phase of; empty for a sweep of its own.
        phase: Name of that phase.
        trainable: What runs in a trial's process; None for run_trial.
        dashboard: Whether an embedded Ray has its dashboard.
        embedded: Whether the caller started the Ray that this process is connected to, so that nobody else uses it.
        inputs: Of the sweep, where the caller has prepared them already.
        cut_texts: See SweepRecord.
    """

    resume: bool = False
    simulate: str | None = None
    cpu_only: bool = False
    command: str = ""
    group: str = ""
    phase: str = ""
    trainable: Trainable | None = None
    dashboard: bool = False
    embedded: bool = False
    inputs: SweepInputs | None = None
    cut_texts: tuple[str, ...] = ()


def run_sweep(
    sweep: Sweep,
    options: RunOptions,
    view: View,
    clocks: Clocks | None = None,
    *,
    inventory: Inventory | None = None,
    stop: StopRequest | None = None,
) -> SweepOutcome:
    """Runs a plain sweep.

    Args:
        sweep: As read; without phases.
        options: See there.
        view: Shows the progress.
        clocks: Injected in tests.
        inventory: What there is, where the caller is connected already.
        stop: Whether somebody asked to stop; signals of this process where None.

    Raises:
        RequestError: Before anything runs: data, models, placement, folders.
        WorkError: When the cluster cannot be started.
    """
    clocks = clocks or Clocks()
    check_installed(sweep.tracking)
    if sweep.trained_model is not None:
        sweep = with_trained_base(sweep)
    inputs = options.inputs or prepare_inputs(sweep)
    folder = SweepFolder.of(Path(sweep.tracking.output_dir), sweep.name)
    identity = identity_of(sweep, inputs)
    with alone(folder):
        if options.resume and not folder.ledger.exists() and not (folder.path / JOURNAL_NAME).exists():
            raise RequestError(f"{folder.path}: nothing to resume; run the sweep without --resume")
        if options.resume:
            check_identity(folder, identity)
            check_paths(folder)
        with nullcontext(inventory) if inventory is not None else at_hand(sweep, options) as found:
            placer = sweep_placer(sweep, found, inputs.sizes, earlier_runs(sweep, found))
            check_trials(sweep, placer)
            run = _Run(folder, sweep, options, view, clocks, placer, inputs.longest_trial, identity)
            return run.run(stop)


def check_placement(sweep: Sweep, inventory: Inventory) -> None:
    """Refuses a sweep of which no trial can run on what there is."""
    check_trials(sweep, sweep_placer(sweep, inventory, DataSizes(of={}), Throughput(())))


def earlier_runs(sweep: Sweep, inventory: Inventory) -> Throughput:
    """Reads what earlier runs took, which tells the broker how long trials take; not for CPUs, which it only counts."""
    if not inventory.cards or inventory.simulated:
        return Throughput(())
    return Throughput(observations_of(earlier_ledgers(Path(sweep.tracking.output_dir))))


def at_hand(sweep: Sweep, options: RunOptions) -> AbstractContextManager[Inventory]:
    """Connects to the running cluster, or reads this machine's cards; see cards_at_hand."""
    return cards_at_hand(options.simulate or sweep.resources.simulate, cpu_only=options.cpu_only)


class _Run:
    """One run of a driver over one sweep: puts the parts together."""

    def __init__(
        self,
        folder: SweepFolder,
        sweep: Sweep,
        options: RunOptions,
        view: View,
        clocks: Clocks,
        placer: Placer,
        longest: int,
        identity: Mapping[str, object],
    ) -> None:
        self._folder, self._sweep, self._options, self._view = folder, sweep, options, view
        self._clocks, self._placer = clocks, placer
        self._side_by_side = min(
            slots(placer.inventory, sweep.resources), sweep.resources.max_concurrent_trials or 10**6
        )
        self._submission = submission_limits(sweep, placer.inventory)
        self._longest, self._identity = longest, identity

    def run(self, stop: StopRequest | None) -> SweepOutcome:
        """Runs the sweep until it is over or stopped."""
        sweep, options = self._sweep, self._options

        on_cluster = attached() and not options.embedded
        with ExitStack() as stack:
            inventory = stack.enter_context(
                session(self._placer.inventory, self._view.event if options.dashboard else None)
            )
            limit = self._submission.running
            broker = open_broker(sweep, inventory, self._clocks, on_cluster=on_cluster, max_concurrent=limit)
            stack.callback(broker.close)  # a refusal leaves earlier results where they are
            if stop is None:
                stop = StopRequest()
                stack.enter_context(stop_on_signals(stop))
            if not options.resume:
                put_aside(self._folder, sweep.team.member)
                keep_identity(self._folder, self._identity)
            return self._drive(broker, stop)

    def _drive(self, broker: BrokerClient, stop: StopRequest) -> SweepOutcome:

        sampler = sampler_for(self._sweep, self._placer)
        started_at = self._write_beginning()
        frame = self._frame(sampler)
        retry = StorageRetry(self._view.event)
        journal = Journal(self._folder.path / JOURNAL_NAME, retry)
        if self._options.resume and not journal.trials:
            rebuild_journal(journal, self._folder, self._sweep.metric.name, self._view.event)
            journal = Journal(self._folder.path / JOURNAL_NAME, retry)  # as the events that a state replays
        ledger = LedgerCallback(
            self._folder,
            journal,
            frame,
            calibration=Path(self._sweep.tracking.output_dir) / CALIBRATION_NAME,
            retry=retry,
            to_come=lambda: to_come(sampler, journal),
        )
        ledger.write_missing()  # before the state closes further ones
        state = self._state(sampler, journal, started_at)
        storage = StorageWatch(self._folder.path, self._view.event, elapsed_s=self._clocks.elapsed_s)

        def progress() -> SweepProgress:
            storage.tick()
            return progress_of(frame, journal.trials, self._clocks.elapsed_s(), waiting=state.waiting)

        shown = ViewCallback(self._view, progress, Meters(), self._sweep.team.member or "", self._clocks.elapsed_s)
        loggers = TrialLoggers(
            journal,
            openers(self._sweep, self._folder, resume=self._options.resume),
            self._folder.path / TENSORBOARD_FOLDER,
            self._view.event,
        )
        callbacks = (ledger, shown, loggers)
        wandb = WandbLoggerCallback(self._folder, self._sweep, group=self._options.group, phase=self._options.phase)
        self._view.event(
            _opening(self._sweep, sampler, frame.rungs, self._longest, self._placer.inventory, frame.slots)
        )
        (self._folder.path / STOP_FILE).unlink(missing_ok=True)  # of an earlier driver
        driver = SweepDriver(
            state,
            journal,
            broker,
            self._folder.path,
            callbacks=callbacks,
            notify=self._view.event,
            stop=stop,
            clocks=self._clocks,
            kill=kill_process,
        )
        wandb.start()
        try:
            driver.run(self._run_tuner(callbacks))
            wandb.sweep_ended()
            if not state.leaves_stop_file:  # else it tells a supervisor; the next driver removes it
                (self._folder.path / STOP_FILE).unlink(missing_ok=True)
            storage.check()
            final = progress_of(frame, journal.trials, self._clocks.elapsed_s(), driver_ended=True)
            shown.close(final)
            return outcome_of(self._folder, final, is_over=state.is_over, hurried=stop.hurried)
        finally:
            loggers.close()
            wandb.close()

    def _run_tuner(self, callbacks: Sequence[SweepCallback]) -> RunTuner:

        runs = iter(range(10**9))

        def run(driver: SweepDriver) -> None:
            settings = TunerSettings(
                folder=self._folder.path.resolve() / "tune",
                name=f"{self._clocks.now():.0f}_{next(runs)}",
                callbacks=callbacks,
                actor_name="/".join(filter(None, (self._sweep.team.member, self._sweep.name))),
            )
            run_tuner(self._options.trainable or run_trial, driver, settings)

        return run

    def _write_beginning(self) -> float:
        """Writes what the sweep is; returns when it started first."""
        earlier = self._folder.load().sweep
        started_at = earlier.started_at if earlier and earlier.started_at is not None else self._clocks.now()
        rungs = self._sweep.early_terminate.rungs(self._longest)
        self._folder.append(sweep_record(self._sweep, self._options, started_at, rungs, self._placer.inventory))
        write_bytes(self._folder.sweep_file, kept_text(self._sweep))
        keep_code(self._folder.snapshot, self._options.command, {"search": self._sweep.search.seed})
        return started_at

    def _frame(self, sampler: Sampler) -> SweepFrame:
        return SweepFrame(
            sweep=self._sweep.name,
            metric=self._sweep.metric.name,
            goal=self._sweep.metric.goal,
            total=sampler.total,
            longest=self._longest,
            slots=self._side_by_side,
            rungs=self._sweep.early_terminate.rungs(self._longest),
            started_s=self._clocks.elapsed_s(),
            simulated=self._placer.simulated,
            cut_texts=self._options.cut_texts,
            is_random=self._sweep.method == "random",
        )

    def _state(self, sampler: Sampler, journal: Journal, started_at: float) -> SweepState:

        sweep = self._sweep
        output_dir = Path(sweep.tracking.output_dir)
        known = {number: trial.name for number, trial in journal.trials.items()}
        specs = SweepSpecs(
            sweep,
            self._placer,
            output_dir=output_dir,
            folders=own_shared_folders(output_dir),
            started=datetime.fromtimestamp(started_at),  # local time, as on the wall of who reads the name
            taken=names_in(ExperimentFolder.of(output_dir, "").path) - set(known.values()),
            known=known,
        )
        adopt(journal, sampler, specs, self._view.event)
        scheduler = scheduler_for(sweep, last=self._longest, side_by_side=self._side_by_side)
        budget_s = sweep.resources.time_budget_s
        return SweepState(
            SweepParts(
                sampler=sampler,
                specs=specs,
                early_stopping=EarlyStopping(scheduler, seed=sweep.search.seed, last=self._longest),
                retry=RetryPolicy(retries=sweep.resources.retries, anomalies=sweep.anomalies),
                inherit=inherit_into(self._folder.path.resolve(), sweep.resolve),
                learning=learning_of(sweep, self._placer, journal, most_units=largest_share_units(sweep)),
            ),
            SweepLimits(
                sweep=sweep.name,
                goal=sweep.metric.goal,
                longest=self._longest,
                submission=self._submission,
                ends_at_s=None if budget_s is None else self._clocks.elapsed_s() + budget_s,
                scheduler="pbt" if sweep.method == "pbt" else sweep.early_terminate.type,
            ),
            journal,
            self._clocks,
        )


def _opening(
    sweep: Sweep, sampler: Sampler, rungs: tuple[int, ...], longest: int, inventory: Inventory, side_by_side: int
) -> str:
    compared = (
        f"compared at evaluations {', '.join(map(str, rungs))} of {longest}"
        if rungs
        else counted(longest, "evaluation")
    )
    where = inventory.describe() if inventory.cards else f"{sum(node.cpus for node in inventory.nodes):g} CPUs"
    return (
        f"sweep {sweep.name}: {counted(sampler.total, 'trial')} ({sweep.method}) on {where},"
        f" up to {side_by_side} side by side, {compared}"
    )


def sweep_record(
    sweep: Sweep, options: RunOptions, started_at: float, rungs: tuple[int, ...], inventory: Inventory
) -> SweepRecord:
    """Returns what the ledger says of a sweep."""
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
        cut_texts=list(options.cut_texts),
        language=sweep.tracking.language,
    )
