"""One process of a trial on several cards: trains its part of each batch and asks the trial's process what to do.

Runs as a Ray actor in a bundle of the trial's placement group, with one whole card. Nothing heavy at the top: the
environment must be right before torch is loaded.
"""

import os
import queue
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, Literal

from cluster.guard import Guard, OutOfMemoryError, environment
from cluster.machines.ray_folder import restore_umask
from dialsum.config import RunConfig
from tune_jobs.records.trial_spec import RunShape, TrialSpec
from tune_jobs.trial.failures import classify
from tune_jobs.trial.hold import DeviceOf, card_of, hold
from tune_jobs.trial.orphan import end_with_raylet
from tune_jobs.trial.reporter import HELD_BYTES, StopFile
from tuning_common.errors import ProductError
from tuning_common.strict import from_mapping

THREADS: Final = 3  # of the actor: one trains, one hands out messages, one takes the answer
Kind = Literal["waiting", "log", "report", "interrupted", "end"]


@dataclass(frozen=True, kw_only=True)
class RankTask:
    """What one process is to do; plain values, so that it travels.

    Attributes:
        spec: The trial.
        config: Its run configuration in its present shape.
        rank: Number of the process, from 0.
        size: How many there are.
        resume_from: Checkpoint to continue from.
        variables: By which torch finds the other processes, and what this one may see.
    """

    spec: TrialSpec
    config: dict[str, object]
    rank: int
    size: int
    resume_from: str | None = None
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def shape(self) -> RunShape:
        """How the batch is computed."""
        config = RunConfig.from_dict(self.config)
        return RunShape(
            micro_batch=config.micro_batch // self.size,
            accumulation=config.gradient_accumulation_steps,
            gradient_checkpointing=config.gradient_checkpointing,
            ranks=self.size,
            sharded=config.fsdp,
            loss_batch=config.loss_batch_size,
            generation_batch=config.generation_batch_size,
        )


@dataclass(frozen=True, kw_only=True)
class RankMessage:
    """What a process sends to the trial's process.

    Attributes:
        kind: Why it waits for its card, a step's numbers, an evaluation, a checkpoint without one, or that it is over.
            Evaluations and checkpoints want an answer; they and the numbers come from the first process only.
        reason: Why it waits.
        metrics: Of a step or an evaluation.
        checkpoint: Its folder.
    """

    kind: Kind
    reason: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    checkpoint: str | None = None


class RankReporter:
    """Checks the process's own card at each step; the first process's also passes everything on. See Reporter.

    Args:
        ask: Sends a message, and returns when it was answered, if it wants an answer.
        stop: Whether the driver asks the trials to save and end.
        guard: Holds the process to its card; None where there is none.
        is_first: Whether this is the first process.
    """

    def __init__(
        self, ask: Callable[[RankMessage], None], stop: StopFile, guard: Guard | None, *, is_first: bool
    ) -> None:
        self._ask, self._stop, self._guard, self._is_first = ask, stop, guard, is_first

    def log(self, metrics: Mapping[str, float]) -> None:
        """Looks at the card and passes the numbers on.

        Raises:
            OutOfMemoryError: When the process holds more than its card allows.
        """
        held: dict[str, float] = {}
        if self._guard is not None:
            self._guard.check()
            if self._guard.peak_bytes is not None:
                held = {HELD_BYTES: float(self._guard.peak_bytes)}
        if self._is_first:
            self._ask(RankMessage(kind="log", metrics={**metrics, **held}))

    def report(self, metrics: Mapping[str, float], checkpoint: Path | None) -> None:
        """Passes an evaluation on and waits until its checkpoint is taken."""
        folder = None if checkpoint is None else str(checkpoint)
        self._ask(RankMessage(kind="report", metrics=dict(metrics), checkpoint=folder))

    def wants_checkpoint(self) -> bool:
        """Looks for the stop file; what the first process sees, all do."""
        return self._is_first and self._stop.asked()

    def interrupted(self, checkpoint: Path) -> None:
        """Passes a checkpoint on and waits until it is taken."""
        self._ask(RankMessage(kind="interrupted", checkpoint=str(checkpoint)))


class RankProcess:
    """The actor. It is ended by force when the trial is over, whatever it does then, and with the trial's process."""

    def __init__(self) -> None:
        end_with_raylet()
        self._pending: queue.SimpleQueue[RankMessage] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[None] = queue.SimpleQueue()

    def seat(self) -> tuple[str, list[str], int]:
        """Returns the address of its host, the numbers of the cards that Ray gave this process, and its own."""
        import ray

        return ray.util.get_node_ip_address(), [str(card) for card in ray.get_gpu_ids()], os.getpid()

    def train(self, task: Mapping[str, object], device_of: DeviceOf = card_of) -> None:
        """Trains until the end.

        Args:
            task: A RankTask as plain values.
            device_of: See hold.hold.

        Raises:
            Exception: What ended it, of a type that the trial's process can read without torch.
        """
        wanted = from_mapping(RankTask, task, where="task of a rank")
        try:
            _train(wanted, self._ask, device_of)
        except ProductError:
            raise
        except OSError:
            raise  # perhaps the storage; its number says which
        except Exception as error:
            kind = classify(error)
            text = f"rank {wanted.rank}: {type(error).__name__}: {error}"
            raise (OutOfMemoryError(text) if kind == "out_of_memory" else RuntimeError(text)) from None
        finally:
            self._pending.put(RankMessage(kind="end"))

    def messages(self) -> list[dict[str, object]]:
        """Waits until there is a message, and returns all that there are."""
        pending = [self._pending.get()]
        while not self._pending.empty():
            pending.append(self._pending.get())
        return [asdict(message) for message in pending]

    def answer(self) -> None:
        """Lets the process continue after an evaluation or a checkpoint."""
        self._answers.put(None)

    def _ask(self, message: RankMessage) -> None:
        self._pending.put(message)
        if message.kind in ("report", "interrupted"):
            self._answers.get()


def _train(task: RankTask, ask: Callable[[RankMessage], None], device_of: DeviceOf) -> None:
    spec = task.spec
    restore_umask()
    os.environ.update(environment(os.environ) | task.variables)  # before torch starts CUDA
    from dialsum.trainer import train

    guard = hold(spec, task.shape, lambda reason: ask(RankMessage(kind="waiting", reason=reason)), device_of)
    train(
        RunConfig.from_dict(task.config),
        Path(spec.folder),
        reporter=RankReporter(ask, StopFile(Path(spec.sweep_folder)), guard, is_first=task.rank == 0),
        resume_from=None if task.resume_from is None else Path(task.resume_from),
        cache_dir=Path(spec.cache_dir),
        limit_bytes=None if guard is None else guard.limit.allocator_bytes,
    )
