"""The commands of the estimator. Their modules import it, so they are imported when one of them is chosen."""

import argparse
import importlib
from functools import partial

from tuning_common.command_parser import CommandParser

_TEXTS = {
    "estimate": {
        "help": "predict the GPU memory of a run, without a GPU",
        "description": "Predicts the peak bytes of training, evaluation and generation, term by term, and the share of"
        " a GPU that a trial is placed with. Nothing is run.",
        "epilog": "example: python -m tune_jobs estimate --model kobart --batch-size 8 --encoder-max-len 512"
        " --decoder-max-len 128 --precision bf16 --gpu 'rtx 3090'",
    },
    "profile": {
        "help": "measure one step of a run here and compare it with its estimate",
        "description": "Runs one training step, one evaluation batch and one generation batch with random weights and"
        " the longest texts on the device at hand; shows memory and time by phase beside the estimate, and writes the"
        " peak to the calibration. On a CPU it measures times only.",
        "epilog": "example: python -m tune_jobs profile --model kobart --batch-size 8 --precision bf16",
    },
    "templates": {
        "help": "memory templates that are shipped: list, check, make",
        "description": "Estimates of the named models are answered from templates that are shipped for one version of"
        " torch and transformers. --check traces them again and lists the differences; --make writes"
        " new ones, which takes some minutes for each model.",
        "epilog": "example: python -m tune_jobs templates --check --every 10 kobart kogpt2",
    },
}


def add_parser(commands: "argparse._SubParsersAction[CommandParser]") -> None:
    """Adds the commands to `python -m tune_jobs`; each module below has their arguments."""
    for name, texts in _TEXTS.items():
        parser = commands.add_parser(name, help=texts["help"], description=texts["description"], epilog=texts["epilog"])
        parser.later = partial(_add_arguments, name)


def _add_arguments(name: str, parser: argparse.ArgumentParser) -> None:
    importlib.import_module(f"tune_jobs.commands.{name}").add_arguments(parser)
