"""Which broker a sweep asks: that of the running cluster, or one in this process for a Ray of its own."""

from pathlib import Path

from cluster.machines.hardware import Inventory
from cluster.machines.node_watch import LivingNodes
from cluster.machines.ray_nodes import RayNodes
from cluster.scheduling.broker_client import BrokerClient, LocalBroker
from cluster.scheduling.broker_process import cluster_broker
from cluster.scheduling.quotas import Team, load_team, refuse_models
from cluster.scheduling.shares import UNITS
from tune_jobs.config.sweep import Sweep
from tune_jobs.driver.sweep_parts import Clocks


def open_broker(
    sweep: Sweep, inventory: Inventory, clocks: Clocks, *, on_cluster: bool, max_concurrent: int | None
) -> BrokerClient:
    """Opens the broker; this process is connected to Ray.

    Args:
        sweep: Its name, and its member and models where it names a member.
        inventory: What there is, with Ray's node ids; the cluster's broker asks for itself.
        clocks: For a broker in this process.
        on_cluster: Whether Ray was there before this sweep: then all its sweeps share one broker.
        max_concurrent: Trials of the sweep that may run at a time; None for no limit.

    Raises:
        RequestError: When the sweep is refused.
        WorkError: When no broker answers.
    """
    team = _team_of(sweep)
    broker: BrokerClient
    if on_cluster:
        broker = cluster_broker(
            sweep=sweep.name,
            member=sweep.team.member,
            models=_models_of(sweep),
            max_concurrent=max_concurrent,
            team=team,
            team_source=sweep.team.file,
        )
    else:
        broker = LocalBroker(
            inventory,
            sweep=sweep.name,
            member=sweep.team.member,
            team=team,
            max_concurrent=max_concurrent,
            watch=LivingNodes(inventory, RayNodes()).poll,
            elapsed_s=clocks.elapsed_s,
            now=clocks.now,
        )
    broker.open()
    return broker


def largest_share_units(sweep: Sweep) -> int:
    """Returns how much of a card a trial may hold at any hour: no more than its member's smallest quota above 0."""
    team, member = _team_of(sweep), sweep.team.member
    if team is None or member is None:
        return UNITS
    quotas = [team.members[member].quota_gpus, *(one.quota_gpus.get(member, 0.0) for one in team.windows)]
    return min(UNITS, *(int(gpus * UNITS) for gpus in quotas if gpus > 0), UNITS)


def _team_of(sweep: Sweep) -> Team | None:
    """Reads the team file of a sweep that names its member.

    Raises:
        RequestError: When it does not know the member, or does not give it the sweep's models.
    """
    if sweep.team.member is None:
        return None
    team = load_team(Path(sweep.team.file))
    refuse_models(team, sweep.team.member, _models_of(sweep))
    return team


def _models_of(sweep: Sweep) -> tuple[str, ...]:
    values = next((parameter.values() for parameter in sweep.space.parameters if parameter.name == "model"), None)
    return tuple(str(value) for value in values or (sweep.base.model,))
