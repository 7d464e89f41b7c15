"""Trains each configuration of a table once, for comparisons of search methods by replay; see benchmarks/search.py.

Three tiny models are trained from scratch on 10,460 dialogues of DialogSum whose summaries name no speaker ("someone"
instead of "#Person1#"). Every trial of the table goes on from there with the other 2,000 dialogues and the summaries as
they are. Writes search_table.jsonl: one JSON line for each trial, with the score, the dev loss and the CPU seconds of
every evaluation. Goes on where it was interrupted; the models alternate, so that every part of the table is balanced.

    python -m benchmarks.search_table
"""

import argparse
import itertools
import json
import logging
import random
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dialsum.callbacks import NumbersCallback
from dialsum.config import RunConfig
from dialsum.device import forget_earlier_runs
from dialsum.metrics import RougeScorer, RougeScores
from dialsum.preparation import prepare
from dialsum.ranks import Ranks
from dialsum.reporter import RecordingReporter
from dialsum.run_folder import RunFolder
from dialsum.summarizer_trainer import SummarizerTrainer
from tune_jobs.config.space import Categorical, Range, Space, Value
from tuning_common.errors import DivergedError, RequestError
from tuning_common.files import append_jsonl, read_jsonl, write_text

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared/data/dialogsum"
WORK = ROOT / "outputs/search_table"
TABLE = Path(__file__).with_suffix(".jsonl")
MODELS = ("bart", "gpt2", "t5")
TRAINED, DEV = 2000, 80  # dialogues
EVALUATIONS = 6  # of a trial, at equal distances
CONFIGURATIONS = 100  # of each model
REPEATED, SEEDS = 10, (0, 1, 2)  # every tenth configuration is trained with three seeds
SPACE = Space(
    parameters=(
        Range(name="learning_rate", distribution="log_uniform_values", low=1e-4, high=3e-2),
        Categorical(name="batch_size", options=(8, 16, 32, 64)),
        Range(name="warmup_ratio", distribution="uniform", low=0.0, high=0.3),
        Range(name="weight_decay", distribution="log_uniform_values", low=1e-4, high=0.3),
        Range(name="dropout", distribution="uniform", low=0.0, high=0.3),
        Range(name="label_smoothing", distribution="uniform", low=0.0, high=0.2),
        Categorical(name="lr_scheduler", options=("linear", "cosine", "constant")),
        Categorical(name="encoder_max_len", options=(32, 48, 64)),
    )
)
BASE = RunConfig(
    train_file=str(WORK / "train.jsonl"),
    dev_file=str(WORK / "dev.jsonl"),
    language="en",
    encoder_max_len=128,
    decoder_max_len=32,
    no_repeat_ngram_size=3,
    generation_batch_size=DEV,
    loss_batch_size=40,
    precision="fp32",
    tiny_hidden_size=64,
    tiny_layers=1,
    tiny_vocab_size=1500,
)
PRETRAINING: Mapping[str, object] = {
    "train_file": str(WORK / "pretraining.jsonl"), "learning_rate": 2e-3, "batch_size": 32, "dropout": 0.0,
    "warmup_ratio": 0.05, "lr_scheduler": "constant",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Planned:
    """A trial of the table.

    Attributes:
        model: bart, gpt2 or t5.
        configuration: Number of its configuration, from 0; the same for all seeds and all models.
        seed: Of order and dropout.
        sampled: Its values.
    """

    model: str
    configuration: int
    seed: int
    sampled: Mapping[str, Value]

    @property
    def name(self) -> str:
        """Unique in the table."""
        return f"{self.model}-{self.configuration}-{self.seed}"


class HalfScorer(RougeScorer):
    """Scores all dev dialogues, and remembers the scores of their first half."""

    def __init__(self, language: str) -> None:
        super().__init__("en" if language == "en" else "ko")
        self.halves: list[float] = []

    def score(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> RougeScores:
        """Scores the predictions."""
        half = len(predictions) // 2
        self.halves.append(super().score(predictions[:half], references[:half]).combined())
        return super().score(predictions, references)


class CpuReporter(RecordingReporter):
    """Records the CPU seconds of this process at every evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.cpu_s: list[float] = []

    def report(self, metrics: Mapping[str, float], checkpoint: Path | None) -> None:
        """Records one evaluation."""
        super().report(metrics, checkpoint)
        self.cpu_s.append(time.process_time())


def planned() -> Iterator[Planned]:
    """Yields the trials in their order: the models alternate, and further seeds follow after every fifty."""
    rng = random.Random(17)
    configurations = [SPACE.sample(rng) for _ in range(CONFIGURATIONS)]
    numbered = list(enumerate(configurations))
    for half in (numbered[: CONFIGURATIONS // 2], numbered[CONFIGURATIONS // 2 :]):
        for seed in SEEDS:
            for number, sampled in half:
                if seed == SEEDS[0] or number % REPEATED == 0:
                    for model in MODELS:
                        yield Planned(model=model, configuration=number, seed=seed, sampled=sampled)


def write_data() -> None:
    """Writes the dialogues of the table: 2,000 for trials, 80 dev dialogues, and the rest for the pretraining."""
    lines = (DATA / "dialogsum.train.jsonl").read_text(encoding="utf-8").splitlines()
    dev = (DATA / "dialogsum.dev.jsonl").read_text(encoding="utf-8").splitlines()
    write_text(WORK / "train.jsonl", "\n".join(lines[:TRAINED]) + "\n")
    write_text(WORK / "dev.jsonl", "\n".join(dev[:DEV]) + "\n")
    rows = [json.loads(line) for line in lines[TRAINED:]]
    nameless = [row | {"summary": re.sub(r"#Person\d#", "someone", row["summary"])} for row in rows]
    write_text(WORK / "pretraining.jsonl", "".join(json.dumps(row) + "\n" for row in nameless))


def fit(config: RunConfig, folder: Path) -> list[dict[str, float]]:
    """Trains one model with the product's trainer.

    Returns:
        For each evaluation `score` (ROUGE, combined), `half` (of the first half of the dev dialogues), `loss` and
        `cpu_s` since the start; those before the divergence where the training diverged.
    """
    began = time.process_time()
    torch.set_num_threads(1)
    forget_earlier_runs()
    scorer, reporter, run = HalfScorer(config.language), CpuReporter(), RunFolder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    numbers = NumbersCallback(config, reporter, run, scorer.identity)
    trainer = SummarizerTrainer(config, prepare(config, WORK / "cache"), run, scorer, numbers, Ranks())
    run.begin(config, resumed=False)
    try:
        trainer.train()
    except DivergedError as error:
        logging.getLogger(__name__).info("%s diverged: %s", folder.name, error)
    run.drop_checkpoints()
    rows = zip(reporter.reports, scorer.halves, reporter.cpu_s, strict=False)  # a NaN loss ends a run before its report
    return [
        {
            "score": round(report["eval/rouge_combined_f1"], 3),
            "half": round(half, 3),
            "loss": round(report["eval/loss"], 4),
            "cpu_s": round(cpu_s - began, 3),
        }
        for report, half, cpu_s in rows
    ]


def pretrained(model: str, epochs: int) -> Path:
    """Returns the folder of a model's weights before the trials; trains them the first time."""
    folder = WORK / f"pretrained_{model}"
    kept = folder / "kept"
    if not kept.exists():
        steps = 10460 // 32 * epochs
        rows = fit(
            BASE.with_changes({**PRETRAINING, "model": f"tiny-{model}", "max_steps": steps, "eval_steps": steps // 4}),
            folder,
        )
        write_text(folder / "rows.json", json.dumps(rows))
        RunFolder(folder).best_model.rename(kept)
    return kept


def configured(trial: Planned, epochs: float, pretraining: int) -> RunConfig:
    """Returns the run of a trial."""
    batch = trial.sampled["batch_size"]
    assert isinstance(batch, int)
    rung = round(TRAINED * epochs / batch / EVALUATIONS)
    changes = {"model": str(pretrained(trial.model, pretraining)), "seed": trial.seed}
    return BASE.with_changes({**trial.sampled, **changes, "eval_steps": rung, "max_steps": rung * EVALUATIONS})


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains what the table lacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--most", type=int, help="end after this many trials of the table")
    parser.add_argument("--epochs", type=float, default=1.0, help="of a trial")
    parser.add_argument("--pretraining", type=int, default=4, help="epochs of the pretraining")
    chosen = parser.parse_args(arguments)
    if not DATA.is_dir():
        raise RequestError(f"the dialogues of DialogSum are expected in {DATA}; they are no part of this project")
    WORK.mkdir(parents=True, exist_ok=True)
    write_data()
    done = {row["name"] for row in read_jsonl(chosen.table)[0]}
    for trial in itertools.islice(planned(), chosen.most):
        if trial.name in done:
            continue
        evaluations = fit(configured(trial, chosen.epochs, chosen.pretraining), WORK / "trial")
        shutil.rmtree(WORK / "trial")
        append_jsonl(
            chosen.table,
            {
                "name": trial.name, "model": trial.model, "configuration": trial.configuration, "seed": trial.seed,
                "sampled": dict(trial.sampled), "evaluations": evaluations,
            },
        )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
