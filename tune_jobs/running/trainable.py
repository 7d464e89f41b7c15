"""One trial in its own process: trains, reports, keeps its steps, and recovers from an out-of-memory by itself.

Imports nothing heavy at the top: the driver imports this module too, and reused processes pay for torch once.
"""

import errno
import gc
import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

from cluster.guard import CudaDevice, Guard, HostDevice, Limit, environment
from cluster.metrics_door import Meters
from cluster.shares import UNITS, Share
from common.errors import DivergedError, ProductError, WorkError
from common.files import append_jsonl, read_jsonl, write_json
from common.storage import storage_trouble
from dialsum.config import RunConfig
from dialsum.reporter import Reporter
from tune_jobs.config.anomalies import LossWatch
from tune_jobs.records.ledger import ExperimentFolder, SweepFolder
from tune_jobs.running.machine_load import MachineLoad
from tune_jobs.running.orders import (
    EVALUATION_KEY,
    FAILURE_KEY,
    FAILURE_MESSAGE_KEY,
    INTERRUPTED_KEY,
    ORDER_KEY,
    STOP_FILE,
    WAITS_KEY,
    TrialOrder,
)
from tune_jobs.running.recovery import FailureKind, RunShape, classify, smaller
from tune_jobs.running.step_log import FILE_NAME as STEPS_NAME
from tune_jobs.running.step_log import StepLog
from tune_jobs.running.sweep_meter import TrialMeter
from tune_jobs.running.trial_storage import TrialStorage
from tune_jobs.search.exploit import INHERITED_FILE

logger = logging.getLogger(__name__)
STATE_FILE = "trial_state.json"  # lies in every checkpoint beside the trainer's files
ATTEMPTS_FILE = "attempts.jsonl"
MOST_VANISHED = 3  # times that a trial's own folder may be missing before that is no storage but a fault of ours
LOOK_EVERY_S = 0.5  # for STOP_FILE, which may lie on a slow shared file system


Send = Callable[[Mapping[str, object], Path | None], None]
Train = Callable[..., object]  # dialsum.trainer.train
Keep = Callable[[Mapping[str, float]], None]  # takes the numbers of one step; step_log.StepLog


class TrialReporter:
    """Passes every evaluation on to the driver, keeps the steps between them, and counts them over restarts.

    Args:
        order: The trial.
        send: Sends to the driver; raises SystemExit when the trial should end.
        keep: Takes every step.
        guard: Holds the process to its share; None on a machine without GPUs.
        evaluations: How many an earlier attempt had made at the checkpoint that this one starts from.
        losses: Its first and lowest training loss; None where there was none.
        meter: Shows the trial's numbers to whoever watches the cluster; None shows none.
        storage: Is looked at before anything is written there; None looks at nothing.
        clock: Seconds that only grow; injected in tests.
    """

    def __init__(
        self,
        order: TrialOrder,
        send: Send,
        keep: Keep,
        *,
        guard: Guard | None = None,
        evaluations: int = 0,
        losses: tuple[float, float] | None = None,
        meter: TrialMeter | None = None,
        storage: TrialStorage | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._storage = storage
        self.shape = order.shape
        self.checkpoint: Path | None = None
        self.peaks: dict[str, float] = {}
        self.evaluations = evaluations
        self._order, self._send, self._keep, self._guard, self._meter = order, send, keep, guard, meter
        self._loss = LossWatch(order.exploding_loss, seen=losses)
        self._clock, self._look_at_s = clock, -math.inf

    @property
    def limit_bytes(self) -> int | None:
        """What torch may reserve; None where nobody limits it."""
        return None if self._guard is None else self._guard.limit.allocator_bytes

    def log(self, metrics: Mapping[str, float]) -> None:
        """Keeps numbers between evaluations and the highest memory readings, looks at the share.

        Raises:
            OutOfMemoryError: When the process holds more than its share.
            DivergedError: When the training loss explodes.
        """
        self._watch(metrics)
        self._keep(metrics)
        problem = self._loss.see(metrics["train/loss"]) if "train/loss" in metrics else None
        if problem is not None:
            rate = metrics.get("train/learning_rate")
            now = f" (now {rate:.2g})" if rate is not None else ""
            raise DivergedError(f"{problem}; a smaller learning rate{now} or a longer warm-up would help")

    def report(self, metrics: Mapping[str, float], checkpoint: Path | None) -> None:
        """Sends one evaluation with its checkpoint; see Reporter.

        Raises:
            WorkError: When the sweep's metric is absent: no later report would mend that.
            DivergedError: When it is no number.
            SystemExit: When the driver stops the trial.
        """
        value = metrics.get(self._order.metric)
        if value is None:
            raise WorkError(f"no {self._order.metric} among the reported {', '.join(sorted(metrics))}")
        if not math.isfinite(value):
            raise DivergedError(
                f"{self._order.metric} became {value}: the training diverged; try a smaller learning rate"
            )
        if self._storage is not None:
            self._storage.check()
        self.evaluations += 1
        self.checkpoint = checkpoint
        self._watch(metrics)
        if checkpoint is not None:
            self._write_state(checkpoint)
        self._send(
            dict(metrics)
            | self.peaks
            | {
                EVALUATION_KEY: self.evaluations,
                "trial/micro_batch": self.shape.micro_batch,
                "trial/accumulation": self.shape.accumulation,
                "trial/gradient_checkpointing": self.shape.gradient_checkpointing,
            },
            checkpoint,
        )

    def wants_checkpoint(self) -> bool:
        """Looks now and then whether the driver asks the trials to save and end."""
        now_s = self._clock()
        if now_s < self._look_at_s:
            return False
        self._look_at_s = now_s + LOOK_EVERY_S
        return (Path(self._order.sweep_folder) / STOP_FILE).exists()

    def interrupted(self, checkpoint: Path) -> None:
        """Sends a checkpoint without an evaluation; raises SystemExit when the driver stops the trial."""
        self._write_state(checkpoint)
        self._send({INTERRUPTED_KEY: True}, checkpoint)

    def _write_state(self, checkpoint: Path) -> None:
        write_json(checkpoint / STATE_FILE, {"evaluations": self.evaluations, "first_and_lowest_loss": self._loss.seen})

    def _watch(self, metrics: Mapping[str, float]) -> None:
        if self._guard is not None:
            self._guard.check()
            if self._guard.peak_bytes is not None:
                self.peaks["trial/held_bytes"] = float(self._guard.peak_bytes)
        for name, value in metrics.items():
            if name.startswith("memory/"):
                self.peaks[name] = max(value, self.peaks.get(name, 0.0))
        if self._meter is not None:
            self._meter.log({**metrics, **self.peaks})


def run_trial(config: dict[str, object]) -> None:
    """The function that Tune runs in the trial's process, with {"order": ...}."""
    order = TrialOrder.from_dict(cast("Mapping[str, object]", config[ORDER_KEY]))
    os.environ.update(environment(os.environ))  # before torch starts CUDA
    if order.simulated:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray names the logical card 0, which may be a real one here
    # Ray reads this when the next trial takes over the process: the last one may still be letting go of its model.
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = "60"
    from tune_jobs.running.tune_door import last_checkpoint, present_place, report

    start = last_checkpoint() or (Path(order.resume_from) if order.resume_from else None)
    place = present_place()
    order = replace(order, bundle=replace(order.bundle, gpus=place.gpus))  # after a failure it may hold more
    import torch

    where = {
        "trial/node": place.node,
        "trial/raylet": place.raylet,
        "trial/card": place.card,
        "trial/gpu_model": place.gpu_model,
        "trial/torch": str(torch.__version__),
    }
    where = {name: value for name, value in where.items() if value is not None}

    def send(metrics: Mapping[str, object], checkpoint: Path | None) -> None:
        report({**metrics, **where}, checkpoint)

    _take_snapshot(order, goes_on=start is not None)
    keep = StepLog(Path(order.folder) / STEPS_NAME, MachineLoad())
    meter = TrialMeter(Meters(), order, place.node, place.card or "")
    try:
        attempt(order, _work(order), send, keep, start, meter, last_checkpoint)
    finally:
        meter.close()


def _work(order: TrialOrder) -> Train:
    """What the trial does: it trains, or writes summaries with a model that is trained already."""
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
        guard = hold(order, shape)
        reporter = TrialReporter(
            order,
            send,
            keep,
            guard=guard,
            evaluations=evaluations_of(start),
            losses=_losses_of(start),
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
        }
    )


def hold(order: TrialOrder, shape: RunShape) -> Guard | None:
    """Holds this process to the share that it was granted, before the model is built.

    Returns:
        None where there is no card: on a machine without GPUs, and on a simulated card that pretends nothing.
    """
    if order.usable_bytes is None or (order.simulated and order.pretended is None):
        return None
    limit = Limit(cap_bytes=_cap_bytes(order), context_bytes=order.context_bytes)
    if order.pretended is None:
        return Guard(limit, CudaDevice())
    held_bytes = order.pretended.fixed_bytes + shape.micro_batch * order.pretended.bytes_per_sample
    return Guard(limit, HostDevice(meter=lambda: held_bytes), interval_s=0.0)


def _cap_bytes(order: TrialOrder) -> int:
    assert order.usable_bytes is not None
    if order.bundle.gpus >= 1:
        return order.usable_bytes
    return Share(units=round(order.bundle.gpus * UNITS)).cap_bytes(order.usable_bytes)


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


def evaluations_of(checkpoint: Path | None) -> int:
    """Reads how many evaluations a trial had made at a checkpoint; 0 where that is not known."""
    return int(cast("int", _state_of(checkpoint).get("evaluations", 0)))


def _losses_of(checkpoint: Path | None) -> tuple[float, float] | None:
    """Else a low loss, from which a trial goes on, would soon look like an explosion."""
    losses = cast("list[float] | None", _state_of(checkpoint).get("first_and_lowest_loss"))
    return None if losses is None else (losses[0], losses[1])


def _state_of(checkpoint: Path | None) -> dict[str, object]:
    path = checkpoint / STATE_FILE if checkpoint else None
    if path is None or not path.exists():
        return {}
    state: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    return state


def _release_memory() -> None:
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
