"""The broker's own process: one named actor for the whole cluster, found by every sweep and by `team`.

It outlives the drivers (detached), is started again elsewhere when its node dies, and holds nothing that the drivers
would not report again (broker_service). Messages are plain values, as drivers may run other code than it does.
"""

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import cast

from cluster.machines.metrics import Meters
from cluster.machines.node_watch import EVERY_S, NodeWatch, OthersUse
from cluster.machines.ray_nodes import RayNodes, ended_jobs, gpu_use
from cluster.scheduling.broker_service import BrokerService
from cluster.scheduling.cluster_broker import JOIN_S, SILENT, ClusterBroker
from cluster.scheduling.messages import Join, Report
from cluster.scheduling.quotas import Team
from tuning_common.errors import RequestError, WorkError
from tuning_common.strict import from_mapping

logger = logging.getLogger(__name__)

NAME, NAMESPACE = "broker", "dialogue-summarizer-tuning"
METRICS_EVERY_S = 5.0
Values = dict[str, object]


class BrokerProcess:
    """A BrokerService with this process's clocks and the nodes of the cluster; a Ray actor.

    Args:
        now: Unix seconds; injected in tests.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        import ray

        lost = bool(ray.get_runtime_context().was_current_actor_reconstructed)
        self._service = BrokerService(elapsed_s=time.monotonic, now=now, lost=lost)
        self._watch, self._others = NodeWatch(RayNodes()), OthersUse()
        self._problems: tuple[str, ...] = ()
        self._meters = Meters()
        self._measured_s = self._asked_use_s = -METRICS_EVERY_S

    def join(self, join: Values) -> str:
        """Takes in a sweep; returns why not, or nothing."""
        return _refusal(lambda: self._service.join(from_mapping(Join, join)))

    def apply(self, team: Values, source: str) -> str:
        """Puts other quotas in force; returns why not, or nothing."""
        return _refusal(lambda: self._service.apply(from_mapping(Team, team), source))

    def exchange(self, driver: str, report: Values) -> Values:
        """Takes in a driver's report and answers."""
        self._follow_cluster()
        reply = asdict(self._service.exchange(driver, from_mapping(Report, report)))
        self._measure()
        return reply

    def leave(self, driver: str) -> None:
        """Forgets a sweep, which is over."""
        self._service.leave(driver)

    def status(self) -> Values:
        """Says who holds what, who waits and why."""
        self._follow_cluster()
        return self._service.status() | {"problems": list(self._problems)}

    def _follow_cluster(self) -> None:
        survey = self._watch.poll()
        if survey is not None:
            self._problems = survey.problems
            self._service.nodes_changed(survey.inventory)
        if time.monotonic() - self._asked_use_s >= EVERY_S:
            self._asked_use_s = time.monotonic()
            self._service.jobs_ended(ended_jobs())
            self._service.node_use(self._others.of(gpu_use(), self._service.jobs))

    def _measure(self) -> None:
        if time.monotonic() - self._measured_s < METRICS_EVERY_S:
            return
        self._measured_s = time.monotonic()
        for member in cast("list[Values]", self._service.status()["members"]):
            for name in ("quota", "held", "waiting"):
                gpus = float(cast("float", member[f"{name}_gpus"]))
                self._meters.gauge(f"tuning_member_{name}_gpus", gpus, member=str(member["member"]))


class BrokerLink:
    """Calls of the broker's process that never hold the caller for long, nor raise for a cluster in trouble."""

    def __init__(self) -> None:
        self._actor: object | None = None

    def call(self, method: str, *arguments: object) -> object:
        """Starts a call; starts the broker's process where there is none."""
        import ray

        if self._actor is None:
            options = {"name": NAME, "namespace": NAMESPACE, "lifetime": "detached", "get_if_exists": True}
            self._actor = ray.remote(BrokerProcess).options(**options, num_cpus=0, max_restarts=-1).remote()
        return getattr(self._actor, method).remote(*arguments)

    def answer(self, call: object, wait_s: float) -> tuple[bool, object]:
        """Returns whether a call is over, and its answer; None where the broker's process failed.

        Args:
            call: As started.
            wait_s: How long to wait for it.
        """
        import ray

        done, _ = ray.wait([call], timeout=wait_s)
        if not done:
            return False, None
        try:
            return True, ray.get(call)
        except ray.exceptions.RayError as error:
            logger.warning("the cluster's broker failed: %s", str(error).strip().splitlines()[-1])
            self._actor = None  # it may have been ended by hand: the next call finds or starts another
            return True, None


def cluster_broker(
    *,
    sweep: str,
    member: str | None = None,
    models: Sequence[str] = (),
    max_concurrent: int | None = None,
    team: Team | None = None,
    team_source: str = "",
) -> ClusterBroker:
    """Returns a sweep's client of the broker of the cluster that this process is connected to; asks nothing yet.

    Args:
        sweep: Its name.
        member: Whose quota it uses; None where it names nobody.
        models: What it tunes.
        max_concurrent: The most trials that may run at a time.
        team: The member's team file.
        team_source: Where that file is.
    """
    import ray

    join = Join(
        driver=f"{socket.gethostname()}:{os.getpid()}:{time.time():.0f}",
        job=ray.get_runtime_context().get_job_id(),
        sweep=sweep,
        member=member,
        models=tuple(models),
        max_concurrent=max_concurrent,
        team=None if team is None else asdict(team),
        team_source=team_source,
    )
    return ClusterBroker(join, BrokerLink())


def apply_team(team: Team, source: str) -> None:
    """Puts a team file in force on the cluster that this process is connected to.

    Raises:
        RequestError: When a running sweep names no member of it.
        WorkError: When the broker does not answer.
    """
    link = BrokerLink()
    over, refused = link.answer(link.call("apply", asdict(team), source), JOIN_S)
    if not over or refused is None:
        raise WorkError(SILENT)
    if refused:
        raise RequestError(str(refused))


def broker_status(wait_s: float) -> Mapping[str, object] | None:
    """Asks the broker of the connected cluster; None where there is none, or no answer in time."""
    import ray

    try:
        actor = ray.get_actor(NAME, namespace=NAMESPACE)
    except ValueError:
        return None
    try:
        return cast("Mapping[str, object]", ray.get(actor.status.remote(), timeout=wait_s))
    except (ray.exceptions.GetTimeoutError, ray.exceptions.RayError):
        return None


def _refusal(act: Callable[[], None]) -> str:
    try:
        act()
    except RequestError as error:
        return str(error)
    return ""
