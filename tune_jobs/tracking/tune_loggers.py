"""TensorBoard and MLflow, through the logger callbacks of Ray Tune and Ray AIR.

Tune calls its loggers with its own trials, which are attempts here. These get one LoggedTrial for each trial of ours,
so that a trial has one log over attempts, pauses and drivers.
"""

import importlib.util
import logging
import os
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from tune_jobs.config.mlflow_server import MlflowServer
from tune_jobs.config.sections import Tracking
from tune_jobs.config.sweep import Sweep
from tune_jobs.records.ledger import SweepFolder
from tune_jobs.tracking.mirror import run_id
from tuning_common.errors import RequestError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from ray.tune.logger import LoggerCallback

TENSORBOARD_FOLDER = "tensorboard"  # below the sweep's results
_SWEEP_TAG = "tuning.sweep"


@dataclass(kw_only=True, eq=False)
class LoggedTrial:
    """What loggers of Tune read of a trial.

    Attributes:
        spec: Its present specification; see TrialSpec.
        local_path: Its folder of TensorBoard files.
    """

    spec: Mapping[str, object]
    local_path: str

    @property
    def name(self) -> str:
        """Of its experiment."""
        return str(self.spec["name"])

    @property
    def evaluated_params(self) -> dict[str, object]:
        """Values of the searched parameters: TensorBoard's hyperparameters."""
        sampled = cast("Mapping[str, object]", self.spec.get("sampled") or {})
        return {name: value if isinstance(value, (int, float, str)) else str(value) for name, value in sampled.items()}

    @property
    def config(self) -> dict[str, object]:
        """The complete run configuration: MLflow's parameters."""
        return dict(cast("Mapping[str, object]", self.spec.get("config") or self.evaluated_params))

    def init_local_path(self) -> None:
        """Makes the folder."""
        Path(self.local_path).mkdir(parents=True, exist_ok=True)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, kw_only=True)
class OpenLogger:
    """A logger that is ready.

    Attributes:
        callback: Takes trials and results.
        complete: Names of the trials that an earlier driver logged to their end.
        interrupt: Closes unfinished logs when the driver ends; takes the trials that have not ended.
    """

    callback: "LoggerCallback"
    complete: Collection[str] = ()
    interrupt: Callable[[Collection[LoggedTrial]], None]


Openers = Mapping[str, Callable[[], OpenLogger]]  # by the name for people


def check_installed(tracking: Tracking) -> None:
    """Checks that the packages of all wished loggers are installed.

    Raises:
        RequestError: When one is missing.
    """
    wished = {"tensorboard": ("tensorboardX", tracking.tensorboard), "mlflow": ("mlflow", bool(tracking.mlflow.uri))}
    for setting, (package, is_wished) in wished.items():
        if is_wished and importlib.util.find_spec(package) is None:
            raise RequestError(
                f"tracking.{setting} needs the package {package}, which is not installed here",
                [f"pip install {package}", f"or leave tracking.{setting} out of the sweep file"],
            )


def openers(sweep: Sweep, folder: SweepFolder, *, resume: bool) -> Openers:
    """Returns what opens the loggers that a sweep asks for."""
    wished = sweep.tracking
    found: dict[str, Callable[[], OpenLogger]] = {}
    if wished.tensorboard:
        found["TensorBoard"] = partial(_open_tensorboard, folder.path / TENSORBOARD_FOLDER)
    if wished.mlflow.uri:
        found["MLflow"] = partial(_open_mlflow, wished.mlflow, sweep, folder, resume=resume)
    return found


def _open_tensorboard(folder: Path) -> OpenLogger:
    """Opens TensorBoard's files; an earlier driver's are written anew from the journal, which repeats no value."""
    shutil.rmtree(folder, ignore_errors=True)
    from ray.tune.logger import TBXLoggerCallback

    callback = TBXLoggerCallback()

    def interrupt(trials: Collection[LoggedTrial]) -> None:
        for trial in trials:
            callback.log_trial_end(trial)

    return OpenLogger(callback=callback, interrupt=interrupt)


def _open_mlflow(server: MlflowServer, sweep: Sweep, folder: SweepFolder, *, resume: bool) -> OpenLogger:
    """Opens MLflow; runs that an earlier driver did not finish are removed, and written anew from the journal."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    from mlflow import MlflowClient
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    experiment = server.experiment or sweep.tracking.project
    tag = run_id(sweep.name, str(folder.path.resolve()))
    callback = MLflowLoggerCallback(
        tracking_uri=server.uri,
        experiment_name=experiment,
        tags={_SWEEP_TAG: tag, "sweep": sweep.name, "method": sweep.method},
        log_params_on_trial_end=sweep.method == "pbt",  # they change on the way, and MLflow's do not
    )
    callback.setup()
    client = MlflowClient(server.uri)
    complete = []
    for name, run, state in _runs(client, experiment, tag) if resume else ():
        if state == "FINISHED":
            complete.append(name)
        else:  # also a failed one, which may be tried again
            client.delete_run(run)

    def interrupt(trials: Collection[LoggedTrial]) -> None:
        for _, run, state in _runs(client, experiment, tag):
            if state == "RUNNING":
                client.set_terminated(run, status="KILLED")

    return OpenLogger(callback=callback, complete=complete, interrupt=interrupt)


def _runs(client: "MlflowClient", experiment: str, tag: str) -> list[tuple[str, str, str]]:
    """Returns name, id and state of each run of a sweep."""
    found = client.get_experiment_by_name(experiment)
    runs, page = [], None
    while found is not None:
        answer = client.search_runs([found.experiment_id], f"tags.`{_SWEEP_TAG}` = '{tag}'", page_token=page)
        runs += [(run.info.run_name, run.info.run_id, run.info.status) for run in answer]
        page = answer.token
        if not page:
            break
    return runs
