"""Measured training runs in a process of their own; benchmarks/training.py and techniques.py start it.

`python -m benchmarks.training_run '{"system": "dialsum", "config": {...}, "purpose": "time"}'` prints a JSON object for
each argument. Imports, preparation and training are timed apart, in seconds of wall and of the CPU of this process and
of those that it starts, training from its begin to the end of its last step, without evaluation and saving.
"""

import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from benchmarks.training_watch import peak_bytes, reset_peak, watch_training
from dialsum.config import RunConfig
from tuning_common.cli import note
from tuning_common.errors import WorkError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import Trainer

    from dialsum.preparation import Prepared

System = Literal["dialsum", "own_loss", "ungrouped", "looped", "plain", "plain_padded"]
Purpose = Literal["time", "memory", "profile"]
ROOT = Path(__file__).resolve().parent.parent
DATA = Path("../shared/data/dialogsum")  # from ROOT, where every run starts
CACHE = Path(".cache/benchmarks")
OWN_MAPPING_BYTES = str(64 * 2**10)
TOP_OPERATIONS = 40


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """What is trained.

    Attributes:
        system: dialsum; own_loss: the same with the model's own loss; ungrouped: the same with a random order of
            dialogues; looped: with AdamW as a loop over the parameters; plain: Seq2SeqTrainer with its defaults and
            DataCollatorForSeq2Seq; plain_padded: the same on data that are padded to the longest allowed lengths.
        config: Values of a RunConfig, for all alike; max_steps bounds the run.
        purpose: time; memory: each larger tensor is a mapping of its own, so that resident memory follows tensors;
            profile: torch's profiler runs beside it. Only the first one's times are of use.
    """

    system: System
    config: Mapping[str, object]
    purpose: Purpose = "time"

    @property
    def key(self) -> str:
        """The run as JSON: its command line, and its name among the results."""
        return json.dumps({"system": self.system, "config": dict(self.config), "purpose": self.purpose}, sort_keys=True)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured.

    Attributes:
        import_cpu_s: CPU seconds of the imports.
        prepare_cpu_s: CPU seconds of data, tokenizer and model.
        train_cpu_s: CPU seconds of the steps, user and system.
        train_user_s: User part of train_cpu_s.
        train_wall_s: Wall seconds of the steps.
        step_cpu_s: CPU seconds of each optimizer step.
        optimizer_cpu_s: Part of all but the first of them in the optimizer; the first one makes its states.
        samples: Dialogues that were trained on.
        batches: Rows, longest dialogue and longest summary of each micro-batch of an epoch.
        dev_loss: Loss on the dev data after the last step, mean over tokens.
        weight_bytes: Bytes of the parameters.
        peak_bytes: Peak resident memory of training less that before it, plus weight_bytes, and what processes of the
            data loader have for themselves.
        operations: Self CPU seconds by operation, where the run was profiled.
    """

    import_cpu_s: float
    prepare_cpu_s: float
    train_cpu_s: float
    train_user_s: float
    train_wall_s: float
    step_cpu_s: list[float]
    optimizer_cpu_s: float
    samples: int
    batches: list[list[int]]
    dev_loss: float
    weight_bytes: int
    peak_bytes: int
    operations: dict[str, float] = field(default_factory=dict)

    @property
    def padded_tokens(self) -> int:
        """Positions of all batches of an epoch, padding included."""
        return sum(rows * (source + target) for rows, source, target in self.batches)


def start(runs: Sequence[TrainingRun]) -> list[Measured]:
    """Runs trainings one after another in a fresh process with one thread, the first without compiled code at hand.

    Raises:
        WorkError: When one fails; with the end of its output.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if runs[0].purpose == "memory":  # glibc: mallopt(3)
        environment |= {"MALLOC_MMAP_THRESHOLD_": OWN_MAPPING_BYTES, "MALLOC_TRIM_THRESHOLD_": OWN_MAPPING_BYTES}
    with tempfile.TemporaryDirectory() as folder:
        environment |= {"TORCHINDUCTOR_CACHE_DIR": folder, "TORCHINDUCTOR_COMPILE_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.training_run", *(run.key for run in runs)],
            capture_output=True, text=True, check=False, env=environment, cwd=ROOT,
        )  # fmt: skip
    if done.returncode:
        raise WorkError(f"{runs[0].key} or later: failed:\n" + "\n".join(done.stderr.splitlines()[-6:]))
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"')]  # transformers prints its own between
    return [Measured(**json.loads(line)) for line in lines]


def start_missing(groups: Sequence[Sequence[TrainingRun]], results: Path) -> dict[str, Measured]:
    """Runs what a file of results lacks, each group in one process, and adds it there; returns results by key."""
    found = read_results(results)
    results.parent.mkdir(parents=True, exist_ok=True)
    for done, group in enumerate(groups):
        missing = [run for run in group if run.key not in found]
        if not missing:
            continue
        note(f"{done + 1} of {len(groups)}: {missing[0].key}")
        for run, measured in zip(missing, start(missing), strict=True):
            found[run.key] = measured
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": run.key} | asdict(measured)) + "\n")
    return found


def read_results(results: Path) -> dict[str, Measured]:
    """Returns the results of a file by key; nothing where it does not exist."""
    if not results.exists():
        return {}
    rows = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    return {row.pop("key"): Measured(**row) for row in rows}


def machine() -> str:
    """Returns machine and versions for a page."""
    import platform
    from importlib.metadata import version

    return (
        f"{platform.machine()}, Python {platform.python_version()}, torch {version('torch')}, transformers"
        f" {version('transformers')}; one thread for each run, on {os.cpu_count()} cores that other work shared"
    )


def main(arguments: Sequence[str]) -> int:
    """Runs the jobs of the command line."""
    begin_s = time.process_time()
    import torch
    import transformers  # noqa: F401  # its classes are imported where they are used

    from dialsum.summarizer_trainer import SummarizerTrainer  # noqa: F401  # everything that the product imports

    import_cpu_s = time.process_time() - begin_s
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    runs = [TrainingRun(**json.loads(argument)) for argument in arguments]
    if runs[0].purpose == "memory":  # libraries allocate for themselves in a process's first training
        _measured(runs[0])
    for run in runs:
        torch.compiler.reset()  # only what a process that starts would find on the disk
        sys.stdout.write(json.dumps({"import_cpu_s": import_cpu_s} | _measured(run)) + "\n")
    return 0


def _measured(run: TrainingRun) -> dict[str, object]:
    config = RunConfig.from_dict(run.config, where="benchmark")
    with tempfile.TemporaryDirectory() as folder:
        return measure(config, run.system, Path(folder), profile=run.purpose == "profile")


def measure(config: RunConfig, system: System, folder: Path, *, profile: bool) -> dict[str, object]:
    """Trains; returns the values of Measured except those of the imports."""
    from dialsum.preparation import prepare

    begin_s = time.process_time()
    prepared = prepare(config, CACHE)
    prepare_cpu_s = time.process_time() - begin_s
    trainer = build_trainer(config, system, prepared, folder)
    watch = watch_training(trainer)
    before_bytes = reset_peak()
    operations = _profiled(trainer) if profile else _trained(trainer)
    grown_bytes = peak_bytes() - before_bytes
    weight_bytes = sum(parameter.nbytes for parameter in prepared.model.parameters())
    return watch.values() | {
        "prepare_cpu_s": prepare_cpu_s,
        "samples": int(trainer.state.global_step) * config.batch_size,
        "batches": [_shape(batch, causal=prepared.kind == "causal") for batch in trainer.get_train_dataloader()],
        "dev_loss": dev_loss(prepared, config),
        "weight_bytes": weight_bytes,
        "peak_bytes": grown_bytes + weight_bytes + watch.worker_bytes,
        "operations": operations,
    }


def _shape(batch: Mapping[str, "Tensor"], *, causal: bool) -> list[int]:
    """Returns rows, longest dialogue and longest summary; a causal model's input has both."""
    from dialsum.step import IGNORED_LABEL

    rows, source = batch["input_ids"].shape
    if not causal:
        return [rows, source, batch["labels"].shape[1]]
    target = int((batch["labels"] != IGNORED_LABEL).sum(1).max())
    return [rows, source - target, target]


def build_trainer(config: RunConfig, system: System, prepared: "Prepared", folder: Path) -> "Trainer":
    """Builds the trainer of a system for the same model, data and settings."""
    from torch import nn
    from torch.utils.data import RandomSampler, Sampler

    from dialsum.callbacks import NumbersCallback
    from dialsum.encoding import EncodedDataset
    from dialsum.metrics import RougeScorer
    from dialsum.ranks import Ranks
    from dialsum.reporter import NullReporter
    from dialsum.run_folder import RunFolder
    from dialsum.summarizer_trainer import SummarizerTrainer

    class OwnLoss(SummarizerTrainer):
        """The product's trainer with the model's own loss over all positions; for batches in one piece."""

        def compute_loss(self, model: nn.Module, inputs: dict[str, "Tensor"], *_: object, **__: object) -> "Tensor":
            del inputs["positions"]
            loss: Tensor = model(**inputs, use_cache=False)["loss"]
            return loss

    class Ungrouped(SummarizerTrainer):
        """The product's trainer with dialogues in random order."""

        def _get_train_sampler(self, train_dataset: EncodedDataset | None = None) -> Sampler[int]:  # type: ignore[override]
            return RandomSampler(self.train_dataset)

    if system in ("plain", "plain_padded"):
        return plain_trainer(config, prepared, folder, padded=system == "plain_padded")
    run_folder, scorer = RunFolder(folder), RougeScorer(config.language)
    numbers = NumbersCallback(config, NullReporter(), run_folder, scorer.identity)
    kinds: Mapping[str, type[SummarizerTrainer]] = {"ungrouped": Ungrouped, "own_loss": OwnLoss}
    trainer = kinds.get(system, SummarizerTrainer)(config, prepared, run_folder, scorer, numbers, Ranks())
    if system == "looped":
        for group in trainer.create_optimizer().param_groups:
            group.update(foreach=False, fused=False)
    return trainer


def plain_trainer(config: RunConfig, prepared: "Prepared", folder: Path, *, padded: bool) -> "Trainer":
    """Builds transformers' trainer as its examples do; only what both must share is set."""
    from transformers import DataCollatorForSeq2Seq, Seq2SeqTrainer, Seq2SeqTrainingArguments

    from dialsum.encoding import EncodedDataset
    from dialsum.step import IGNORED_LABEL

    dataset = EncodedDataset(prepared.train, prepared.kind)
    items = [dict(dataset[index]) for index in range(len(dataset))]
    for item in items:
        item["attention_mask"] = [1] * len(item["input_ids"])
        if padded:
            source, target = config.encoder_max_len, config.decoder_max_len
            width = source if prepared.kind == "seq2seq" else source + target
            _fill(item, "input_ids", width, int(prepared.tokenizer.pad_token_id))
            _fill(item, "attention_mask", width, 0)
            _fill(item, "labels", target if prepared.kind == "seq2seq" else width, IGNORED_LABEL)
    arguments = Seq2SeqTrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=config.batch_size, max_steps=config.max_steps,
        learning_rate=config.learning_rate, weight_decay=config.weight_decay, seed=config.seed, use_cpu=True,
        warmup_steps=round((config.max_steps or 0) * config.warmup_ratio), save_strategy="no", report_to=[],
        disable_tqdm=True,
    )  # fmt: skip
    collator = DataCollatorForSeq2Seq(
        prepared.tokenizer,
        model=prepared.model if prepared.kind == "seq2seq" else None,
        label_pad_token_id=IGNORED_LABEL,
    )
    return Seq2SeqTrainer(model=prepared.model, args=arguments, train_dataset=items, data_collator=collator)


def _fill(item: dict[str, list[int]], name: str, width: int, filler: int) -> None:
    item[name] = item[name] + [filler] * (width - len(item[name]))


def dev_loss(prepared: "Prepared", config: RunConfig) -> float:
    """Returns the model's own loss on the dev data, the mean over summary tokens; the same for every system."""
    import torch

    from dialsum.encoding import Collator, EncodedDataset, longest_first

    dataset = EncodedDataset(longest_first(prepared.dev), prepared.kind)
    collate = Collator(pad_id=int(prepared.tokenizer.pad_token_id), kind=prepared.kind)
    prepared.model.eval()
    total, tokens = 0.0, 0
    with torch.no_grad():
        for start_index in range(0, len(dataset), config.batch_size):
            indices = range(start_index, min(start_index + config.batch_size, len(dataset)))
            batch: dict[str, Tensor] = collate([dataset[index] for index in indices])
            counted = len(batch.pop("positions"))
            total += float(prepared.model(**batch, use_cache=False)["loss"]) * counted
            tokens += counted
    return total / tokens


def _trained(trainer: "Trainer") -> dict[str, float]:
    trainer.train()
    return {}


def _profiled(trainer: "Trainer") -> dict[str, float]:
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler:
        trainer.train()
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
    return {event.key: event.self_cpu_time_total / 1e6 for event in events[:TOP_OPERATIONS]}


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
