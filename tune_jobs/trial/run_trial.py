"""One trial in its own process: trains, reports, keeps its steps, and recovers from an out-of-memory by itself.

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
from typing import cast

from cluster.guard import environment
from cluster.machines.metrics import Meters
from common.errors import ProductError, WorkError
from common.files import append_jsonl, read_jsonl
from common.storage import storage_trouble
from dialsum.config import RunConfig
from dialsum.reporter import Reporter
from tune_jobs.records.ledger import ExperimentFolder, SweepFolder
from tune_jobs.records.step_log import FILE_NAME as STEPS_NAME
from tune_jobs.records.step_log import StepLog
from tune_jobs.records.trial_spec import (
    FAILURE_KEY,
    FAILURE_MESSAGE_KEY,
    ORDER_KEY,
    WAITS_KEY,
    TrialOrder,
)
from tune_jobs.trial.hold import hold
from tune_jobs.trial.machine_load import MachineLoad
from tune_jobs.trial.meter import TrialMeter
from tune_jobs.trial.recovery import FailureKind, RunShape, classify, smaller
from tune_jobs.trial.reporter import Keep, Send, TrialReporter
from tune_jobs.trial.state_file import INHERITED_FILE, evaluations_of, losses_of
from tune_jobs.trial.storage import TrialStorage

logger = logging.getLogger(__name__)
ATTEMPTS_FILE = "attempts.jsonl"
MOST_VANISHED = 3  # times that a trial's own folder may be missing before that is no storage but a fault of ours


Train = Callable[..., object]  # dialsum.trainer.train


def run_trial(config: dict[str, object]) -> None:
    """The function that Tune runs in the trial's process, with {"order": ...}."""
    order = TrialOrder.from_dict(cast("Mapping[str, object]", config[ORDER_KEY]))
    os.environ.update(environment(os.environ))  # before torch starts CUDA
    if order.simulated:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray names the logical card 0, which may be a real one here
    # Ray reads this when the next trial takes over the process: the last one may still be letting go of its model.
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = "60"
    from tune_jobs.driver.tuner import last_checkpoint, present_place, report

    start = last_checkpoint() or (Path(order.resume_from) if order.resume_from else None)
    place = present_place()
    if order.bundle.ranks == 1:
        order = replace(order, bundle=replace(order.bundle, gpus=place.gpus))  # after a failure it may hold more
    known = {
        "trial/node": place.node,
        "trial/raylet": place.raylet,
        "trial/card": place.card,
        "trial/gpu_model": place.gpu_model,
        "trial/torch": importlib.metadata.version("torch"),
    }
    where = {name: value for name, value in known.items() if value is not None}

    def send(metrics: Mapping[str, object], checkpoint: Path | None) -> None:
        report({**metrics, **where}, checkpoint)

    _take_snapshot(order, goes_on=start is not None)
    keep = StepLog(Path(order.folder) / STEPS_NAME, MachineLoad())
    meter = TrialMeter(Meters(), order, place.node, place.card or "")
    try:
        attempt(order, _work(order, where, send), send, keep, start, meter, last_checkpoint)
    finally:
        meter.close()


def _work(order: TrialOrder, where: dict[str, str], send: Send) -> Train:
    """What the trial does: it trains, on one card or several, or writes summaries with a model trained already."""
    if order.bundle.ranks > 1:
        from tune_jobs.trial.ranks import RankTraining

        return RankTraining(order, where, lambda text: send({WAITS_KEY: text}, None))
    if order.trained is None:
        from dialsum.trainer import train

        return train
    trained = Path(order.trained)

    def generate(
        config: RunConfig, folder: Path, *, reporter: Reporter, cache_dir: Path, **training: object
    ) -> dict[str, float]:
        from dialsum.rescore import rescore

        return rescore(config, folder, trained=trained, reporter=reporter, cache_dir=cache_dir)

    return generate


def _take_snapshot(order: TrialOrder, *, goes_on: bool) -> None:
    """Keeps what is needed to run the trial again; a trial is worth more than its snapshot."""
    from tune_jobs.records.snapshot import take_snapshot

    try:
        take_snapshot(
            ExperimentFolder(Path(order.folder)).snapshot,
            _config(order, order.shape).to_dict(),
            sweep_snapshot=SweepFolder(Path(order.sweep_folder)).snapshot,
            sweep=order.sweep,
            goes_on=goes_on,
        )
    except (OSError, ValueError, ProductError) as error:
        logger.warning("no snapshot of %s was taken (%s: %s)", order.name, type(error).__name__, error)


def attempt(
    order: TrialOrder,
    train: Train,
    send: Send,
    keep: Keep,
    start: Path | None,
    meter: TrialMeter | None = None,
    persisted: Callable[[], Path | None] = lambda: None,
) -> None:
    """Trains until the end, making the trial smaller after each out-of-memory and waiting for a storage in trouble.

    Args:
        order: The trial.
        train: dialsum.trainer.train.
        send: Sends reports to the driver.
        keep: Takes the numbers of each step.
        start: Checkpoint to go on from.
        meter: Shows the trial's numbers to whoever watches the cluster.
        persisted: Returns the last checkpoint that is whole in the sweep's storage.

    Raises:
        SystemExit: When the driver stops the trial.
        Exception: A failure that another attempt might mend: out of memory at the smallest shape, and others as
            often as `order.retries` says. Any other failure is sent to the driver as the trial's outcome.
    """
    folder = Path(order.folder)
    storage = TrialStorage.of(folder, Path(order.sweep_folder))
    if start is not None and (start / INHERITED_FILE).exists():
        from dialsum.retune import retune_checkpoint

        retune_checkpoint(start, RunConfig.from_dict(order.config))
    shape: RunShape | None = order.shape
    vanished = 0
    while shape is not None:
        try:
            # Of several processes each holds itself.
            guard = None if shape.ranks > 1 else hold(order, shape, lambda text: send({WAITS_KEY: text}, None))
        except WorkError as no_room:  # somebody outside of Ray holds the card
            _note_attempt(folder, order, shape, "work_failed", no_room)
            _fail(folder, order, "work_failed", no_room, send)
            return
        reporter = TrialReporter(
            order,
            send,
            keep,
            guard=guard,
            evaluations=evaluations_of(start),
            losses=losses_of(start),
            meter=meter,
            storage=storage,
        )
        reporter.shape = shape
        error = _train_once(order, train, reporter, start)
        if error is None:
            return
        trouble = storage_trouble(error)
        if trouble is None and vanished < MOST_VANISHED and (trouble := storage.vanished(error)):
            vanished += 1
        if trouble:
            del error, reporter, guard  # the traceback holds the model's tensors
            _release_memory()
            start = persisted() or start
            if not storage.wait(trouble, start, lambda text: send({WAITS_KEY: text}, None)):
                raise OSError(errno.ESTALE, f"{trouble}, for too long", str(folder))
            continue
        kind = classify(error)
        start = reporter.checkpoint or start
        if kind != "out_of_memory":
            _note_attempt(folder, order, shape, kind, error)
            _fail(folder, order, kind, error, send)
            return
        if meter is not None:
            meter.out_of_memory()
        next_shape = smaller(shape)
        _note_attempt(folder, order, shape, kind, error, next_shape)
        if next_shape is None:
            raise error
        logger.warning("out of memory with %s; going on with %s", shape.describe(), next_shape.describe())
        del error, reporter, guard  # the traceback holds the model's tensors
        _release_memory()
        shape = next_shape


def _train_once(order: TrialOrder, train: Train, reporter: TrialReporter, start: Path | None) -> Exception | None:
    config = _config(order, reporter.shape)
    listener: Reporter = reporter
    try:
        train(
            config,
            Path(order.folder),
            reporter=listener,
            resume_from=start,
            cache_dir=Path(order.cache_dir),
            limit_bytes=reporter.limit_bytes,
        )
    except Exception as error:
        return error
    return None


def _config(order: TrialOrder, shape: RunShape) -> RunConfig:
    return RunConfig.from_dict(order.config).with_changes(
        {
            "gradient_accumulation_steps": shape.accumulation,
            "gradient_checkpointing": shape.gradient_checkpointing,
            "fsdp": shape.sharded,
        }
    )


def _fail(folder: Path, order: TrialOrder, kind: FailureKind, error: Exception, send: Send) -> None:
    """Raises what another attempt might mend and sends everything else to the driver as the outcome."""
    earlier = [record for record in read_jsonl(folder / ATTEMPTS_FILE)[0] if record.get("kind") == kind]
    again = kind == "error" or (kind == "diverged" and order.retry_diverged)
    if kind in ("host_memory", "worker_lost") or (again and len(earlier) <= order.retries):
        raise error
    send({FAILURE_KEY: kind, FAILURE_MESSAGE_KEY: f"{type(error).__name__}: {error}"}, None)


def _note_attempt(
    folder: Path,
    order: TrialOrder,
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
            "bundle": asdict(order.bundle),
            "shape": asdict(shape),
            "next_shape": asdict(next_shape) if next_shape else None,
        },
    )


def _release_memory() -> None:
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
