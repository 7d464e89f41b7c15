"""The one door to Ray Tune: Tune runs the trials, a Conductor of ours makes every decision.

No Ray type appears in any signature that leaves this module. What it relies on in Ray 2.60 beyond the documented
interface is held by contract tests: `on_trial_error` runs before a failed trial is queued again, so its resources may
change there, and the error lies in the local file `pickled_error_file` by then; a trial without a process has no
failure of its own.
"""

import logging
import os
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, cast

import ray
from ray import cloudpickle, tune
from ray.tune.execution.tune_controller import TrialRunnerWrapper, TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from cluster.machines.hardware import GPU_MODEL_LABEL
from common.strict import from_mapping
from tune_jobs.records.trial_spec import LATER, ORDER_KEY, Bundle


class Conductor(Protocol):
    """Decides everything about a sweep; called by Tune's thread only."""

    def next_order(self, key: str) -> Mapping[str, object] | Literal["later"] | None:
        """Returns the order (`name`, `bundle` and more) of the trial that Tune calls `key`.

        LATER where none may start now; None when none is left.
        """
        ...

    def started(self, order: Mapping[str, object], bundle: Bundle) -> None:
        """Hears that a trial has its place and starts, for the first time or again."""
        ...

    def reported(self, order: Mapping[str, object], result: Mapping[str, object]) -> bool:
        """Takes in one evaluation and returns whether the trial should end here."""
        ...

    def saved(self, order: Mapping[str, object], folder: Path) -> None:
        """Hears that a checkpoint is complete in the sweep's storage."""
        ...

    def retried(self, order: Mapping[str, object], error: BaseException | None, bundle: Bundle) -> Bundle | None:
        """Hears that an attempt failed and would be made again; returns what the next one occupies, None for none."""
        ...

    def ended(self, key: str, order: Mapping[str, object], error: BaseException | None) -> None:
        """Hears that a trial is over."""
        ...

    def tick(self) -> Collection[int]:
        """Is called several times a second; returns trials whose process hangs and should be ended."""
        ...


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How Tune runs a set of trials.

    Attributes:
        folder: Where Tune keeps its state and the checkpoints; shared by all nodes.
        name: Folder below it for this run of the driver.
        attempts: How often one trial may fail and be started again.
        reuse_actors: Whether a process serves one trial after another: saves ten seconds of imports each.
        max_pending: Trials that were sent to Ray and have not started yet; further ones wait with the conductor.
        idle_s: So long a process may wait for its next trial, holding its share, when none can start.
        max_concurrent: Trials under way at once; None for as many as find a place.
    """

    folder: Path
    name: str
    attempts: int
    reuse_actors: bool = True
    max_pending: int = 4
    idle_s: float = 60.0
    max_concurrent: int | None = None


def fit(trainable: Callable[[dict[str, object]], None], conductor: Conductor, settings: FitSettings) -> None:
    """Runs trials until the conductor has no more, or until SIGINT or SIGUSR1 asks for a clean stop.

    Args:
        trainable: Runs in the trial's process with {"order": ...}; must be importable there.
        conductor: Makes the decisions.
        settings: See there.
    """
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # our ledger replaces its csv, json and TensorBoard files
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"  # the trial checks, and says more
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(settings.max_pending)
    os.environ["TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S"] = "0"
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # with it, Tune prints its own tables even at verbose=0
    os.environ["TUNE_PRINT_ALL_TRIAL_ERRORS"] = "0"  # the conductor says which trial failed and why
    for noisy in ("ray.tune", "ray.train"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    idle = _Idle(settings.idle_s)
    tuner = tune.Tuner(
        tune.with_resources(trainable, _resources),
        tune_config=tune.TuneConfig(
            search_alg=_OrderSearcher(conductor, idle, settings.max_concurrent),
            scheduler=_ConductedScheduler(conductor, idle),
            num_samples=-1,
            reuse_actors=settings.reuse_actors,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_folder,
        ),
        run_config=tune.RunConfig(
            name=settings.name,
            storage_path=str(settings.folder),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=settings.attempts),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=2),
            callbacks=[_EventCallback(conductor)],
        ),
    )
    with _late_failures_unheard():
        tuner.fit()


@contextmanager
def _late_failures_unheard() -> Iterator[None]:
    """Keeps what a lost process says last from ending a trial that waits to start again.

    A process that is lost with two tasks under way, a step and the saving of a checkpoint, fails both. After the first
    failure Tune queues the trial again; the second finds it without a process, and Tune takes it for the trial's end,
    however many attempts are left (TuneController._process_trial_failure, Ray 2.60). Where the next process is on its
    way already, the failure may be its own, and Tune decides.
    """
    heard = TuneController._process_trial_failure

    def of_a_process(self: TuneController, trial: Trial, exception: Exception) -> None:
        if trial.status != Trial.PENDING or trial in self._trial_to_actor:
            heard(self, trial, exception)

    TuneController._process_trial_failure = of_a_process
    try:
        yield
    finally:
        TuneController._process_trial_failure = heard


def report(metrics: Mapping[str, object], checkpoint: Path | None) -> None:
    """Reports one evaluation from inside a trial; raises SystemExit when the trial should end here."""
    saved = tune.Checkpoint.from_directory(str(checkpoint)) if checkpoint is not None else None
    tune.report(dict(metrics), checkpoint=saved)


def last_checkpoint() -> Path | None:
    """Returns the folder of the checkpoint that this attempt should go on from, None on a first attempt."""
    checkpoint = tune.get_checkpoint()
    return None if checkpoint is None else Path(checkpoint.path)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a trial runs.

    Attributes:
        node: Address of the host.
        raylet: Ray's id of the node; one host may carry several.
        card: Number of its card there; None without one. Of a trial on several cards, that of its first process.
        gpu_model: The raylet's label; None without one.
        gpus: The share that Ray granted; of a trial on several cards, what its first process got.
    """

    node: str
    raylet: str
    card: str | None
    gpu_model: str | None
    gpus: float


def present_place() -> Place:
    """Tells, from inside a trial, where it runs and what it was granted."""
    context = ray.get_runtime_context()
    cards = [str(card) for card in ray.get_gpu_ids()]
    return Place(
        node=ray.util.get_node_ip_address(),
        raylet=str(context.get_node_id()),
        gpu_model=context.get_node_labels().get(GPU_MODEL_LABEL),
        card=",".join(cards) or None,
        gpus=float(context.get_assigned_resources().get("GPU", 0.0)),
    )


class _Detached:
    """Tune pickles searcher, scheduler and callbacks for its own restore, which we do not use: a resumed sweep is a new
    Tune run over the trials that our ledger shows unfinished. So the pickle holds nothing."""

    def __init__(self, conductor: Conductor) -> None:
        super().__init__()
        self.conductor = conductor

    def __getstate__(self) -> dict[str, object]:
        return {}


class _Idle:
    """Since when no trial can start."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._since_s: float | None = None

    def heard(self, *, could_start: bool) -> None:
        """Whether the conductor had a trial that can start now."""
        now_s = time.monotonic()
        self._since_s = None if could_start else self._since_s or now_s

    @property
    def is_long(self) -> bool:
        """Whether processes that wait for a trial should go."""
        return self._since_s is not None and time.monotonic() - self._since_s >= self._limit_s


class _OrderSearcher(_Detached, Searcher):  # type: ignore[misc]  # ray publishes no types
    def __init__(self, conductor: Conductor, idle: _Idle, max_concurrent: int | None) -> None:
        super().__init__(conductor)
        self.idle = idle
        self.max_concurrent = max_concurrent
        self.under_way: set[str] = set()
        self.interrupt_handler: object = None

    def suggest(self, trial_id: str) -> dict[str, object] | str | None:
        if self.max_concurrent is not None and len(self.under_way) >= self.max_concurrent:
            return None  # not now
        order = self.conductor.next_order(trial_id)
        self.idle.heard(could_start=order != LATER)
        if order is None or (order == LATER and self._is_interrupted()):
            return str(Searcher.FINISHED)
        if order == LATER:
            return None
        self.under_way.add(trial_id)
        return {ORDER_KEY: dict(order)}

    def _is_interrupted(self) -> bool:
        """Whether somebody asked Tune to stop.

        With no trial under way, Tune asks for one for up to ten minutes before it looks whether it was interrupted
        (TuneController._update_trial_queue, Ray 2.60). What it does look at is whether the search is finished. Its
        handler of SIGINT puts the earlier one back when it is called.
        """
        handler = signal.getsignal(signal.SIGINT)
        self.interrupt_handler = self.interrupt_handler or handler
        return handler is not self.interrupt_handler

    def on_trial_complete(self, trial_id: str, result: object = None, error: bool = False) -> None:
        self.under_way.discard(trial_id)  # its outcome goes to the conductor by the callback, with order and error

    def save(self, checkpoint_path: str) -> None:
        """Nothing: see _Detached."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see _Detached."""


class _ConductedScheduler(_Detached, FIFOScheduler):  # type: ignore[misc]  # ray publishes no types
    def __init__(self, conductor: Conductor, idle: _Idle) -> None:
        super().__init__(conductor)
        self.idle = idle
        self.unwanted: dict[str, TuneController] = {}

    def choose_trial_to_run(self, tune_controller: TrialRunnerWrapper) -> Trial | None:
        """Is called in every step. Tune would keep one idle process, with its share, for as long as trials may come."""
        if self.idle.is_long:
            tune_controller._tune_controller._cleanup_cached_actors(force_all=True)
        return super().choose_trial_to_run(tune_controller)

    def on_trial_add(self, tune_controller: object, trial: Trial) -> None:
        """Is called for a new trial, and at the end of queueing a failed one again: then it can be stopped."""
        controller = self.unwanted.pop(trial.trial_id, None)
        if controller is not None:
            controller.stop_trial(trial)

    def on_trial_result(self, tune_controller: object, trial: Trial, result: dict[str, object]) -> str:
        if result.get("done"):  # Tune repeats the last result when a trial returns
            return str(FIFOScheduler.CONTINUE)
        stop = self.conductor.reported(_order(trial.config), result)
        return str(FIFOScheduler.STOP if stop else FIFOScheduler.CONTINUE)

    def on_trial_error(self, tune_controller: TuneController, trial: Trial) -> None:
        if trial.status != Trial.ERROR:  # the last failure: the callback's on_trial_error follows
            return
        present = _bundle(trial.placement_group_factory)
        wanted = self.conductor.retried(_order(trial.config), _error(trial), present)
        if wanted is None:  # Tune has decided on another attempt already, and will queue the trial first
            self.unwanted[trial.trial_id] = tune_controller
            return
        if wanted != present:
            trial.update_resources(_factory(wanted))


class _EventCallback(_Detached, tune.Callback):  # type: ignore[misc]  # ray publishes no types
    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        self.conductor.started(_order(trial.config), _bundle(trial.placement_group_factory))

    def on_checkpoint(
        self, iteration: int, trials: list[Trial], trial: Trial, checkpoint: tune.Checkpoint, **info: object
    ) -> None:
        self.conductor.saved(_order(trial.config), Path(checkpoint.path))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        self.conductor.ended(trial.trial_id, _order(trial.config), None)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        self.conductor.ended(trial.trial_id, _order(trial.config), _error(trial) or RuntimeError("no reason given"))

    def on_step_end(self, iteration: int, trials: list[Trial], **info: object) -> None:
        hanging = self.conductor.tick()
        for trial in trials:
            actor = trial.temporary_state.ray_actor
            if trial.status == Trial.RUNNING and actor is not None and _order(trial.config)["number"] in hanging:
                ray.kill(actor)


def _order(config: dict[str, object]) -> Mapping[str, object]:
    order = config[ORDER_KEY]
    assert isinstance(order, dict)
    return order


def _resources(config: dict[str, object]) -> tune.PlacementGroupFactory:
    return _factory(from_mapping(Bundle, cast("Mapping[str, object]", _order(config)["bundle"])))


def _trial_name(trial: Trial) -> str:
    return str(_order(trial.config)["name"])


def _trial_folder(trial: Trial) -> str:
    """A trial that was paused is another one for Tune, and its checkpoints are counted anew: never in one folder."""
    return f"{_trial_name(trial)}_{trial.trial_id}"


def _factory(bundle: Bundle) -> tune.PlacementGroupFactory:
    """One bundle for each process of the trial, all on one node unless they may be spread."""
    ranks = bundle.ranks
    resources = {"CPU": bundle.cpus / ranks} | ({"GPU": bundle.gpus / ranks} if bundle.gpus else {})
    selector = {"bundle_label_selector": [dict(bundle.labels)] * ranks} if bundle.labels else {}
    strategy = "PACK" if bundle.spread or ranks == 1 else "STRICT_PACK"
    return tune.PlacementGroupFactory([dict(resources) for _ in range(ranks)], strategy=strategy, **selector)


def _bundle(factory: tune.PlacementGroupFactory) -> Bundle:
    """Reads a factory back, with its labels: update_resources would drop them unless they are passed again."""
    bundles = factory.bundles
    labels = (factory._kwargs.get("bundle_label_selector") or [{}])[0]
    return Bundle(
        cpus=round(sum(one.get("CPU", 0.0) for one in bundles), 4),
        gpus=round(sum(one.get("GPU", 0.0) for one in bundles), 4),
        labels=labels,
        spread=len(bundles) > 1 and factory.strategy == "PACK",
    )


def _error(trial: Trial) -> BaseException | None:
    """Loads what ended an attempt. From the local file: the copy in the storage may come later (facts of Ray 2.60)."""
    path = trial.pickled_error_file
    if not path or not Path(path).exists():
        return None
    error = cloudpickle.loads(Path(path).read_bytes())
    return error if isinstance(error, BaseException) else None
