"""python -m tune_jobs: plan, run and understand sweeps."""

import sys
from collections.abc import Sequence

from cluster.machines.loopback import prefer_loopback
from cluster.machines.ray_folder import restore_umask
from tuning_common import cli
from tuning_common.command_parser import CommandParser
from tuning_common.completion import add_completion

COMMANDS = {
    "check": "find problems before, during or after a sweep, with remedies",
    "clean": "remove checkpoints, weights beyond the best and of repetitions, and old caches",
    "compare": "compare experiments on the same dialogues",
    "estimate": "predict the GPU memory of a run, without a GPU",
    "export": "write sweeps as studies of Optuna, or their best configurations for another sweep to start from",
    "hand-over": "put a model, its card, its summaries and a submission into one folder",
    "import": "write our files from a configuration and a sweep of another trainer",
    "jobs": "list, show, follow and stop submitted sweeps",
    "narrow": "write a narrower sweep from a finished one",
    "plan": "show a sweep's trials, memory, shares, packing and time without training",
    "profile": "measure one step of a run here and compare it with its estimate",
    "report": "build the reports of a sweep",
    "reproduce": "run an experiment again and compare",
    "review": "write the experiment review of a sweep",
    "run": "run a sweep and keep its best model",
    "schema": "print the JSON Schema of sweep files, run configurations or team files",
    "submit": "send a sweep to the cluster and follow it",
    "team": "show who may use how many GPUs, who holds what, who waits and why",
    "templates": "memory templates that are shipped: list, check, make",
    "top": "watch running sweeps in a terminal",
    "week": "compare the week's runs with the week before",
}


def make_parser() -> CommandParser:
    """Makes the parser of all commands."""
    parser = CommandParser(prog="python -m tune_jobs", description=__doc__)
    parser.add_commands("tune_jobs.commands", COMMANDS)
    add_completion(parser, "tune-jobs")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Runs one command; see --help."""
    restore_umask()  # of a submitted sweep's driver
    return make_parser().run(arguments)


def command() -> int:
    """Runs the command line of this process; also installed as `tune-jobs`."""
    prefer_loopback()
    return cli.run(main)


if __name__ == "__main__":
    sys.exit(command())
