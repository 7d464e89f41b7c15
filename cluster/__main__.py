"""python -m cluster: where trials may run."""

import sys
from collections.abc import Sequence

from tuning_common import cli
from tuning_common.command_parser import CommandParser
from tuning_common.completion import add_completion

COMMANDS = {
    "check": "find problems of this machine, or of every node of a cluster, with remedies",
    "gpus": "list the cards of this machine or of a cluster, what others hold on them, or why none is seen",
    "monitor": "write the files that Prometheus and Grafana need",
    "profile": "measure CUDA context and cuBLAS workspaces on this machine's GPU",
    "simulate": "place a made-up sweep on a described cluster under a simulated clock",
    "start": "make this machine the head of a cluster, or join one",
    "token": "make the secret that all machines of a cluster share",
}


def make_parser() -> CommandParser:
    """Makes the parser of all commands."""
    parser = CommandParser(prog="python -m cluster", description=__doc__)
    parser.add_commands("cluster.commands", COMMANDS)
    add_completion(parser, "dialsum-cluster")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Runs one command; see --help."""
    return make_parser().run(arguments)


def command() -> int:
    """Runs the command line of this process; also installed as `dialsum-cluster`."""
    return cli.run(main)


if __name__ == "__main__":
    sys.exit(command())
