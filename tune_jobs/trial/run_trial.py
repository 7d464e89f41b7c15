"""One attempt of a trial in its own process: trains, reports, keeps its steps, and recovers from an out-of-memory.

Imports nothing heavy at the top: the driver imports this module too, and reused processes pay for torch once.
"""

import errno
import gc
import importlib.metadata
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

from cluster.guard import environment
from cluster.machines.metrics import Meters
from cluster.machines.ray_folder import restore_umask
from dialsum.config import RunConfig
from dialsum.reporter import Reporter
from tune_jobs.records.ledger import ExperimentFolder, SweepFolder
from tune_jobs.records.step_log import FILE_NAME as STEPS_NAME
from tune_jobs.records.step_log import StepLog
from tune_jobs.records.trial_spec import (
    FAILURE_KEY,
    FAILURE_MESSAGE_KEY,
    STARTED_KEY,
    WAITING_KEY,
    FailureKind,
    RunShape,
    TrialSpec,
)
from tune_jobs.records.trial_state import INHERITED_FILE, drop_checksums, evaluations_of, losses_of, renew_checksums
from tune_jobs.trial.checkpoints import whole_checkpoint
from tune_jobs.trial.failures import classify, smaller
from tune_jobs.trial.hold import DeviceOf, card_of, hold
from tune_jobs.trial.machine_load import MachineLoad
from tune_jobs.trial.meter import TrialMeter
from tune_jobs.trial.orphan import end_with_raylet
from tune_jobs.trial.reporter import Keep, Send, TrialReporter
from tune_jobs.trial.storage import TrialStorage
from tuning_common.errors import ProductError, WorkError
from tuning_common.files import append_jsonl
from tuning_common.storage import StorageGoneError, storage_trouble

logger = logging.getLogger(__name__)
ATTEMPTS_FILE = "attempts.jsonl"
MOST_VANISHED = 3  # times that a trial's own folder may be missing before that is no storage but a fault of ours
_PROCESS_IS_WELL: tuple[FailureKind, ...] = ("diverged", "wrong_request", "work_failed")  # it can serve another trial

Train = Callable[..., object]  # dialsum.trainer.train


def run_trial(config: dict[str, object], device_of: DeviceOf = card_of, train: Train | None = None) -> None:
    """The function that Tune runs in the trial's process.

    Args:
        config: See TrialSpec.to_tune.
        device_of: See hold.hold.
        train: What the trial does; what its specification says where None.
    """
    spec = TrialSpec.from_tune(config)
    restore_umask()
    end_with_raylet()
    os.environ.update(environment(os.environ))  # before torch starts CUDA
    if spec.simulated:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray names the simulated card 0, which may be a real one here
    # Ray reads this when the next trial takes over the process: the last one may still be letting go of its model.
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = "60"
    from tune_jobs.trial.tune_session import last_checkpoint, location, report

    here = location()
    if spec.bundle.ranks == 1:
        spec = replace(spec, bundle=replace(spec.bundle, gpus=here.gpus))
    known = {
        "trial/node": here.address,
        "trial/raylet": here.node,
        "trial/card": here.card,
        "trial/gpu_model": here.gpu_model or spec.gpu_model or None,
        "trial/pid": os.getpid(),
        "trial/torch": importlib.metadata.version("torch"),
    }
    where: dict[str, object] = {name: value for name, value in known.items() if value is not None}

    def send(metrics: Mapping[str, object], checkpoint: Path | None) -> None:
        report({**metrics, **where}, checkpoint)

    send({STARTED_KEY: True}, None)
    candidates = [Path(path) for path in (spec.resume_from, spec.resume_before) if path]
    storage = TrialStorage(folder=Path(spec.folder), sweep_folder=Path(spec.sweep_folder), watched=True)
    if candidates and not storage.wait_for_journal(lambda reason: send({WAITING_KEY: reason}, None)):
        _send_failure("error", StorageGoneError(storage.sweep_folder), send)
        return
    start = whole_checkpoint(candidates, send)
    _take_snapshot(spec, goes_on=start is not None)
    keep = StepLog(Path(spec.folder) / STEPS_NAME, MachineLoad())
    meter = TrialMeter(Meters(), spec, here.address, here.card or "")
    try:
        train = train or _work(spec, where, send, device_of)
        if not gc.get_freeze_count():  # each run begins with collections, which then pass over the libraries
            gc.collect()
            gc.freeze()
        attempt(spec, train, send, keep, start, meter, last_checkpoint, device_of)
    finally:
        meter.close()


def _work(spec: TrialSpec, where: dict[str, object], send: Send, device_of: DeviceOf) -> Train:
    """What the trial does: it trains, on one card or several, or writes summaries with a model trained already."""
    if spec.bundle.ranks > 1:
        from tune_jobs.trial.ranks import RankTraining

        return RankTraining(spec, where, lambda text: send({WAITING_KEY: text}, None), device_of)
    if spec.trained is None:
        from dialsum.trainer import train

        return train
    trained = Path(spec.trained)

    def generate(
        config: RunConfig, folder: Path, *, reporter: Reporter, cache_dir: Path, **training: object
    ) -> dict[str, float]:
        from dialsum.rescore import rescore

        return rescore(config, folder, trained=trained, reporter=reporter, cache_dir=cache_dir)

    return generate


def _take_snapshot(spec: TrialSpec, *, goes_on: bool) -> None:
    """Keeps what is needed to run the trial again; a trial is worth more than its snapshot."""
    from tune_jobs.records.snapshot import take_snapshot

    try:
        take_snapshot(
            ExperimentFolder(Path(spec.folder)).snapshot,
            _config(spec, spec.shape).to_dict(),
            sweep_snapshot=SweepFolder(Path(spec.sweep_folder)).snapshot,
            sweep=spec.sweep,
            goes_on=goes_on,
        )
    except (OSError, ValueError, ProductError) as error:
        logger.warning("no snapshot of %s was taken (%s: %s)", spec.name, type(error).__name__, error)


def attempt(
    spec: TrialSpec,
    train: Train,
    send: Send,
    keep: Keep,
    start: Path | None,
    meter: TrialMeter | None = None,
    persisted: Callable[[], Path | None] = lambda: None,
    device_of: DeviceOf = card_of,
    storage: TrialStorage | None = None,
) -> None:
    """Trains until the end, making the trial smaller after each out-of-memory and waiting for a storage in trouble.

    Args:
        spec: The trial.
        train: dialsum.trainer.train.
        send: Sends reports to the driver.
        keep: Takes the numbers of each step.
        start: Checkpoint to continue from.
        meter: Shows the trial's numbers to whoever watches the cluster.
        persisted: Returns the last checkpoint that is whole in the sweep's storage.
        device_of: See hold.hold.
        storage: Where it writes; found by the specification where None.

    Raises:
        SystemExit: When the driver stops the attempt.
        Exception: Of a failure that may have damaged the process; it was sent to the driver before.
    """
    folder = Path(spec.folder)
    storage = storage or TrialStorage.of(folder, Path(spec.sweep_folder))
    if start is not None and (start / INHERITED_FILE).exists():
        from dialsum.retune import RETUNED, retune_checkpoint

        drop_checksums(start, RETUNED)
        retune_checkpoint(start, RunConfig.from_dict(spec.config))
        renew_checksums(start, RETUNED)
    shape: RunShape | None = spec.shape
    vanished = 0

    def waiting(reason: str) -> None:
        send({WAITING_KEY: reason}, None)

    while shape is not None:
        try:
            # Of several processes each holds itself.
            guard = None if shape.ranks > 1 else hold(spec, shape, waiting, device_of)
        except WorkError as no_room:  # somebody outside of Ray holds the card
            _note_attempt(folder, spec, shape, "work_failed", no_room)
            _send_failure("work_failed", no_room, send)
            return
        reporter = TrialReporter(
            spec,
            send,
            keep,
            guard=guard,
            evaluations=evaluations_of(start),
            losses=losses_of(start),
            meter=meter,
            storage=storage,
        )
        reporter.shape = shape
        error = _train_once(spec, train, reporter, start)
        if error is None:
            return
        trouble = storage_trouble(error)
        if trouble is None and vanished < MOST_VANISHED and (trouble := storage.vanished(error)):
            vanished += 1
        if trouble:
            place = storage.where(error)
            del error, reporter, guard  # the traceback holds the model's tensors
            _release_memory()
            last = persisted() or start
            if not storage.wait(trouble, place, last, waiting):
                _send_failure("error", OSError(errno.ESTALE, f"{trouble}, for too long", str(place)), send)
                return
            start = whole_checkpoint([path for path in dict.fromkeys((last, start)) if path is not None], send)
            continue
        kind = classify(error)
        start = reporter.checkpoint or start
        if kind != "out_of_memory":
            _note_attempt(folder, spec, shape, kind, error)
            _send_failure(kind, error, send)
            return
        if meter is not None:
            meter.out_of_memory()
        next_shape = smaller(shape)
        _note_attempt(folder, spec, shape, kind, error, next_shape)
        if next_shape is None:
            _send_failure(kind, error, send)
            return
        logger.warning("out of memory with %s; going on with %s", shape.describe(), next_shape.describe())
        del error, reporter, guard  # the traceback holds the model's tensors
        _release_memory()
        shape = next_shape


def _train_once(spec: TrialSpec, train: Train, reporter: TrialReporter, start: Path | None) -> Exception | None:
    config = _config(spec, reporter.shape)
    listener: Reporter = reporter
    try:
        train(
            config,
            Path(spec.folder),
            reporter=listener,
            resume_from=start,
            cache_dir=Path(spec.cache_dir),
            limit_bytes=reporter.limit_bytes,
        )
    except Exception as error:
        return error
    return None


def _config(spec: TrialSpec, shape: RunShape) -> RunConfig:
    return RunConfig.from_dict(spec.config).with_changes(shape.changes())


def _send_failure(kind: FailureKind, error: Exception, send: Send) -> None:
    """Sends the failure to the driver, which decides whether there is another attempt.

    Raises:
        Exception: The error again, where the process may have been damaged by it, so that Tune ends the process.
    """
    send({FAILURE_KEY: kind, FAILURE_MESSAGE_KEY: f"{type(error).__name__}: {error}"}, None)
    if kind not in _PROCESS_IS_WELL:
        raise error


def _note_attempt(
    folder: Path,
    spec: TrialSpec,
    shape: RunShape,
    kind: FailureKind,
    error: Exception,
    next_shape: RunShape | None = None,
) -> None:
    append_jsonl(
        folder / ATTEMPTS_FILE,
        {
            "at": time.time(),
            "kind": kind,
            "message": f"{type(error).__name__}: {error}",
            "bundle": asdict(spec.bundle),
            "shape": asdict(shape),
            "next_shape": asdict(next_shape) if next_shape else None,
        },
    )


def _release_memory() -> None:
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
