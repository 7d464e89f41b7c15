"""Trains a small model from scratch on English DialogSum on two cores; writes dialogsum_cpu.md and .png.

First `python -m tune_jobs run tune_jobs/sweeps/dialogsum_cpu.yaml`, then `python -m benchmarks.dialogsum_cpu`: the
winner of the sweep summarizes the 500 test dialogues (three references each), beside two baselines: the first three
turns, and the same model with its random weights. Reads ../shared/data/dialogsum, which is not a part of this project.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.pages import table
from dialsum.baselines import lead
from dialsum.config import RunConfig, load_run_config
from dialsum.data import Example, load_examples
from dialsum.finished import load_finished, predict
from dialsum.metrics import RougeScorer, RougeScores
from tune_jobs.records.ledger import Ledger, SweepFolder, TrialRecord
from tuning_common.cli import emit
from tuning_common.errors import RequestError
from tuning_common.files import write_text
from tuning_common.units import format_duration

ROOT = Path(__file__).resolve().parent.parent
SWEEP = "dialogsum_cpu"
TEST_FILE = ROOT.parent / "shared/data/dialogsum/dialogsum.test.jsonl"
CACHE = ROOT / ".cache/dialsum"
HERE = Path(__file__).with_suffix(".md")
METRIC = "eval/rouge_combined_f1"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One summarizer, scored on the test dialogues."""

    name: str
    scores: RougeScores
    combined: float

    def cells(self) -> list[str]:
        """Returns its row of the table."""
        found = (self.scores.rouge1_f1, self.scores.rouge2_f1, self.scores.rougeL_f1, self.combined)
        return [self.name, *(f"{value:.2f}" for value in found), f"{self.scores.mean_summary_chars:.0f}"]


def untrained(config: RunConfig, examples: Sequence[Example]) -> list[str]:
    """Summarizes with the run's own model before its first step."""
    from dialsum.encoding import encode
    from dialsum.generate import summarize
    from dialsum.preparation import prepare

    made = prepare(config, CACHE)
    sources = encode(examples, made.tokenizer, config, CACHE).sources
    return summarize(made.model, made.tokenizer, sources, config, made.kind)


def rows(folder: Path, examples: Sequence[Example]) -> list[Row]:
    """Scores both baselines and the best model."""
    config = load_run_config(folder / "config.yaml", {})
    scorer = RougeScorer(config.language)
    written = {
        "first three turns (lead-3)": [lead(example.dialogue, 3) for example in examples],
        "the same model, untrained": untrained(config, examples),
        "**the sweep's best model**": predict(load_finished(folder, CACHE), examples),
    }
    references = [example.summaries for example in examples]
    found = {name: scorer.score(texts, references) for name, texts in written.items()}
    weights, floor = config.rouge_weights, config.summary_length_floor_chars
    return [Row(name=name, scores=scores, combined=scores.combined(weights, floor)) for name, scores in found.items()]


def curve_table(trials: Sequence[TrialRecord]) -> str:
    """Returns a table of the trials: settings, scores and end."""
    longest = max(len(trial.history) for trial in trials)
    header = ["learning rate", "batch", "dropout", *(f"epoch {number}" for number in range(1, longest + 1)), "end"]
    body = []
    for trial in trials:
        scores = [f"{row[METRIC]:.2f}" for row in trial.history]
        sampled = trial.sampled
        body.append(
            [f"{float(str(sampled['learning_rate'])):.1e}", str(sampled["batch_size"]), str(sampled["dropout"])]
            + scores
            + [""] * (longest - len(scores))
            + [f"{trial.status} after {len(scores)}"]
        )
    return table(header, body)


def draw(trials: Sequence[TrialRecord], best: TrialRecord, path: Path) -> None:
    """Draws the learning curves."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7.2, 3.6), dpi=110)
    for trial in trials:
        values = [row[METRIC] for row in trial.history]
        chosen = trial.trial_id == best.trial_id
        label = f"lr {float(str(trial.sampled['learning_rate'])):.0e}, batch {trial.sampled['batch_size']}"
        axes.plot(
            range(1, len(values) + 1), values, marker="o", markersize=5 if chosen else 3.5,
            linewidth=2.4 if chosen else 1.1, color="#1d6f8f" if chosen else "#9aa7ad", label=label if chosen else None,
        )  # fmt: skip
    axes.set(xlabel="epoch", ylabel="ROUGE combined F1, 200 dev dialogues", title="What ASHA let go on, and the winner")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path)


def page(ledger: Ledger, best: TrialRecord, found: Sequence[Row], hosts: str) -> str:
    """Returns the page."""
    config, sampled, trials = best.resolved, best.sampled, ledger.trials
    began = ledger.sweep.started_at if ledger.sweep and ledger.sweep.started_at is not None else 0.0
    took = format_duration(max(trial.ended_at for trial in trials if trial.ended_at is not None) - began)
    epochs = sum(len(trial.history) for trial in trials)
    whole = sum(int(str(trial.resolved["num_epochs"])) for trial in trials)
    stopped = sum(trial.status == "stopped" for trial in trials)
    header = ["500 test dialogues, three references", "ROUGE-1", "ROUGE-2", "ROUGE-L", "combined", "characters"]
    return f"""# English DialogSum on two cores

A BART of {config["tiny_layers"]}+{config["tiny_layers"]} layers and width {config["tiny_hidden_size"]}, trained from
scratch on 12,460 dialogues. Made by

```bash
python -m tune_jobs run tune_jobs/sweeps/dialogsum_cpu.yaml
python -m benchmarks.dialogsum_cpu
```

{table(header, [row.cells() for row in found])}

The winner has learning rate {float(str(sampled["learning_rate"])):.2e}, batch {sampled["batch_size"]} and dropout
{sampled["dropout"]}. Scores are F1 with the Porter stemmer, the mean over three references; *combined* is 0.3 ROUGE-1 +
0.3 ROUGE-2 + 0.4 ROUGE-L. For scale: the paper's BART-large, pretrained, has about 47 / 21 / 45 with another scorer. A
model of this size that has seen no other text learns who speaks, about what, and how a summary is built, and gets
details wrong.

## What ASHA stopped

{len(trials)} trials, {stopped} of them stopped early: {epochs} of {whole} epochs were trained. {took} from the first
start to the last end, {hosts}.

{curve_table(trials)}

![Learning curves](dialogsum_cpu.png)

DialogSum (Chen et al., 2021) is CC BY-NC-SA 4.0 and no part of this project. Not measured on a GPU.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Scores the winner of a finished sweep and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=ROOT / "outputs", help="output folder of the sweep")
    parser.add_argument("--hosts", default="two trials side by side on two cores", help="words about the machine")
    chosen = parser.parse_args(arguments)
    ledger = SweepFolder.of(chosen.output_dir, SWEEP).load()
    scored = [trial for trial in ledger.trials if METRIC in trial.best_metrics]
    if not scored or not TEST_FILE.exists():
        raise RequestError(f"needs a finished sweep in {chosen.output_dir} and {TEST_FILE}; see --help")
    best = max(scored, key=lambda trial: trial.best_metrics[METRIC])
    found = rows(Path(best.experiment_dir), load_examples(TEST_FILE))
    draw(ledger.trials, best, HERE.with_suffix(".png"))
    write_text(HERE, page(ledger, best, found, chosen.hosts))
    emit(HERE.read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
