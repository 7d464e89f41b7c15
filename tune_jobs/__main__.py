"""python -m tune_jobs: plan, run and understand sweeps."""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from cluster.machines.loopback import prefer_loopback
from cluster.machines.ray_folder import restore_umask
from tuning_common import cli
from tuning_common.command_parser import CommandParser
from tuning_common.completion import add_completion


def make_parser() -> CommandParser:
    """Makes the parser of all commands. Every module `*_cli.py` of this package adds its own, without long imports."""
    parser = CommandParser(prog="python -m tune_jobs", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for path in sorted(Path(__file__).parent.glob("**/*_cli.py")):
        name = ".".join(path.relative_to(Path(__file__).parent.parent).with_suffix("").parts)
        importlib.import_module(name).add_parser(commands)
    add_completion(parser, "tune-jobs")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Runs one command; see --help."""
    chosen = make_parser().parse_args(arguments)
    restore_umask()  # of a submitted sweep's driver
    code: int = chosen.run(chosen)
    return code


def command() -> int:
    """Runs the command line of this process; also installed as `tune-jobs`."""
    prefer_loopback()
    return cli.run(main)


if __name__ == "__main__":
    sys.exit(command())
