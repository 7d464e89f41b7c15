"""Trains one summarizer, in one or several processes, and writes its files."""

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import set_seed

from dialsum.callbacks import NumbersCallback, read_history
from dialsum.config import RunConfig
from dialsum.data import Example, load_examples
from dialsum.device import allowed_bytes, forget_earlier_runs
from dialsum.finished import load_finished, predict, score, score_metrics, submission
from dialsum.metrics import RougeScorer
from dialsum.preparation import prepare
from dialsum.ranks import Ranks, joined_ranks
from dialsum.reporter import NullReporter, Reporter
from dialsum.run_folder import RunFolder, write_predictions
from dialsum.sharded_trainer import ShardedTrainer
from dialsum.summarizer_trainer import SummarizerTrainer
from tuning_common.files import write_text

logger = logging.getLogger(__name__)
CACHE_DIR = Path(".cache/dialsum")


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """The result of a run.

    Attributes:
        metrics: The last evaluation's numbers, with train/*, time/* and memory/*.
        best_metrics: The best evaluation's numbers, as best/*.
        best_model_dir: Folder of the best model, for transformers' from_pretrained.
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
        output_dir: Receives the files of RunFolder, and checkpoints.
        reporter: Receives every evaluation with its checkpoint; may raise SystemExit to end the run. With several
            processes, only the first one's gets evaluations; each one's own gets its steps.
        resume_from: A checkpoint folder of an earlier, interrupted run of the same configuration.
        cache_dir: Tokenizers and encodings, shared by the trials of a sweep.
        limit_bytes: Memory limit on the device, for a warning near it; the device's own limit when None.

    Returns:
        The metrics and the folder of the best model.

    Raises:
        RequestError: When data, model or configuration cannot be used.
        DivergedError: When the loss is NaN or infinite.
    """
    folder = RunFolder(output_dir)
    with joined_ranks() as ranks, folder.log() if ranks.is_first else nullcontext():
        torch.set_num_threads(config.cpu_threads)
        test = Path(config.test_file) if config.test_file else None
        test_examples = load_examples(test, require_summary=False, columns=config.columns) if test else []
        scorer = RougeScorer(config.language)
        limit_bytes = limit_bytes or allowed_bytes()
        numbers = NumbersCallback(config, reporter or NullReporter(), folder, scorer.identity, limit_bytes, ranks)
        forget_earlier_runs()
        _fit(config, folder, scorer, numbers, resume_from, cache_dir, ranks)
        test_metrics = None
        if test_examples and ranks.is_first:
            forget_earlier_runs()  # frees the trained model before the best one is loaded
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
    kind = ShardedTrainer if config.fsdp else SummarizerTrainer
    trainer = kind(config, prepare(config, cache_dir), folder, scorer, numbers, ranks)
    if ranks.size > 1:
        torch.set_num_threads(config.cpu_threads)  # accelerate sets another number
        set_seed(config.seed + ranks.rank)  # different dropout per process; the weights exist already
    if ranks.is_first:
        folder.begin(
            config, resumed=resume_from is not None
        )  # after the checks: a wrong request must not remove an earlier run
    if resume_from is not None:
        numbers.history.extend(read_history(resume_from))
        if ranks.is_first and numbers.history and not folder.best():
            logger.warning(
                "the best model before this resume is missing; the best is chosen among the evaluations from now on"
            )
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
