"""python -m cluster gpus: lists the cards that trials may use, here or on every node, or why there are none."""

import argparse
import os

from cluster.commands.check_cli import connection
from cluster.machines.hardware import Card, Inventory, Node
from cluster.machines.inventory import Survey, this_machine
from cluster.machines.node_watch import ray_cluster
from tuning_common import cli
from tuning_common.units import counted, format_bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description = (
        "Asks the NVIDIA driver of this machine, or of every node of a Ray cluster, for its cards. For a"
        " machine without a card, shows the reason and what trials are placed by instead."
    )
    parser.epilog = "example: python -m cluster gpus --address auto   (cards that are not there: --simulate 2x24GiB)"
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--address", metavar="IP:PORT", help="the head; RAY_ADDRESS by default; `auto` on a node of it")
    where.add_argument("--simulate", metavar="CARDS", help="put described cards into this machine, as sweeps may")
    cli.add_format(parser)
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Reads the cards and prints them.

    Raises:
        RequestError: When the description cannot be read, or no cluster answers at the address.
    """
    survey = _survey(chosen)
    cli.answer(chosen.format, as_json(survey), as_text(survey))
    return 0


def as_json(survey: Survey) -> dict[str, object]:
    """Returns the cards as JSON values, sizes in bytes."""
    return {
        "simulated": survey.inventory.simulated,
        "nodes": [_node_values(node) for node in survey.inventory.nodes],
        "problems": list(survey.problems),
    }


def as_text(survey: Survey) -> str:
    """Returns the cards as text: a row for each card, then the nodes without one, then problems.

    >>> from cluster.machines.hardware import parse_simulated
    >>> print(as_text(Survey(inventory=parse_simulated("1x24GiB"))))
    1 x simulated-24GiB (simulated)
    <BLANKLINE>
    node                    card   GPU model         memory     held by others   for trials   driver
    simulated-24GiB-node0      0   simulated-24GiB   24.0 GiB   0 B              23.3 GiB     simulated
    """
    inventory = survey.inventory
    parts = [inventory.describe()]
    rows = [_row(inventory, node, card) for node in inventory.nodes for card in node.cards]
    if rows:
        header = ["node", "card", "GPU model", "memory", "held by others", "for trials", "driver"]
        parts.append(cli.table(header, rows))
    without = [_without(node) for node in inventory.nodes if not node.cards]
    if without:
        parts.append("\n".join(without))
    if survey.problems:
        parts.append("\n".join(f"problem: {problem}" for problem in survey.problems))
    return "\n\n".join(parts)


def _survey(chosen: argparse.Namespace) -> Survey:
    if chosen.simulate is not None:
        return this_machine(chosen.simulate)
    address = chosen.address or os.environ.get("RAY_ADDRESS")
    if not address:
        return this_machine()
    with connection(address):
        return ray_cluster()


def _row(inventory: Inventory, node: Node, card: Card) -> list[object]:
    return [
        _where(node),
        card.index,
        card.model + (" (MIG slice)" if card.mig else ""),
        format_bytes(card.total_bytes),
        format_bytes(card.used_by_others_bytes),
        format_bytes(card.usable_bytes),
        "simulated" if inventory.simulated else node.driver or "-",
    ]


def _without(node: Node) -> str:
    why = node.gpus_unavailable or "no card here"
    what = f"{counted(node.cpus, 'CPU')} and {format_bytes(node.memory_bytes)} of host memory"
    return f"{_where(node)}: {why}; trials are placed by its {what} (run --cpu-only), or on simulated cards"


def _where(node: Node) -> str:
    local = node.address == "127.0.0.1"
    return node.name if local else node.address


def _node_values(node: Node) -> dict[str, object]:
    return {
        "name": node.name,
        "address": node.address,
        "cpus": node.cpus,
        "memory_bytes": node.memory_bytes,
        "driver": node.driver,
        "gpus_unavailable": node.gpus_unavailable,
        "labels": node.labels,
        "cards": [
            {
                "index": card.index,
                "uuid": card.uuid,
                "model": card.model,
                "mig": card.mig,
                "total_bytes": card.total_bytes,
                "used_by_others_bytes": card.used_by_others_bytes,
                "usable_bytes": card.usable_bytes,
            }
            for card in node.cards
        ],
    }
