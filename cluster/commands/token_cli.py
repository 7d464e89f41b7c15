"""python -m cluster token: makes the secret that all machines of a cluster share."""

import argparse
import os
from pathlib import Path

from cluster.machines.tokens import make_token, token_path, token_problem
from tuning_common import cli
from tuning_common.errors import RequestError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description = (
        "Writes a random token where Ray looks for it, for its owner only, unless there is one already. It"
        " is not shown. To replace it: end the cluster, remove the file on every machine, and make a new one."
    )
    parser.epilog = "example: python -m cluster token"
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Makes the token, or keeps the one that is there: a new one would lock out the machines that share it.

    Raises:
        RequestError: When there is one that others may read, or that is too short.
    """
    path = token_path(os.environ, Path.home())
    if not path.exists():
        make_token(path)
        done = "written"
    elif problem := token_problem(os.environ, Path.home()):
        raise RequestError(problem)
    else:
        done = "is there already and stays"
    cli.emit(f"{path} {done}; put the same file, mode 600, on every machine (`ray up` does)")
    return 0
