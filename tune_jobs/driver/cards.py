"""The cards that a sweep may use: those of the running cluster, of this machine, or simulated ones."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from cluster.machines.hardware import Inventory
from tuning_common.cli import note

if TYPE_CHECKING:
    from cluster.machines.inventory import Survey

DEFAULT_SIMULATED = "1x24GiB"  # so that a first run without a GPU shows estimates, shares and packing


@contextmanager
def cards_at_hand(simulate: str | None, *, cpu_only: bool = False) -> Iterator[Inventory]:
    """Reads the cards of the running cluster, or of this machine, whose own Ray starts after the sweep was checked.

    Args:
        simulate: Described simulated cards for this machine; what it has, or one simulated card, where None.
        cpu_only: Place by CPUs and host memory, also where cards would be simulated.
    """
    from cluster.machines.inventory import this_machine
    from cluster.machines.node_watch import ray_cluster
    from tune_jobs.driver.ray_session import attached, connected

    if attached():
        with connected():
            yield _seen(ray_cluster(), cpu_only)
        return
    survey = this_machine(None if cpu_only else simulate)
    if not survey.inventory.cards and not cpu_only:
        survey = this_machine(DEFAULT_SIMULATED)
    yield _seen(survey, cpu_only)


def _seen(survey: "Survey", cpu_only: bool) -> Inventory:
    for problem in survey.problems:
        note(problem)
    if not cpu_only:
        return survey.inventory
    return Inventory(nodes=tuple(replace(node, cards=()) for node in survey.inventory.nodes))
