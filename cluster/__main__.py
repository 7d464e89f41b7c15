"""python -m cluster: where trials may run."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from tuning_common import cli
from tuning_common.completion import add_completion


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser of all commands. Every module `*_cli.py` of this package adds its own."""
    parser = argparse.ArgumentParser(prog="python -m cluster", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for path in sorted((Path(__file__).parent / "commands").glob("*_cli.py")):
        importlib.import_module(f"cluster.commands.{path.stem}").add_parser(commands)
    add_completion(parser, "dialsum-cluster")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Runs one command; see --help."""
    chosen = make_parser().parse_args(arguments)
    code: int = chosen.run(chosen)
    return code


def command() -> int:
    """Runs the command line of this process; also installed as `dialsum-cluster`."""
    return cli.run(main)


if __name__ == "__main__":
    sys.exit(command())
