"""Runs attempts with Ray Tune. Each attempt of a trial is one Tune trial; `AttemptHost` decides about them.

Two thin wrappers in Ray's own pattern: a searcher that hands out what the broker has granted, and a scheduler that asks
the host at every report. Tune starts processes, keeps them for the next attempt of the same resources on the same node,
stores checkpoints and notices dead processes. It retries nothing (`max_failures=0`): a retry may need more resources.
"""

import json
import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ray import tune
from ray.tune.execution.tune_controller import TrialRunnerWrapper
from ray.tune.experiment import Trial
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher
from ray.tune.search.search_generator import SearchGenerator

from tune_jobs.records.trial_spec import REPORT_KEY, TrialSpec

NODE_LABEL = "ray.io/node-id"  # Ray's own: every node has it


class AttemptHost(Protocol):
    """Decides about attempts; called by the thread that runs the Tuner only."""

    def has_launch(self) -> bool:
        """Returns whether an attempt can be launched now."""
        ...

    def next_launch(self) -> TrialSpec | None:
        """Returns the attempt to launch next, None where there is none now."""
        ...

    def started(self, number: int) -> None:
        """Takes in that the process of an attempt runs."""
        ...

    def reported(self, number: int, result: Mapping[str, object]) -> bool:
        """Takes in a report and returns whether the attempt should end here."""
        ...

    def saved(self, number: int, folder: Path) -> None:
        """Takes in that a checkpoint is complete in the sweep's storage."""
        ...

    def ended(self, number: int, error: str | None) -> None:
        """Takes in that an attempt has ended, with the last line of its error where it failed."""
        ...

    def tick(self) -> None:
        """Is called several times a second."""
        ...

    def take_cancelled(self) -> Collection[int]:
        """Returns trials whose attempts were launched and should end before Ray starts them; each once."""
        ...

    def must_end(self) -> bool:
        """Returns whether every attempt should end at once."""
        ...


@dataclass(frozen=True, kw_only=True)
class TunerSettings:
    """How Tune runs attempts.

    Attributes:
        folder: Where checkpoints are kept; shared by all nodes.
        name: Folder below it for this run of the Tuner.
        callbacks: Further callbacks, called after the host.
        actor_name: What Ray's dashboard and `ray list actors --detail` show for the trials' processes (`repr_name`).
            One name for all: a process that is reused serves several trials, and Ray asks for the name once.
    """

    folder: Path
    name: str
    callbacks: Sequence[tune.Callback] = ()
    actor_name: str = "trial"


def run_tuner(trainable: Callable[[dict[str, object]], None], host: AttemptHost, settings: TunerSettings) -> None:
    """Runs attempts until none runs and the host has none to launch.

    Args:
        trainable: Runs in the trial's process with TrialSpec.to_tune; must be importable there.
        host: See there.
        settings: See there.

    Raises:
        Exception: When Tune's controller fails; its attempts have ended then.
    """
    configure_tune()
    tune.run(  # and not Tuner.fit, which unpickles each failed trial's error.pkl out of the sweep's storage
        tune.with_resources(_named(trainable, settings.actor_name), _resources),
        name=settings.name,
        storage_path=str(settings.folder),
        search_alg=_LaunchSearch(_LaunchSearcher(host)),
        scheduler=_ReportScheduler(host),
        num_samples=-1,
        reuse_actors=True,  # saves seconds of imports each
        trial_name_creator=_trial_name,
        trial_dirname_creator=_trial_folder,
        verbose=0,
        stop=_EndAll(host),
        max_failures=0,
        raise_on_failed_trial=False,
        checkpoint_config=tune.CheckpointConfig(num_to_keep=2),
        callbacks=[_HostCallback(host), SilentProgress(), *settings.callbacks],
    )


class SilentProgress(TrialProgressCallback):  # type: ignore[misc]  # Ray publishes no types
    """Takes the role of Tune's own callback, which at verbose=0 still prints a trial that ends without a report."""

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, object], **info: object
    ) -> None:
        """Prints nothing."""

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        """Prints nothing."""

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        """Prints nothing."""


def _named(trainable: Callable[[dict[str, object]], None], name: str) -> Callable[[dict[str, object]], None]:
    def attempt(config: dict[str, object]) -> None:
        trainable(config)

    attempt.__name__ = name  # Tune shows it as the actor's
    return attempt


def configure_tune() -> None:
    """Sets what Tune reads from the environment."""
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # our ledger replaces its csv, json and TensorBoard files
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"  # the trial checks, with a better message
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # the driver has its own: trials save first
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = "64"  # sent to Ray and not started yet
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = "3600"  # Tune's own state is not used: the journal is
    os.environ["TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S"] = "0"
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # with it, Tune prints its own tables even at verbose=0
    os.environ["TUNE_PRINT_ALL_TRIAL_ERRORS"] = "0"  # the driver shows which trial failed and why
    # Ray imports an installed MLflow to count its loggers; MLflow would write below the home folder and send its usage.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    for noisy in ("ray.tune", "ray.train"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)


class _Unpickled:
    """Base of what Tune would pickle for its own restore, which is not used: the pickle holds nothing."""

    def __init__(self, host: AttemptHost) -> None:
        super().__init__()
        self.host = host

    def __getstate__(self) -> dict[str, object]:
        return {}


class _LaunchSearcher(_Unpickled, Searcher):  # type: ignore[misc]  # ray publishes no types
    def suggest(self, trial_id: str) -> dict[str, object] | None:
        spec = self.host.next_launch()
        return None if spec is None else dict(spec.to_tune())

    def on_trial_complete(self, trial_id: str, result: object = None, error: bool = False) -> None:
        """Does nothing: the callback passes the end of an attempt to the host."""

    def save(self, checkpoint_path: str) -> None:
        """Does nothing; see _Unpickled."""

    def restore(self, checkpoint_path: str) -> None:
        """Does nothing; see _Unpickled."""


class _LaunchSearch(SearchGenerator):  # type: ignore[misc]
    """Is finished whenever nothing can be launched now: then Tune keeps no idle process and does not wait for one.

    It may be unfinished again in the next step. Tune ends when it is finished and no attempt is left.
    """

    def is_finished(self) -> bool:
        return not self.searcher.host.has_launch()


class _ReportScheduler(_Unpickled, FIFOScheduler):  # type: ignore[misc]
    def on_trial_result(self, tune_controller: object, trial: Trial, result: dict[str, object]) -> str:
        if result.get("done"):  # Tune repeats the last result when a function returns
            return str(FIFOScheduler.CONTINUE)
        ends = self.host.reported(_number(trial), {**result, **json.loads(str(result[REPORT_KEY]))})
        return str(FIFOScheduler.STOP if ends else FIFOScheduler.CONTINUE)

    def choose_trial_to_run(self, tune_controller: TrialRunnerWrapper) -> Trial | None:
        """Is called in every step of Tune; ends launches that were cancelled."""
        cancelled = self.host.take_cancelled()
        if cancelled:
            for trial in tune_controller.get_trials():
                if trial.status == Trial.PENDING and _number(trial) in cancelled:
                    tune_controller.stop_trial(trial)
        return super().choose_trial_to_run(tune_controller)


class _EndAll(tune.Stopper):  # type: ignore[misc]
    def __init__(self, host: AttemptHost) -> None:
        self._host = host

    def __call__(self, trial_id: str, result: dict[str, object]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._host.must_end()

    def __getstate__(self) -> dict[str, object]:
        return {}


class _HostCallback(_Unpickled, tune.Callback):  # type: ignore[misc]
    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        self.host.started(_number(trial))

    def on_checkpoint(
        self, iteration: int, trials: list[Trial], trial: Trial, checkpoint: tune.Checkpoint, **info: object
    ) -> None:
        self.host.saved(_number(trial), Path(checkpoint.path))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        self.host.ended(_number(trial), None)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        self.host.ended(_number(trial), _last_line(trial))

    def on_step_end(self, iteration: int, trials: list[Trial], **info: object) -> None:
        self.host.tick()


def _last_line(trial: Trial) -> str:
    """Returns the last line of an attempt's error, from Tune's text file; nothing is unpickled."""
    path = trial.error_file
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace") if path else ""
    except OSError:
        text = ""
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    return (lines[-1] if lines else "its process died")[:500]


def _number(trial: Trial) -> int:
    return int(trial.config["number"])


def _trial_name(trial: Trial) -> str:
    return str(trial.config["name"])


def _trial_folder(trial: Trial) -> str:
    """Returns a folder for each attempt, as Tune counts the checkpoints of each anew."""
    return f"{_trial_name(trial)}_{trial.trial_id}"


def _resources(config: dict[str, object]) -> tune.PlacementGroupFactory:
    """Returns one bundle for each process of the trial, each on the node that the broker chose."""
    bundle = TrialSpec.from_tune(config).bundle
    ranks = bundle.ranks
    resources = {"CPU": bundle.cpus / ranks} | ({"GPU": bundle.gpus / ranks} if bundle.gpus else {})
    selector = {"bundle_label_selector": [{NODE_LABEL: node} for node in bundle.nodes]} if bundle.nodes else {}
    strategy = "PACK" if bundle.spread or ranks == 1 else "STRICT_PACK"
    return tune.PlacementGroupFactory([dict(resources) for _ in range(ranks)], strategy=strategy, **selector)
