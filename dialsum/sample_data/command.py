"""python -m dialsum sample-data: writes sample dialogues for training and development."""

import argparse
from pathlib import Path

from dialsum.data import fingerprint, write_examples
from dialsum.sample_data.generate import DEV_COUNT, TRAIN_COUNT, generate
from tuning_common import cli
from tuning_common.errors import Problems


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to `python -m dialsum`."""
    parser = commands.add_parser(
        "sample-data",
        help="write Korean sample dialogues with summaries",
        description="Writes train.jsonl and dev.jsonl: Korean everyday dialogues and summaries made by this project.",
        epilog="example: python -m dialsum sample-data --output outputs/sample_data --seed 0",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for train.jsonl and dev.jsonl")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same files (default 0)")
    parser.add_argument("--train-count", type=int, default=TRAIN_COUNT, help=f"default {TRAIN_COUNT}")
    parser.add_argument("--dev-count", type=int, default=DEV_COUNT, help=f"default {DEV_COUNT}")
    cli.add_format(parser)
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Draws and writes both files.

    Raises:
        RequestError: When a count is not positive, or larger than the scenes can give.
    """
    problems = Problems()
    for flag, count in (("--train-count", chosen.train_count), ("--dev-count", chosen.dev_count)):
        if count < 1:
            problems.add(f"{flag} must be at least 1, but is {count}")
    problems.raise_if_any("sample-data")
    train, dev = generate(seed=chosen.seed, train_count=chosen.train_count, dev_count=chosen.dev_count)
    written: dict[str, object] = {"seed": chosen.seed}
    for name, examples in (("train", train), ("dev", dev)):
        path = chosen.output / f"{name}.jsonl"
        write_examples(path, examples)
        written |= {f"{name}_file": str(path), f"{name}_count": len(examples), f"{name}_sha256": fingerprint(examples)}
    rows = [[written[f"{name}_file"], written[f"{name}_count"]] for name in ("train", "dev")]
    cli.answer(chosen.format, written, cli.table(["file", "dialogues"], rows))
    return 0
