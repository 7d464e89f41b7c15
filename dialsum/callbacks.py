"""Measurements of a training: step times, memory, and metrics for the reporter."""

import json
import logging
import math
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import TrainerCallback

from dialsum.config import RunConfig
from dialsum.device import gpu_utilization
from dialsum.metrics import ScorerIdentity
from dialsum.ranks import Ranks
from dialsum.reporter import Reporter
from dialsum.run_folder import RunFolder
from dialsum.sampling import GroupedSampler
from tuning_common.errors import DivergedError
from tuning_common.files import write_json
from tuning_common.goal import Goal, best_of
from tuning_common.units import format_bytes

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

logger = logging.getLogger(__name__)
HISTORY_FILE = "history.json"  # in each checkpoint, for resumed runs
NEAR_LIMIT = 0.9  # fraction of the memory limit above which a longer batch may fail
_WHOLE = 1e-6  # tolerance for the end of an epoch
_TRAIN_NAMES = ("loss", "learning_rate", "grad_norm", "epoch")


class StepTimer:
    """Measures the seconds of each part of a step; `mean` returns the means since its last call.

    On a GPU, kernels run asynchronously: the parts are host times, and only `total_s` is the time of the step.
    Evaluation and saving are not counted.

    Args:
        clock: A monotonic clock, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._sums = {"data_s": 0.0, "forward_s": 0.0, "step_s": 0.0, "update_s": 0.0}
        self._steps = 0
        self._tokens: list[torch.Tensor] = []
        self._begun = clock()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Times a block as `data_s`, `step_s` (forward and backward of a micro-batch) or `forward_s` inside it."""
        start = self._clock()
        yield
        self._sums[name] += self._clock() - start

    def step_begun(self) -> None:
        """Starts the time of an optimizer step, after its data."""
        self._begun = self._clock()

    def count_tokens(self, tokens: torch.Tensor) -> None:
        """Counts the tokens of a micro-batch, without padding; the sum stays on the device until `mean` is called."""
        self._tokens.append(tokens)

    def step_done(self) -> None:
        """Counts one optimizer step."""
        self._sums["update_s"] += self._clock() - self._begun
        self._steps += 1

    def mean(self) -> dict[str, float]:
        """Returns the mean seconds per step and tokens per second, and resets.

        Returns:
            `time/data_s`, `time/forward_s`, `time/backward_s`, `time/total_s`; `train/tokens_per_second` where tokens
            were counted.
        """
        sums, steps = self._sums, max(self._steps, 1)
        sums["backward_s"] = sums["step_s"] - sums["forward_s"]
        sums["total_s"] = sums["data_s"] + sums["update_s"]
        self._sums = dict.fromkeys(("data_s", "forward_s", "step_s", "update_s"), 0.0)
        self._steps = 0
        numbers = {f"time/{name}": sums[name] / steps for name in ("data_s", "forward_s", "backward_s", "total_s")}
        if self._tokens and sums["total_s"] > 0:
            numbers["train/tokens_per_second"] = float(torch.stack(self._tokens).sum()) / sums["total_s"]
        self._tokens = []
        return numbers


def memory_metrics() -> dict[str, float]:
    """Measures this process's memory.

    Returns:
        On a GPU `memory/allocated_bytes` and `memory/reserved_bytes` (peaks of torch's allocator),
        `memory/device_bytes` (used on the card, by all processes) and `train/gpu_memory_used` (the same in GiB) and
        `train/gpu_memory_percent` of the card.
        Always `memory/host_rss_bytes` (peak).
    """
    metrics = {"memory/host_rss_bytes": float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)}
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        metrics["memory/allocated_bytes"] = float(torch.cuda.max_memory_allocated())
        metrics["memory/reserved_bytes"] = float(torch.cuda.max_memory_reserved())
        metrics["memory/device_bytes"] = float(total - free)
        metrics["train/gpu_memory_used"] = (total - free) / 2**30
        metrics["train/gpu_memory_percent"] = 100.0 * (total - free) / total
        utilization = gpu_utilization()
        if utilization is not None:
            metrics["train/gpu_utilization"] = utilization
    return metrics


class NumbersCallback(TrainerCallback):  # type: ignore[misc]  # transformers publishes no types
    """Sends a run's metrics to its reporter, under the names of a W&B run.

    Args:
        config: The run; its metric selects the best evaluation.
        reporter: Receives the metrics.
        folder: Receives metrics.json at each evaluation: a run may be stopped at any time.
        scorer: Names and versions of the scorer.
        limit_bytes: Limit of the allocator; None without a limit. A warning is logged once near it.
        ranks: The processes of this run: the first one's reporter gets the evaluations and decides on checkpoints; each
            process's own reporter gets its steps.
    """

    def __init__(
        self,
        config: RunConfig,
        reporter: Reporter,
        folder: RunFolder,
        scorer: ScorerIdentity,
        limit_bytes: int | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self._ranks = ranks or Ranks()
        self.history: list[dict[str, float]] = []
        self.timer = StepTimer()
        self._config = config
        self._reporter = reporter
        self._folder = folder
        self._scorer = scorer
        self._limit_bytes = limit_bytes
        self._warned = False
        self._evaluated: dict[str, float] = {}
        self._last_train: dict[str, float] = {}

    def on_step_begin(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: object
    ) -> None:
        """Starts the time of the step."""
        self.timer.step_begun()

    def on_step_end(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: object
    ) -> None:
        """Counts the step for the timer, and saves a checkpoint where the reporter requests one.

        Not where an evaluation is due, which saves a checkpoint itself: a resumed run would skip the evaluation.
        """
        self.timer.step_done()
        epoch = state.epoch or 0.0
        is_due = control.should_evaluate or abs(epoch - round(epoch)) < _WHOLE or state.global_step >= state.max_steps
        if not is_due and self._ranks.agree(self._reporter.wants_checkpoint()):
            control.should_save = True

    def on_log(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        logs: Mapping[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        """Renames the trainer's numbers, adds times and memory, and passes them on.

        Raises:
            DivergedError: When the loss is NaN or infinite.
        """
        if not logs or "loss" not in logs:
            return
        check_finite("training loss", logs["loss"], state.global_step, args.learning_rate)
        metrics = {f"train/{name}": float(logs[name]) for name in _TRAIN_NAMES if name in logs}
        if not math.isfinite(metrics.get("train/grad_norm", 0.0)):
            # fp16: the scaler skipped this step and halves its scale; JSON and the reporters take numbers only.
            logger.info("step %d: gradient overflow, step skipped", state.global_step)
            del metrics["train/grad_norm"]
        metrics["train/global_step"] = float(state.global_step)
        metrics |= self.timer.mean() | self._ranks.highest(memory_metrics())
        if "train/tokens_per_second" in metrics:
            metrics["train/tokens_per_second"] = self._ranks.total(metrics["train/tokens_per_second"])
        self._warn_near_limit(metrics)
        self._last_train = metrics
        logger.info("step %d: loss %.4f, lr %.2e", state.global_step, logs["loss"], logs.get("learning_rate", 0.0))
        self._reporter.log(metrics)

    def on_evaluate(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        metrics: Mapping[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        """Keeps the evaluation until its checkpoint is saved."""
        self._evaluated = {
            "eval/" + name.removeprefix("eval_"): float(value)
            for name, value in (metrics or {}).items()
            if name.startswith("eval_")
        }

    def on_save(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: object
    ) -> None:
        """Reports the evaluation with the checkpoint of the same step; a checkpoint alone where there is none."""
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        self._ranks.wait()  # each process writes the state of its own random numbers there
        if not self._ranks.is_first:
            self._note_evaluation(state)
            return
        if not self._evaluated:
            write_json(checkpoint / HISTORY_FILE, self.history)
            self._reporter.interrupted(checkpoint)
            return
        rounded = {name: round(value, 4) for name, value in self._evaluated.items()}
        logger.info("step %d: %s", state.global_step, rounded)
        row = self._note_evaluation(state)
        write_json(checkpoint / HISTORY_FILE, self.history)
        self._folder.write_metrics(self.history, self._scorer)
        best = best_numbers(self.history, self._config.metric, self._config.goal)
        self._reporter.report(row | best, checkpoint)

    def _note_evaluation(self, state: "TrainerState") -> dict[str, float]:
        """Adds the last evaluation, if any, to the history."""
        row = self._last_train | self._evaluated
        row |= {"train/global_step": float(state.global_step), "train/epoch": float(state.epoch or 0.0)}
        if self._evaluated:
            self.history.append(row)
        self._evaluated = {}
        return row

    def _warn_near_limit(self, metrics: Mapping[str, float]) -> None:
        used = metrics.get("memory/reserved_bytes", 0.0)
        if self._limit_bytes and not self._warned and used > NEAR_LIMIT * self._limit_bytes:
            self._warned = True
            logger.warning(
                "%s of %s are reserved; a longer batch may fail", format_bytes(used), format_bytes(self._limit_bytes)
            )


class EpochCallback(TrainerCallback):  # type: ignore[misc]  # transformers publishes no types
    """Sets the epoch of the sampler at its start.

    accelerate does that too, but not through the two wrappers of a multi-process run that resumes in the middle of an
    epoch (accelerate 1.15, DataLoaderShard.set_epoch).
    """

    def __init__(self, sampler: GroupedSampler) -> None:
        self._sampler = sampler

    def on_epoch_begin(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: object
    ) -> None:
        """Sets the epoch."""
        self._sampler.set_epoch(int((state.epoch or 0.0) + _WHOLE))


def check_finite(name: str, value: float, step: int, learning_rate: float) -> None:
    """Ends a run with a NaN or infinite loss.

    Raises:
        DivergedError: With the step and a remedy.
    """
    if not math.isfinite(value):
        raise DivergedError(
            f"the {name} became {value} by step {step}; a smaller learning rate (now {learning_rate:g}), a longer"
            " warm-up or bf16 instead of fp16 would help"
        )


def read_history(checkpoint: Path) -> list[dict[str, float]]:
    """Returns the evaluations before a checkpoint; none where it was not written by this project."""
    path = checkpoint / HISTORY_FILE
    if not path.exists():
        return []
    rows: list[dict[str, float]] = json.loads(path.read_text(encoding="utf-8"))
    return rows


def best_numbers(history: Sequence[Mapping[str, float]], metric: str, goal: Goal) -> dict[str, float]:
    """Returns the numbers of the best evaluation as best/*; nothing where no evaluation has the metric.

    Args:
        history: One row for each evaluation; of equals the first is the best.
        metric: The metric that ranks evaluations.
        goal: Whether the metric is maximized or minimized.

    >>> best_numbers([{"eval/loss": 3.0, "eval/rouge1_f1": 1.0}, {"eval/loss": 4.0}], "eval/loss", "minimize")
    {'best/loss': 3.0, 'best/rouge1_f1': 1.0}
    """
    best = best_of(history, lambda row: row.get(metric), goal) or {}
    return {"best/" + name.removeprefix("eval/"): value for name, value in best.items() if name.startswith("eval/")}
