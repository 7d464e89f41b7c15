"""Sweeps and trainings so small that one processor needs seconds for them."""

from pathlib import Path

from dialsum.config import RunConfig
from dialsum.data import write_examples
from dialsum.sample_data.generate import generate


def write_tiny_grid(
    path: Path,
    *,
    rates: str = "1e-3, 1e-2",
    epochs: int = 2,
    stop: str = "none",
    resources: str = "",
    tracking: str = "wandb: disabled",
) -> Path:
    """Writes a sweep, called as its file is, with a trial for each learning rate on a few of the sample dialogues.

    Args:
        path: The sweep file.
        rates: Learning rates, with commas between them.
        epochs: So many evaluations of each trial.
        stop: Type of the early termination.
        resources: What is in this section.
        tracking: What is in this section.
    """
    path.write_text(f"""
name: {path.stem}
method: grid
parameters:
  learning_rate: {{values: [{rates}]}}
  batch_size: {{value: 8}}
  num_epochs: {{value: {epochs}}}
  max_train_samples: {{value: 32}}
  max_eval_samples: {{value: 4}}
  decoder_max_len: {{value: 16}}
  encoder_max_len: {{value: 64}}
  tiny_hidden_size: {{value: 16}}
  tiny_layers: {{value: 1}}
  tiny_vocab_size: {{value: 400}}
early_terminate: {{type: {stop}}}
resources: {{{resources}}}
tracking: {{{tracking}}}
""")
    return path


def write_dialogues(folder: Path, *, train_count: int = 24, dev_count: int = 4) -> None:
    """Writes so many sample dialogues to train.jsonl and dev.jsonl."""
    train, dev = generate(seed=0, train_count=train_count, dev_count=dev_count)
    write_examples(folder / "train.jsonl", train)
    write_examples(folder / "dev.jsonl", dev)


def tiny_config(folder: Path, **changes: object) -> RunConfig:
    """A run on the dialogues of a folder.

    Args:
        folder: See write_dialogues.
        changes: Settings of the run.
    """
    values: dict[str, object] = {
        "train_file": str(folder / "train.jsonl"), "dev_file": str(folder / "dev.jsonl"), "batch_size": 8,
        "encoder_max_len": 64, "decoder_max_len": 16, "tiny_hidden_size": 16, "tiny_layers": 1, "tiny_vocab_size": 400,
    }  # fmt: skip
    return RunConfig.from_dict(values | changes)
