"""python -m cluster check: checks whether the machines can run a sweep."""

import argparse
import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from cluster.machines.checks import Wanted, as_json, as_text, evaluate, exit_code
from cluster.machines.connection import connected_to
from tuning_common import cli


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description = "Checks Python, packages, code, driver, CUDA, memory, storage, clocks and token."
    parser.epilog = "example: python -m cluster check --address 10.0.0.1:6379   (exit code 1 if a check failed)"
    add_node_arguments(parser)
    parser.set_defaults(run=run)


def add_node_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that every check of nodes has."""
    parser.add_argument("--address", metavar="IP:PORT", help="the head; RAY_ADDRESS by default; `auto` on a node of it")
    parser.add_argument("--storage", metavar="DIR", help="the shared folder; the one that the cluster was started with")
    cli.add_format(parser)


def run(chosen: argparse.Namespace) -> int:
    """Checks the nodes.

    Raises:
        RequestError: When no cluster answers at the address.
    """
    from cluster.machines.node_facts import every_node, pinned, this_machine

    wanted = Wanted(packages=pinned(), storage=chosen.storage)
    address = chosen.address or os.environ.get("RAY_ADDRESS")
    with connection(address):
        answers = every_node(wanted) if address else this_machine(wanted)
    checks = evaluate(answers.nodes, answers.wanted, answers.silent)
    cli.answer(chosen.format, as_json(answers.nodes, checks), as_text(checks))
    return exit_code(checks)


def connection(address: str | None) -> AbstractContextManager[object]:
    """Returns a context that is connected to the cluster at an address; without an address it does nothing.

    Raises:
        RequestError: When no cluster answers there.
    """
    if not address:
        return nullcontext()
    code = {"env_vars": {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}}  # for tasks on the nodes
    return connected_to(address, runtime_env=code)
