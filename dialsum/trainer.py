"""Trains one summarizer: a Hugging Face trainer with this project's step, optimizer, evaluation and files."""

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.utils.data import DataLoader, Subset
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    Seq2SeqTrainer,
    set_seed,
)

from common.files import write_text
from dialsum.arguments import training_arguments
from dialsum.callbacks import EpochCallback, NumbersCallback, read_history, refuse_no_number
from dialsum.config import RunConfig
from dialsum.data import Example, load_examples
from dialsum.device import allowed_bytes, forget_earlier_runs
from dialsum.encoding import Collator, EncodedDataset, longest_first
from dialsum.finished import load_finished, predict, score, score_metrics, submission
from dialsum.generate import summarize
from dialsum.metrics import RougeScorer
from dialsum.optimizers import build_optimizer
from dialsum.preparation import Prepared, prepare
from dialsum.ranks import Ranks, joined_ranks
from dialsum.reporter import NullReporter, Reporter
from dialsum.run_folder import RunFolder, write_predictions
from dialsum.sampling import GroupedSampler
from dialsum.step import IGNORED_LABEL, forward_loss

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer
    from transformers import TrainerControl

logger = logging.getLogger(__name__)
CACHE_DIR = Path(".cache/dialsum")
BEST_SCORE = "best/rouge_combined_f1"


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a run leaves.

    Attributes:
        metrics: The last evaluation's numbers, with train/*, time/* and memory/*.
        best_metrics: The best evaluation's numbers, as best/*.
        best_model_dir: Loads with transformers alone.
        history: One row per evaluation.
        test_metrics: test/* of the best model; empty where there is no test file or it has no references.
    """

    metrics: dict[str, float]
    best_metrics: dict[str, float]
    best_model_dir: Path
    history: list[dict[str, float]]
    test_metrics: dict[str, float]


def train(
    config: RunConfig,
    output_dir: Path,
    *,
    reporter: Reporter | None = None,
    resume_from: Path | None = None,
    cache_dir: Path = CACHE_DIR,
    limit_bytes: int | None = None,
) -> TrainResult:
    """Trains, evaluates and saves one summarizer, together with the other processes that torchrun started, if any.

    Args:
        config: The run.
        output_dir: Receives the files that run_folder names, and checkpoints.
        reporter: Hears of every evaluation and its checkpoint; may raise SystemExit to end the run. Of several
            processes only the first one's hears evaluations; each one's own hears its steps.
        resume_from: A checkpoint folder of an earlier, interrupted run of the same configuration.
        cache_dir: Tokenizers and encodings, shared by the trials of a sweep.
        limit_bytes: What the run may reserve on the device, for a warning near it; the device's own limit when None.

    Returns:
        The numbers and where the best model is.

    Raises:
        RequestError: When data, model or configuration cannot be used.
        DivergedError: When the loss is no number any more.
    """
    folder = RunFolder(output_dir)
    with joined_ranks() as ranks, folder.log() if ranks.is_first else nullcontext():
        torch.set_num_threads(config.cpu_threads)
        test_examples = load_examples(Path(config.test_file), require_summary=False) if config.test_file else []
        scorer = RougeScorer(config.language)
        limit_bytes = limit_bytes or allowed_bytes()
        numbers = NumbersCallback(reporter or NullReporter(), folder, scorer.identity, limit_bytes, ranks)
        forget_earlier_runs()
        _fit(config, folder, scorer, numbers, resume_from, cache_dir, ranks)
        test_metrics = None
        if test_examples and ranks.is_first:
            forget_earlier_runs()  # the trained model makes room for the best one
            test_metrics = _summarize_test(folder, test_examples, cache_dir)
        if ranks.is_first:
            folder.write_metrics(numbers.history, scorer.identity, test_metrics)
            folder.drop_checkpoints()
    return TrainResult(
        metrics=numbers.history[-1],
        best_metrics=folder.best(),
        best_model_dir=folder.best_model,
        history=numbers.history,
        test_metrics=test_metrics or {},
    )


def _fit(
    config: RunConfig,
    folder: RunFolder,
    scorer: RougeScorer,
    numbers: NumbersCallback,
    resume_from: Path | None,
    cache_dir: Path,
    ranks: Ranks,
) -> None:
    trainer = SummarizerTrainer(config, prepare(config, cache_dir), folder, scorer, numbers, ranks)
    if ranks.size > 1:
        torch.set_num_threads(config.cpu_threads)  # accelerate has set its own number
        set_seed(config.seed + ranks.rank)  # each drops out other activations; the weights are there already
    if ranks.is_first:
        folder.begin(config, resumed=resume_from is not None)  # a wrong request was refused before, and loses nothing
    if resume_from is not None:
        numbers.history.extend(read_history(resume_from))
        if ranks.is_first and numbers.history and not folder.best():
            logger.warning("the best model before this resume is gone; the best is chosen among what comes now")
    trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)


def _summarize_test(folder: RunFolder, examples: Sequence[Example], cache_dir: Path) -> dict[str, float]:
    """Summarizes the test dialogues with the best model; scores them where they have references."""
    run = load_finished(folder.path, cache_dir)
    texts = predict(run, examples)
    write_predictions(folder.path / "test_predictions.jsonl", examples, texts)
    write_text(folder.path / "submission.csv", submission([example.fname for example in examples], texts))
    if not all(example.summaries for example in examples):
        return {}
    scores = score(run, examples, texts)
    return {f"test/{name}": value for name, value in score_metrics(scores, run.config).items()}


class SummarizerTrainer(Seq2SeqTrainer):  # type: ignore[misc]  # transformers publishes no types
    """Seq2SeqTrainer with this project's loss, optimizer and evaluation (loss, generation, ROUGE)."""

    optimizer: "Optimizer | None"
    control: "TrainerControl"

    def __init__(
        self,
        config: RunConfig,
        prepared: Prepared,
        folder: RunFolder,
        scorer: RougeScorer,
        numbers: NumbersCallback,
        ranks: Ranks,
    ) -> None:
        self._ranks = ranks
        self._config = config
        self._prepared = prepared
        self._folder = folder
        self._scorer = scorer
        self._timer = numbers.timer
        callbacks = [numbers]
        if config.early_stopping_patience is not None:
            callbacks.insert(0, EarlyStoppingCallback(config.early_stopping_patience, config.early_stopping_threshold))
        super().__init__(
            model=prepared.model,
            args=training_arguments(
                config, folder.path, len(prepared.train.sources), prepared.architecture, ranks.size
            ),
            train_dataset=EncodedDataset(prepared.train, prepared.kind),
            eval_dataset=EncodedDataset(longest_first(prepared.dev), prepared.kind),
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
            counted = (inputs["labels"] != IGNORED_LABEL).sum()
            if self._ranks.size > 1:  # fillers alone have no mean loss; with labels they have one, and weigh nothing
                inputs = inputs | {"labels": torch.where(counted > 0, inputs["labels"], 0)}
            loss = forward_loss(
                model, inputs, label_smoothing=self._config.label_smoothing, causal=self._prepared.kind == "causal"
            )
            if num_items_in_batch is None:
                return loss
            # Processes average their gradients, but each counted the tokens of all.
            share = counted * self.accelerator.num_processes / num_items_in_batch
            weighted: Tensor = loss * share
            return weighted

    def training_step(
        self, model: "nn.Module", inputs: dict[str, "Tensor"], num_items_in_batch: "Tensor | int | None" = None
    ) -> "Tensor":
        """Times one micro-batch, forward and backward, and counts its tokens."""
        tokens = inputs["attention_mask"].sum()  # a causal model's input holds the summary too
        if self._prepared.kind != "causal":
            tokens = tokens + (inputs["labels"] != IGNORED_LABEL).sum()
        self._timer.count_tokens(tokens)
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
        lengths = [len(item["input_ids"]) for item in self.train_dataset]
        multiple = self._ranks.size * self._train_batch_size if self._ranks.size > 1 else 1
        sampler = GroupedSampler(lengths, self._config.batch_size, self._config.seed, multiple)
        self.add_callback(EpochCallback(sampler))
        return sampler

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
        texts = self._ranks.together(self.summarize_dev())
        if self._ranks.is_first:
            references = [list(example.summaries) for example in self._prepared.dev_examples]
            scores = score_metrics(self._scorer.score(texts, references), self._config)
            metrics |= {f"{metric_key_prefix}_{name}": value for name, value in scores.items()}
            self._keep_if_best(metrics, texts, metric_key_prefix)
        metrics = self._ranks.told(metrics)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def summarize_dev(self) -> list[str]:
        """Writes a summary of every dev dialogue of this process's part with the model as it is now."""
        prepared = self._prepared
        model = self.accelerator.unwrap_model(self.model)
        with self.compute_loss_context_manager():
            sources = self._ranks.part_of(prepared.dev.sources)
            return summarize(model, prepared.tokenizer, sources, self._config, prepared.kind)

    def _keep_if_best(self, metrics: dict[str, float], texts: Sequence[str], prefix: str) -> None:
        """Saves model and summaries at once when they are the best so far: a run may be stopped at any time."""
        before = self._folder.best()
        best = {"best/" + name.removeprefix(f"{prefix}_"): value for name, value in metrics.items()}
        if before and best[BEST_SCORE] <= before[BEST_SCORE]:
            return
        best["best/global_step"] = float(self.state.global_step)
        self._folder.keep_best(self.save_model, best, self._prepared.dev_examples, texts)

    def _dev_batches(self) -> "DataLoader[dict[str, Tensor]]":
        """This process's part: transformers would fill it up with dialogues that then count twice."""
        dataset = self.eval_dataset
        if self._ranks.size > 1:
            dataset = Subset(dataset, self._ranks.part_of(range(len(dataset))))
        return DataLoader(
            dataset,
            batch_size=self._config.generation_batch_size,
            collate_fn=self.data_collator,
            num_workers=self._config.dataloader_workers,
        )

    @torch.no_grad()
    def _mean_loss(self) -> float:
        """The dev loss: every summary token counts the same, whatever the batch."""
        was_training, total, tokens = self.model.training, 0.0, 0
        self.model.eval()
        for batch in self._dev_batches():
            inputs = self._prepare_inputs(batch)
            counted = int((inputs["labels"] != IGNORED_LABEL).sum())
            with self.compute_loss_context_manager():
                loss = forward_loss(self.model, inputs, label_smoothing=0.0, causal=self._prepared.kind == "causal")
            total += loss.item() * counted
            tokens += counted
        self.model.train(was_training)
        total, tokens = self._ranks.total(total), int(self._ranks.total(tokens))
        refuse_no_number("dev loss", total / tokens, self.state.global_step, self._config.learning_rate)
        return total / tokens
