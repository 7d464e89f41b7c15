"""Trains one summarizer: a Hugging Face trainer with this project's step, optimizer, evaluation and files."""

import json
import logging
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.utils.data import DataLoader
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    set_seed,
)
from transformers.utils.logging import disable_progress_bar

from common.files import write_json, write_text
from common.strict import dump_yaml
from dialsum.callbacks import NumbersCallback, StepTimer, read_history, refuse_no_number
from dialsum.config import RunConfig
from dialsum.data import Example, load_examples
from dialsum.device import forget_earlier_runs, precision_of
from dialsum.encoding import Collator, EncodedDataset, Encoding, encode
from dialsum.generate import summarize
from dialsum.metrics import RougeScorer, ScorerIdentity
from dialsum.models import Kind, build_model, resolve
from dialsum.optimizers import build_optimizer
from dialsum.reporter import NullReporter, Reporter
from dialsum.sampling import GroupedSampler
from dialsum.step import IGNORED_LABEL, forward_loss
from dialsum.tokenizers import build_tokenizer

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerControl

logger = logging.getLogger(__name__)
CACHE_DIR = Path(".cache/dialsum")
BEST_FILE = "best.json"  # beside the weights: whose numbers they have
_BEST_METRIC = "eval_rouge_combined_f1"


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a run leaves.

    Attributes:
        metrics: The last evaluation's numbers, with train/*, time/* and memory/*.
        best_metrics: The best evaluation's numbers, as best/*.
        best_model_dir: Loads with transformers alone.
        history: One row per evaluation.
    """

    metrics: dict[str, float]
    best_metrics: dict[str, float]
    best_model_dir: Path
    history: list[dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Everything that training needs in memory."""

    kind: Kind
    tokenizer: "PreTrainedTokenizerBase"
    model: "PreTrainedModel"
    train: Encoding
    dev: Encoding
    dev_examples: Sequence[Example]


def train(
    config: RunConfig,
    output_dir: Path,
    *,
    reporter: Reporter | None = None,
    resume_from: Path | None = None,
    cache_dir: Path = CACHE_DIR,
    limit_bytes: int | None = None,
) -> TrainResult:
    """Trains, evaluates and saves one summarizer.

    Args:
        config: The run.
        output_dir: Receives config.yaml, metrics.json, training.log, predictions.jsonl, checkpoints and
            models/best_model.
        reporter: Hears of every evaluation and its checkpoint; may raise SystemExit to end the run.
        resume_from: A checkpoint folder of an earlier, interrupted run of the same configuration.
        cache_dir: Tokenizers and encodings, shared by the trials of a sweep.
        limit_bytes: What the run may use on the device, for warnings.

    Returns:
        The numbers and where the best model is.

    Raises:
        RequestError: When data, model or configuration cannot be used.
        WorkError: When the loss is no number any more.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    with _log_file(output_dir / "training.log"):
        disable_progress_bar()
        forget_earlier_runs()
        torch.set_num_threads(config.cpu_threads)
        set_seed(config.seed)
        write_text(output_dir / "config.yaml", dump_yaml(config.to_dict()))
        if resume_from is None:  # an earlier attempt's best model would be taken for this one's
            shutil.rmtree(output_dir / "models", ignore_errors=True)
        prepared = prepare(config, cache_dir)
        timer = StepTimer()
        numbers = NumbersCallback(reporter or NullReporter(), timer, limit_bytes)
        trainer = SummarizerTrainer(config, prepared, output_dir, timer, numbers)
        if resume_from is not None:
            numbers.history.extend(read_history(resume_from))
            if numbers.history and not trainer.has_best:
                logger.warning("the best model before this resume is gone; the best is chosen among what comes now")
        trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
        return _finish(trainer, numbers, output_dir)


def prepare(config: RunConfig, cache_dir: Path) -> Prepared:
    """Reads and encodes the data and builds tokenizer and model; see train for the errors."""
    train_examples = load_examples(Path(config.train_file))[: config.max_train_samples]
    dev_examples = load_examples(Path(config.dev_file))[: config.max_eval_samples]
    texts = [text for example in train_examples for text in (example.dialogue, *example.summaries)]
    tokenizer = build_tokenizer(config, texts, cache_dir)
    set_seed(config.seed)  # weights of a tiny model depend on the seed alone, not on what was cached before
    prepared = Prepared(
        kind=resolve(config.model).kind,
        tokenizer=tokenizer,
        model=build_model(config, tokenizer),
        train=encode(train_examples, tokenizer, config, cache_dir),
        dev=encode(dev_examples, tokenizer, config, cache_dir),
        dev_examples=dev_examples,
    )
    for name, encoding in (("training", prepared.train), ("dev", prepared.dev)):
        if encoding.cut_dialogues or encoding.cut_summaries:
            logger.warning(
                "%s data: %d of %d dialogues and %d summaries are longer than the limits and were cut",
                name, encoding.cut_dialogues, len(encoding.sources), encoding.cut_summaries,
            )  # fmt: skip
    return prepared


class SummarizerTrainer(Seq2SeqTrainer):  # type: ignore[misc]  # transformers publishes no types
    """Seq2SeqTrainer with this project's loss, optimizer and evaluation (loss, generation, ROUGE)."""

    optimizer: "Optimizer | None"
    control: "TrainerControl"

    def __init__(
        self, config: RunConfig, prepared: Prepared, output_dir: Path, timer: StepTimer, numbers: NumbersCallback
    ) -> None:
        self._config = config
        self._prepared = prepared
        self._timer = timer
        self._scorer = RougeScorer(config.language)
        self._best_model_dir = output_dir / "models" / "best_model"
        self._best_score = read_best_score(self._best_model_dir)
        callbacks = [numbers]
        if config.early_stopping_patience is not None:
            callbacks.insert(0, EarlyStoppingCallback(config.early_stopping_patience, config.early_stopping_threshold))
        super().__init__(
            model=prepared.model,
            args=training_arguments(
                config, output_dir, len(prepared.train.sources), resolve(config.model).architecture
            ),
            train_dataset=EncodedDataset(prepared.train, prepared.kind),
            eval_dataset=EncodedDataset(prepared.dev, prepared.kind),
            processing_class=prepared.tokenizer,
            data_collator=Collator(
                pad_id=int(prepared.tokenizer.pad_token_id), multiple=8 if torch.cuda.is_available() else 1
            ),
            callbacks=callbacks,
        )
        # compute_loss below weighs micro-batches itself, so the trainer must count tokens and must not divide again,
        # whatever the model's forward takes (it does the opposite of both where forward has no **kwargs).
        self.model_accepts_loss_kwargs = True
        self.loss_is_scaled_for_ga = True
        self.remove_callback(PrinterCallback)  # numbers go to the log file and to the reporter

    def compute_loss(
        self,
        model: "nn.Module",
        inputs: dict[str, "Tensor"],
        return_outputs: bool = False,
        num_items_in_batch: "Tensor | int | None" = None,
    ) -> "Tensor":
        """Returns the micro-batch's loss from the function that the memory tracer calls too.

        Each micro-batch counts by its summary tokens, so that the pieces of a batch add up to its mean over all tokens.
        """
        with self._timer.part("forward_s"):
            loss = forward_loss(
                model, inputs, label_smoothing=self._config.label_smoothing, causal=self._prepared.kind == "causal"
            )
            if num_items_in_batch is None:
                return loss
            # Processes average their gradients, but each counted the tokens of all.
            share = (inputs["labels"] != IGNORED_LABEL).sum() * self.accelerator.num_processes / num_items_in_batch
            weighted: Tensor = loss * share
            return weighted

    def training_step(
        self, model: "nn.Module", inputs: dict[str, "Tensor"], num_items_in_batch: "Tensor | int | None" = None
    ) -> "Tensor":
        """Times one micro-batch, forward and backward."""
        with self._timer.part("step_s"):
            loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        return loss

    def create_optimizer(self, model: "nn.Module | None" = None) -> "Optimizer":
        """Builds the optimizer from the function that the memory tracer calls too."""
        if self.optimizer is None:
            self.optimizer = build_optimizer(
                self.model,
                name=self._config.optimizer,
                learning_rate=self._config.learning_rate,
                weight_decay=self._config.weight_decay,
            )
        return self.optimizer

    def _get_train_sampler(self, train_dataset: EncodedDataset | None = None) -> GroupedSampler:
        """Groups by length in an order that depends on seed and epoch alone; see GroupedSampler."""
        del train_dataset
        lengths = [len(source) for source in self._prepared.train.sources]
        return GroupedSampler(lengths, self._config.batch_size, self._config.seed)

    def get_batch_samples(self, *args: object, **kwargs: object) -> object:
        """Times the data loader; see Trainer.get_batch_samples."""
        with self._timer.part("data_s"):
            return super().get_batch_samples(*args, **kwargs)

    def evaluate(
        self,
        eval_dataset: EncodedDataset | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Scores the dev data: loss, then summaries by beam search and their ROUGE.

        Returns:
            `eval_loss`, `eval_rouge1_f1`, `eval_rouge2_f1`, `eval_rougeL_f1`, `eval_rouge_combined_f1` (0 to 100) and
            `eval_mean_summary_chars`.
        """
        del eval_dataset, ignore_keys
        metrics = {f"{metric_key_prefix}_loss": self._mean_loss()}
        texts = self.summarize_dev()
        references = [list(example.summaries) for example in self._prepared.dev_examples]
        scores = self._scorer.score(texts, references)
        named = {
            "rouge1_f1": scores.rouge1_f1,
            "rouge2_f1": scores.rouge2_f1,
            "rougeL_f1": scores.rougeL_f1,
            "rouge_combined_f1": scores.combined(self._config.rouge_weights, self._config.summary_length_floor_chars),
            "rouge_mean_f1": scores.mean,
            "mean_summary_chars": scores.mean_summary_chars,
        }
        metrics |= {f"{metric_key_prefix}_{name}": value for name, value in named.items()}
        self._keep_if_best(metrics, texts, metric_key_prefix)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    @property
    def scorer_identity(self) -> ScorerIdentity:
        """What counted the scores; scores of different scorers are never compared."""
        return self._scorer.identity

    @property
    def has_best(self) -> bool:
        """Whether a best model of this run is on disk."""
        return self._best_score is not None

    def summarize_dev(self) -> list[str]:
        """Writes a summary of every dev dialogue with the model as it is now."""
        prepared = self._prepared
        model = self.accelerator.unwrap_model(self.model)
        with self.compute_loss_context_manager():
            return summarize(model, prepared.tokenizer, prepared.dev.sources, self._config, prepared.kind)

    def _keep_if_best(self, metrics: dict[str, float], texts: Sequence[str], prefix: str) -> None:
        """Saves model and summaries at once when they are the best so far: a run may be stopped at any time."""
        score = metrics[f"{prefix}_rouge_combined_f1"]
        if not self.is_world_process_zero() or (self._best_score is not None and score <= self._best_score):
            return
        self._best_score = score
        best = {"best/" + name.removeprefix(f"{prefix}_"): value for name, value in metrics.items()}
        best["best/global_step"] = float(self.state.global_step)
        folder = self._best_model_dir
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh, old = folder.with_name(".best_model.new"), folder.with_name(".best_model.old")
        for leftover in (fresh, old):
            shutil.rmtree(leftover, ignore_errors=True)
        self.save_model(str(fresh))
        write_json(fresh / BEST_FILE, best)
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
        write_predictions(folder.parent.parent / "predictions.jsonl", self._prepared.dev_examples, texts)

    @torch.no_grad()
    def _mean_loss(self) -> float:
        """The dev loss: every summary token counts the same, whatever the batch."""
        was_training, total, tokens = self.model.training, 0.0, 0
        self.model.eval()
        loader: DataLoader[dict[str, Tensor]] = self.get_eval_dataloader()
        for batch in loader:
            inputs = self._prepare_inputs(batch)
            counted = int((inputs["labels"] != IGNORED_LABEL).sum())
            with self.compute_loss_context_manager():
                loss = forward_loss(self.model, inputs, label_smoothing=0.0, causal=self._prepared.kind == "causal")
            total += loss.item() * counted
            tokens += counted
        self.model.train(was_training)
        refuse_no_number("dev loss", total / tokens, self.state.global_step, self._config.learning_rate)
        return total / tokens


def training_arguments(
    config: RunConfig, output_dir: Path, num_examples: int, architecture: str
) -> Seq2SeqTrainingArguments:
    """Translates a run configuration into transformers' arguments.

    Args:
        config: The run.
        output_dir: Receives the checkpoints.
        num_examples: Training examples, for the number of warm-up steps.
        architecture: Decides the precision where the configuration says "auto".
    """
    steps_an_epoch = math.ceil(num_examples / config.batch_size)
    total_steps = config.max_steps or steps_an_epoch * config.num_epochs
    rhythm = "steps" if config.eval_steps else "epoch"
    precision = precision_of(config.precision, architecture)
    return Seq2SeqTrainingArguments(
        output_dir=str(output_dir),
        per_device_train_batch_size=config.micro_batch,
        per_device_eval_batch_size=config.generation_batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        num_train_epochs=config.num_epochs,
        max_steps=config.max_steps or -1,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.lr_scheduler if config.lr_scheduler != "constant" else "constant_with_warmup",
        warmup_steps=round(total_steps * config.warmup_ratio),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        activation_checkpointing=config.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False} if config.gradient_checkpointing else None,
        torch_compile=config.torch_compile,
        eval_strategy=rhythm,
        save_strategy=rhythm,
        eval_steps=config.eval_steps,
        save_steps=config.eval_steps or 500,
        logging_strategy="steps",
        logging_steps=max(1, min(steps_an_epoch // 4, 50)),
        logging_nan_inf_filter=False,
        save_total_limit=1,
        restore_callback_states_from_checkpoint=True,
        metric_for_best_model=_BEST_METRIC,
        greater_is_better=True,
        dataloader_num_workers=config.dataloader_workers,
        dataloader_pin_memory=torch.cuda.is_available() if config.pin_memory is None else config.pin_memory,
        remove_unused_columns=False,
        use_cpu=not torch.cuda.is_available(),
        seed=config.seed,
        report_to=[],
        disable_tqdm=True,
        log_level="error",
    )


def _finish(trainer: SummarizerTrainer, numbers: NumbersCallback, output_dir: Path) -> TrainResult:
    best_dir = output_dir / "models" / "best_model"
    last, best = numbers.history[-1], read_best(best_dir)
    content = {"last": last, "best": best, "history": numbers.history, "scorer": asdict(trainer.scorer_identity)}
    write_json(output_dir / "metrics.json", content)
    for checkpoint in output_dir.glob("checkpoint-*"):  # the run is finished: nothing resumes from them
        shutil.rmtree(checkpoint)
    return TrainResult(metrics=last, best_metrics=best, best_model_dir=best_dir, history=numbers.history)


def read_best(best_model_dir: Path) -> dict[str, float]:
    """Returns the numbers (best/*) of the model in a folder; none where there is no model."""
    path = best_model_dir / BEST_FILE
    if not path.exists():
        return {}
    numbers: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
    return numbers


def read_best_score(best_model_dir: Path) -> float | None:
    """Returns the score that a better model must beat."""
    return read_best(best_model_dir).get("best/rouge_combined_f1")


def write_predictions(path: Path, examples: Sequence[Example], texts: Sequence[str]) -> None:
    """Writes one JSON line per dialogue: fname, dialogue, references, prediction."""
    lines = [
        json.dumps(
            {"fname": e.fname, "dialogue": e.dialogue, "references": list(e.summaries), "prediction": text},
            ensure_ascii=False,
        )
        for e, text in zip(examples, texts, strict=True)
    ]
    write_text(path, "".join(line + "\n" for line in lines))


@contextmanager
def _log_file(path: Path) -> Iterator[None]:
    """Sends this package's log to a file while a run lasts."""
    root = logging.getLogger("dialsum")
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        handler.close()
