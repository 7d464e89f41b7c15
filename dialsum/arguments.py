"""Converts a run configuration to transformers' training arguments."""

import math
from pathlib import Path

import torch
from transformers import Seq2SeqTrainingArguments

from dialsum.config import RunConfig
from dialsum.device import precision_of
from dialsum.ranks import piece_of


class OneCardArguments(Seq2SeqTrainingArguments):  # type: ignore[misc]  # transformers is not typed
    """Arguments of a process that uses one card, also where it sees more.

    With more, transformers would split each batch among them and multiply it (DataParallel).
    """

    @property
    def n_gpu(self) -> int:
        """Cards that the process uses: one, or none."""
        seen: int = super().n_gpu
        return min(seen, 1)


def training_arguments(
    config: RunConfig, output_dir: Path, num_examples: int, architecture: str, ranks: int = 1
) -> Seq2SeqTrainingArguments:
    """Converts a run configuration to transformers' arguments.

    Args:
        config: The run.
        output_dir: Receives the checkpoints.
        num_examples: Training examples, for the number of warm-up steps.
        architecture: Decides the precision where the configuration says "auto".
        ranks: Processes that share each batch.

    Raises:
        RequestError: When the batch cannot be divided among them, or the device lacks the precision.
    """
    steps_an_epoch = math.ceil(num_examples / config.batch_size)
    total_steps = config.max_steps or steps_an_epoch * config.num_epochs
    rhythm = "steps" if config.eval_steps else "epoch"
    precision = precision_of(config.precision, architecture)
    return OneCardArguments(
        output_dir=str(output_dir),
        per_device_train_batch_size=piece_of(config, ranks),
        per_device_eval_batch_size=config.generation_batch,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        num_train_epochs=config.num_epochs,
        max_steps=config.max_steps or -1,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.lr_scheduler if config.lr_scheduler != "constant" else "constant_with_warmup",
        warmup_steps=round(total_steps * config.warmup_ratio) if config.warmup_steps is None else config.warmup_steps,
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
        metric_for_best_model=config.metric.replace("/", "_"),
        greater_is_better=config.goal == "maximize",
        dataloader_num_workers=config.dataloader_workers,
        dataloader_pin_memory=torch.cuda.is_available() if config.pin_memory is None else config.pin_memory,
        remove_unused_columns=False,
        use_cpu=not torch.cuda.is_available(),
        seed=config.seed,
        report_to=[],
        disable_tqdm=True,
        log_level="error",
    )
