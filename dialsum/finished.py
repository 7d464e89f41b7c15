"""Loads a finished run's best model, to summarize and to score."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dialsum.adapters import base_of
from dialsum.config import WITHOUT_ADAPTER, RunConfig, load_run_config
from dialsum.data import Example
from dialsum.device import autocast, precision_of
from dialsum.encoding import encode
from dialsum.generate import summarize
from dialsum.metrics import RougeScorer, RougeScores
from dialsum.models import Kind, build_model, load_config, resolve
from dialsum.tokenizers import build_tokenizer
from tuning_common.errors import RequestError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_FORMULA = ("=", "+", "-", "@", "\t")  # how a cell begins that a spreadsheet would compute


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """The best model of a run, ready to summarize."""

    config: RunConfig
    kind: Kind
    tokenizer: "PreTrainedTokenizerBase"
    model: "PreTrainedModel"
    cache_dir: Path


def load_finished(folder: Path, cache_dir: Path, changes: Mapping[str, object] | None = None) -> FinishedRun:
    """Loads the best model of an experiment folder.

    Args:
        folder: Output of `python -m dialsum train` or of a trial: config.yaml and models/best_model.
        cache_dir: Folder of encodings.
        changes: New values for the run's configuration, for example num_beams.

    Raises:
        RequestError: When the folder holds no finished run.
    """
    model_dir = folder / "models" / "best_model"
    if not (model_dir / "config.json").exists():
        raise RequestError(f"{folder} holds no finished run: {model_dir}/config.json is missing")
    config = load_run_config(folder / "config.yaml", {"model": str(model_dir), **(changes or {})})
    torch.set_num_threads(config.cpu_threads)
    tokenizer = build_tokenizer(config, [], cache_dir)
    model = build_model(config, tokenizer).to("cuda" if torch.cuda.is_available() else "cpu")
    return FinishedRun(
        config=config, kind=resolve(config.model).kind, tokenizer=tokenizer, model=model, cache_dir=cache_dir
    )


def save_merged(folder: Path, output: Path, cache_dir: Path) -> None:
    """Merges a run's adapter into its base in fp32 and writes one model, in the number format of the base's files.

    Args:
        folder: See load_finished.
        output: Receives the model and its tokenizer.
        cache_dir: Folder of encodings.

    Raises:
        RequestError: When the folder holds no finished run.
    """
    base = base_of(str(folder / "models" / "best_model"))
    assert base is not None, "its model has an adapter"
    run = load_finished(folder, cache_dir, WITHOUT_ADAPTER)
    stored = load_config(base).dtype
    run.model.to(stored or torch.float32).save_pretrained(str(output))
    run.tokenizer.save_pretrained(str(output))


def predict(run: FinishedRun, examples: Sequence[Example]) -> list[str]:
    """Returns one summary per dialogue, in order, computed in the number format of the training's evaluations."""
    encoding = encode(examples, run.tokenizer, run.config, run.cache_dir)
    with autocast(precision_of(run.config.precision, run.model.config.model_type)):
        return summarize(run.model, run.tokenizer, encoding.sources, run.config, run.kind)


def score(run: FinishedRun, examples: Sequence[Example], texts: Sequence[str]) -> RougeScores:
    """Scores summaries against the references of their dialogues, in the run's language."""
    return RougeScorer(run.config.language).score(texts, [example.summaries for example in examples])


def score_metrics(scores: RougeScores, config: RunConfig) -> dict[str, float]:
    """Returns scores under the metric names of evaluations; ROUGE is 0 to 100.

    Returns:
        `rouge1_f1`, `rouge2_f1`, `rougeL_f1`, `rouge_combined_f1`, `rouge_mean_f1`, `mean_summary_chars`.
    """
    return {
        "rouge1_f1": scores.rouge1_f1,
        "rouge2_f1": scores.rouge2_f1,
        "rougeL_f1": scores.rougeL_f1,
        "rouge_combined_f1": scores.combined(config.rouge_weights, config.summary_length_floor_chars),
        "rouge_mean_f1": scores.mean,
        "mean_summary_chars": scores.mean_summary_chars,
    }


def submission(names: Sequence[str], texts: Sequence[str]) -> str:
    """Formats summaries as the Korean task's submission file: an unnamed index column, fname, summary.

    A text that a spreadsheet would take for a formula begins with an apostrophe, as spreadsheets write text.

    >>> submission(["test_0", "test_1"], ["예약한다, 내일.", "=1+1"])
    ',fname,summary\\n0,test_0,"예약한다, 내일."\\n1,test_1,\\'=1+1\\n'
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["", "fname", "summary"])
    rows = enumerate(zip(names, texts, strict=True))
    writer.writerows([index, _as_text(name), _as_text(text)] for index, (name, text) in rows)
    return buffer.getvalue()


def _as_text(cell: str) -> str:
    cell = cell.replace("\r\n", "\n").replace("\r", "\n")  # csv does not quote a bare \r, where a new row would begin
    return f"'{cell}" if cell.startswith(_FORMULA) else cell
