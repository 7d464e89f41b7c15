"""The step, the evaluation and the files of a run, as a Hugging Face trainer."""

import functools
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.utils.data import DataLoader, Subset
from transformers import EarlyStoppingCallback, PrinterCallback, Seq2SeqTrainer

from dialsum.adapters import has_adapter, save_adapter
from dialsum.arguments import training_arguments
from dialsum.callbacks import EpochCallback, NumbersCallback, check_finite
from dialsum.config import RunConfig
from dialsum.device import autocast, precision_of
from dialsum.encoding import Collator, EncodedDataset, longest_first
from dialsum.finished import score_metrics
from dialsum.generate import summarize
from dialsum.metrics import RougeScorer
from dialsum.optimizers import build_optimizer
from dialsum.preparation import Prepared
from dialsum.ranks import Ranks
from dialsum.run_folder import RunFolder
from dialsum.sampling import FILLER, GroupedSampler
from dialsum.step import forward_loss
from tuning_common.goal import better

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer
    from transformers import TrainerControl


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
        # Positions reach the head by a hook: each other number of them would compile again. torch has no other name for
        # this setting (2.13); tests/dialsum/test_step.py counts the graphs.
        if config.torch_compile:
            torch._dynamo.config.force_nn_module_property_static_shapes = False
        super().__init__(
            model=prepared.model,
            args=training_arguments(
                config, folder.path, len(prepared.train.sources), prepared.architecture, ranks.size
            ),
            train_dataset=EncodedDataset(prepared.train, prepared.kind),
            eval_dataset=EncodedDataset(longest_first(prepared.dev), prepared.kind),
            processing_class=prepared.tokenizer,
            data_collator=Collator(
                pad_id=int(prepared.tokenizer.pad_token_id),
                kind=prepared.kind,
                multiple=8 if torch.cuda.is_available() else 1,
            ),
            callbacks=callbacks,
        )
        # compute_loss weighs micro-batches itself: the trainer must count tokens and must not divide the loss again,
        # whatever arguments forward takes (by default it does the opposite where forward has no **kwargs).
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
        """Returns the micro-batch's loss, from the function that the memory tracer also calls.

        Weighs each micro-batch by its summary tokens, so that the sum over a batch is its mean over all tokens.
        """
        with self._timer.part("forward_s"):
            loss = forward_loss(
                model, inputs, label_smoothing=self._config.label_smoothing, causal=self._prepared.kind == "causal"
            )
            if num_items_in_batch is None:
                return loss
            # Processes average their gradients, but each counted the tokens of all.
            share = len(inputs["positions"]) * self.accelerator.num_processes / num_items_in_batch
            weighted: Tensor = loss * share
            return weighted

    def training_step(
        self, model: "nn.Module", inputs: dict[str, "Tensor"], num_items_in_batch: "Tensor | int | None" = None
    ) -> "Tensor":
        """Times one micro-batch, forward and backward, and counts its tokens."""
        tokens = inputs["attention_mask"].sum()  # a causal model's input holds the summary too
        if self._prepared.kind != "causal":
            tokens = tokens + len(inputs["positions"])
        self._timer.count_tokens(tokens)
        with self._timer.part("step_s"):
            loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        return loss

    def create_optimizer(self, model: "nn.Module | None" = None) -> "Optimizer":
        """Builds the optimizer, from the function that the memory tracer also calls."""
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
        metrics = self._ranks.from_first(metrics)
        self._keep_if_best(metrics, texts, metric_key_prefix)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def summarize_dev(self) -> list[str]:
        """Summarizes this process's part of the dev dialogues with the current model."""
        prepared = self._prepared
        model = self.accelerator.unwrap_model(self.model)
        precision = precision_of(self._config.precision, prepared.architecture)
        # accelerate casts in the forward pass that it wraps; generation calls the one inside of an adapter's wrapper.
        with autocast(precision) if has_adapter(model) else nullcontext():
            sources = self._ranks.part_of(prepared.dev.sources)
            fillers = [prepared.dev.sources[0]] * self._missing(len(prepared.dev.sources))
            texts = summarize(model, prepared.tokenizer, [*sources, *fillers], self._config, prepared.kind)
            return texts[: len(sources)]

    def _save(self, output_dir: str | None = None, state_dict: "dict[str, Tensor] | None" = None) -> None:
        """Writes the model and its tokenizer; of a model with an adapter only the adapter."""
        if not has_adapter(self.model):
            super()._save(output_dir, state_dict)
            return
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_adapter(self.model, folder, state_dict)
        self._prepared.tokenizer.save_pretrained(str(folder))

    def weights(self) -> "dict[str, Tensor] | None":
        """Returns the weights to save; None means the model's own."""
        return None

    def _missing(self, total: int) -> int:
        """Returns the number of fillers this process needs to run as many forward passes as the others."""
        return self._ranks.missing(total) if self._config.fsdp else 0

    def _keep_if_best(self, metrics: dict[str, float], texts: Sequence[str], prefix: str) -> None:
        """Saves model and summaries when they are the best so far: a run may be stopped at any time."""
        best = {"best/" + name.removeprefix(f"{prefix}_"): value for name, value in metrics.items()}
        best["best/global_step"] = float(self.state.global_step)
        if not self._ranks.agree(self._ranks.is_first and self._is_better(best)):
            return
        weights = self.weights()
        if self._ranks.is_first:
            save = functools.partial(self._save, state_dict=weights)
            self._folder.keep_best(save, best, self._prepared.dev_examples, texts)

    def _is_better(self, best: dict[str, float]) -> bool:
        name = self._config.metric.replace("eval/", "best/")
        return better(best[name], self._folder.best().get(name), self._config.goal)

    def _dev_batches(self) -> "DataLoader[dict[str, Tensor]]":
        """Returns this process's part of the dev data; transformers would pad it with repeated dialogues."""
        dataset = self.eval_dataset
        if self._ranks.size > 1:
            fillers = [FILLER] * self._missing(len(dataset))
            dataset = Subset(dataset, [*self._ranks.part_of(range(len(dataset))), *fillers])
        return DataLoader(
            dataset,
            batch_size=self._config.loss_batch_size or self.args.per_device_train_batch_size,
            collate_fn=self.data_collator,
            num_workers=self._config.dataloader_workers,
        )

    @torch.no_grad()
    def _mean_loss(self) -> float:
        """Returns the dev loss, the mean over all summary tokens."""
        was_training, total, tokens = self.model.training, 0.0, 0
        self.model.eval()
        for batch in self._dev_batches():
            inputs = self._prepare_inputs(batch)
            counted = len(inputs["positions"])
            with self.compute_loss_context_manager():
                loss = forward_loss(self.model, inputs, label_smoothing=0.0, causal=self._prepared.kind == "causal")
            total += loss.item() * counted
            tokens += counted
        self.model.train(was_training)
        total, tokens = self._ranks.total(total), int(self._ranks.total(tokens))
        check_finite("dev loss", total / tokens, self.state.global_step, self._config.learning_rate)
        return total / tokens
