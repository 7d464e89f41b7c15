"""python -m cluster token: makes the secret that all machines of a cluster share."""

import argparse
import os
from pathlib import Path

from cluster.machines.tokens import make_token, token_path
from tuning_common import cli


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to `python -m cluster`."""
    parser = commands.add_parser(
        "token",
        help="make the secret that all machines of a cluster share",
        description="Writes a new random token where Ray looks for it, readable by its owner only. It is not shown.",
        epilog="example: python -m cluster token",
    )
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Makes the token.

    Raises:
        RequestError: When there is one already.
    """
    path = token_path(os.environ, Path.home())
    make_token(path)
    cli.emit(f"{path} written; put the same file, mode 600, on every machine (`ray up` does)")
    return 0
