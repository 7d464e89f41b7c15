"""Sweeps of benchmarks: the driver of `python -m tune_jobs run` with trials that need neither torch nor a model."""

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
METRIC = "eval/rouge_combined_f1"
NO_MODEL = """\
  batch_size: {value: 8}
  max_train_samples: {value: 8}
  max_eval_samples: {value: 4}
  tiny_hidden_size: {value: 16}
  tiny_layers: {value: 1}
  tiny_vocab_size: {value: 400}
early_terminate: {type: none}
tracking: {wandb: disabled}
"""  # the end of a sweep's parameters, and sections that no such sweep needs


def run_with(trial: Callable[[dict[str, object]], None], arguments: Sequence[str]) -> int:
    """Runs a sweep.

    Args:
        trial: What Tune runs in a trial's process; importable there.
        arguments: As of `python -m tune_jobs run`.

    Returns:
        The exit code.
    """
    from tune_jobs.commands import run_cli

    parser = argparse.ArgumentParser()
    run_cli.add_arguments(parser)
    return run_cli.run(parser.parse_args(arguments), trial)


def driver_environment() -> dict[str, str]:
    """Returns the environment of a driver that runs in another folder: it finds this code, and takes one core."""
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
