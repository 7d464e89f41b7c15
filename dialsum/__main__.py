"""python -m dialsum: train, score and run one summarizer; no cluster needed."""

import argparse
import sys
from collections.abc import Sequence

from tuning_common import cli


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser of all commands; a package that is missing is missed here, in `cli.run`."""
    from dialsum import rouge_cli, training_cli
    from dialsum.sample_data import command as sample_data
    from tuning_common.completion import add_completion

    parser = argparse.ArgumentParser(prog="python -m dialsum", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    training_cli.add_parsers(commands)
    rouge_cli.add_parser(commands)
    sample_data.add_parser(commands)
    add_completion(parser, "dialsum")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Runs one command; see --help."""
    chosen = make_parser().parse_args(arguments)
    code: int = chosen.run(chosen)
    return code


def command() -> int:
    """Runs the command line of this process; also installed as `dialsum`."""
    return cli.run(main)


if __name__ == "__main__":
    sys.exit(command())
