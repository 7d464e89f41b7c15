"""The broker for many drivers: who has joined, what each reported last, and leases. Pure.

A driver that is silent for LEASE_S is forgotten with all that it holds. A broker that replaces a lost one grants
nothing new for LEASE_S: by then every driver that lives has reported what it holds.
"""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from cluster.machines.hardware import Inventory
from cluster.scheduling.broker import Broker
from cluster.scheduling.events import (
    Ended,
    Event,
    NodesChanged,
    NodeUse,
    NotPlaced,
    Pause,
    QuotasChanged,
    Refusal,
    Restored,
    Started,
    Submitted,
    SweepJoined,
    SweepLeft,
    Tick,
)
from cluster.scheduling.explain import describe_team
from cluster.scheduling.messages import Details, Join, Reply, Report
from cluster.scheduling.quotas import Team, refuse_models
from cluster.scheduling.request import Request
from tuning_common.errors import RequestError
from tuning_common.strict import from_mapping

LEASE_S = 30.0
ROUND_S = 15.0  # by then every driver has reported, also one that had given up an answer for a while


@dataclass(kw_only=True)
class _Member:
    """A driver that has joined.

    Attributes:
        sweep: Name of its sweep on the cluster; another one than its own where two sweeps have the same.
        heard_s: When it last reported.
        submissions: Of every request that the broker queues, holds or has refused; by the driver's name of it.
        details: The same requests in full.
    """

    join: Join
    sweep: str
    heard_s: float
    submissions: dict[str, int] = field(default_factory=dict)
    details: dict[str, Details] = field(default_factory=dict)
    started: set[str] = field(default_factory=set)
    pauses: dict[str, Pause] = field(default_factory=dict)
    refusals: dict[str, Refusal] = field(default_factory=dict)

    def on_cluster(self, name: str) -> str:
        """Returns the name of one of its requests on the cluster.

        >>> _Member(join=Join(driver="d", job="1", sweep="a"), sweep="a (2)", heard_s=0).on_cluster("a/7")
        'a (2)/7'
        """
        return f"{self.sweep}/{name.removeprefix(f'{self.join.sweep}/')}"

    def forget(self, name: str) -> None:
        """Forgets a request."""
        for known in (self.submissions, self.details, self.pauses, self.refusals):
            known.pop(name, None)
        self.started.discard(name)


class BrokerService:
    """Lets drivers use one broker.

    Args:
        elapsed_s: Seconds that only grow: leases do not end when somebody sets a clock.
        now: Unix seconds: windows are hours of the wall clock.
        lost: Whether it replaces a broker that was lost.
    """

    def __init__(self, *, elapsed_s: Callable[[], float], now: Callable[[], float], lost: bool = False) -> None:
        self._elapsed_s, self._now = elapsed_s, now
        self._allocate_from_s = elapsed_s() + LEASE_S if lost else -math.inf
        self._broker = Broker(Inventory(nodes=()), allocate_from_s=self._allocate_from_s)
        self._members: dict[str, _Member] = {}
        self._owners: dict[str, tuple[_Member, str]] = {}  # by name on the cluster: whose request, and its name there
        self._team: Team | None = None
        self._team_source = ""
        self._addresses: dict[str, str] = {}
        self._has_nodes = False
        self._others: Mapping[str, float] = {}

    @property
    def jobs(self) -> frozenset[str]:
        """Ids of the jobs whose GPUs the broker has granted."""
        return frozenset(member.join.job for member in self._members.values())

    def join(self, join: Join) -> None:
        """Takes in a sweep.

        Raises:
            RequestError: When other quotas are in force, or these do not allow the sweep.
        """
        self._forget_silent()
        self.leave(join.driver)
        if join.member is None and self._team is not None:
            raise RequestError(
                "this cluster has quotas and the sweep does not say whose it is; write `team: {member: NAME}` into it;"
                " python -m tune_jobs team shows the members"
            )
        if join.member is not None:
            self._join_team(join, join.member)
        taken = {member.sweep for member in self._members.values()}
        names = [join.sweep, *(f"{join.sweep} ({number})" for number in range(2, len(taken) + 2))]
        sweep = next(name for name in names if name not in taken)
        member = _Member(join=join, sweep=sweep, heard_s=self._elapsed_s())
        self._members[join.driver] = member
        self._handle(_joined(member))

    def apply(self, team: Team, source: str) -> None:
        """Puts other quotas in force, for running sweeps too.

        Raises:
            RequestError: When a running sweep has no member, or one that is not in them.
        """
        self._forget_silent()
        for member in self._members.values():
            _refuse_without_member(member, source)
            refuse_models(team, member.join.member or "", ())
        self._team, self._team_source = team, source
        self._handle(QuotasChanged(team=team))

    def leave(self, driver: str) -> None:
        """Forgets a sweep, which is over."""
        member = self._members.pop(driver, None)
        if member is not None:
            self._leave(member)

    def exchange(self, driver: str, report: Report) -> Reply:
        """Takes in what a driver reports, decides, and answers."""
        self._forget_silent()
        member = self._members.get(driver)
        if member is None:
            return Reply(known=False)
        member.heard_s = self._elapsed_s()
        if not self._has_nodes:  # whatever the driver holds would be taken for lost
            return Reply()
        events, missing = self._reconcile(member, report)
        self._handle(*events)
        return Reply(
            missing=tuple(missing),
            allocations=tuple(
                details.allocation
                for name, details in member.details.items()
                if details.allocation is not None and name in report.queued
            ),
            pauses=tuple(member.pauses.values()),
            refusals=tuple(member.refusals.values()),
            reasons={name: self._broker.waiting_reason(member.on_cluster(name)) for name in report.explain},
            card_uses={self._owners[name][1]: use for name, use in self._broker.card_uses(member.sweep).items()},
        )

    def jobs_ended(self, jobs: Collection[str]) -> None:
        """Forgets the sweeps of jobs that have ended: a driver that died need not be waited for."""
        for driver, member in list(self._members.items()):
            if member.join.job in jobs:
                self.leave(driver)

    def nodes_changed(self, inventory: Inventory) -> None:
        """Takes in the nodes as they are from now on."""
        self._addresses |= {node.name: node.address for node in inventory.nodes}
        if not self._has_nodes:
            self._has_nodes = True
            self._start_broker()
        self._handle(NodesChanged(inventory=inventory))

    def node_use(self, others: Mapping[str, float]) -> None:
        """Takes in which GPUs others hold, by node."""
        self._others = others
        self._handle(NodeUse(gpus=others))

    def status(self) -> dict[str, object]:
        """Says who holds what, who waits and why; plain values, for `team --format json`."""
        self._forget_silent()
        self._handle(Tick())
        others = [
            {"node": self._addresses.get(node, node), "gpus": gpus} for node, gpus in sorted(self._others.items())
        ]
        found = self._broker.status() | {"others": others, "now_s": self._now()}
        if self._team is None:
            return found | {"members": []}
        plan = describe_team(self._team, datetime.fromtimestamp(self._now(), tz=UTC), found)
        return found | plan | {"source": self._team_source}

    def validate(self) -> None:
        """Raises AssertionError where an invariant is broken; tests call it after every message."""
        self._broker.validate()
        for name, (member, own) in self._owners.items():
            assert member.on_cluster(own) == name, (name, own)
            assert own in member.submissions, own

    def _start_broker(self) -> None:
        """Starts when the nodes are known; a broker that replaces a lost one waits for every driver's report."""
        if self._allocate_from_s > -math.inf:
            self._allocate_from_s = max(self._allocate_from_s, self._elapsed_s() + ROUND_S)
        self._broker = Broker(Inventory(nodes=()), team=self._team, allocate_from_s=self._allocate_from_s)
        for member in self._members.values():
            self._handle(_joined(member))

    def _join_team(self, join: Join, name: str) -> None:
        team = from_mapping(Team, join.team or {})
        if self._team is not None and team != self._team and self._members:
            running = ", ".join(sorted({f"{one.sweep} ({one.join.member})" for one in self._members.values()}))
            raise RequestError(
                f"{join.team_source} differs from the quotas in force on this cluster, which came from"
                f" {self._team_source} and hold for {running}; use the same file, or put yours in force:"
                f" python -m tune_jobs team --apply {join.team_source}"
            )
        for member in self._members.values():
            _refuse_without_member(member, join.team_source)
        refuse_models(team, name, join.models)
        if team != self._team:
            self._team, self._team_source = team, join.team_source
            self._handle(QuotasChanged(team=team))

    def _reconcile(self, member: _Member, report: Report) -> tuple[list[Event], list[str]]:
        """Makes events of the difference between what a driver reports and what is known of it.

        Returns:
            The events, and the names of requests that are not known in full.
        """
        events: list[Event] = []
        missing: list[str] = []
        reported = {details.request.name: details for details in report.details}
        now = {**report.queued, **report.held}
        for name, submission in list(member.submissions.items()):
            if now.get(name) == submission:
                continue
            held = member.details[name].allocation is not None
            if held and name in report.not_placed and name in report.queued:
                events.append(NotPlaced(name=member.on_cluster(name), reason=report.not_placed[name]))
                member.submissions[name] = report.queued[name]
                member.details[name] = replace(member.details[name], allocation=None)
                member.pauses.pop(name, None)
                member.started.discard(name)
            else:
                events.append(Ended(name=member.on_cluster(name)))
                self._forget(member, name)
        for name in report.held:
            details = member.details.get(name)
            if details is None or details.allocation is None:
                if name in reported and reported[name].allocation is not None:
                    events.append(self._restore(member, reported[name], report))
                else:
                    missing.append(name)
            elif name in report.started and name not in member.started:
                member.started.add(name)
                events.append(Started(name=member.on_cluster(name)))
        for name in report.queued:
            if name not in member.submissions:
                if name in reported:
                    self._remember(member, reported[name], report.queued[name])
                    events.append(Submitted(request=self._request(member, reported[name])))
                else:
                    missing.append(name)
        return events, missing

    def _restore(self, member: _Member, details: Details, report: Report) -> Event:
        name = details.request.name
        assert details.allocation is not None, name
        self._remember(member, details, report.held[name])
        if name in report.started:
            member.started.add(name)
        allocation = replace(details.allocation, name=member.on_cluster(name))
        return Restored(request=self._request(member, details), allocation=allocation, started=name in report.started)

    def _request(self, member: _Member, details: Details) -> Request:
        return replace(details.request, name=member.on_cluster(details.request.name), sweep=member.sweep)

    def _remember(self, member: _Member, details: Details, submission: int) -> None:
        name = details.request.name
        member.submissions[name], member.details[name] = submission, details
        self._owners[member.on_cluster(name)] = (member, name)

    def _forget(self, member: _Member, name: str) -> None:
        member.forget(name)
        self._owners.pop(member.on_cluster(name), None)

    def _leave(self, member: _Member) -> None:
        for name in list(member.submissions):
            self._forget(member, name)
        self._handle(SweepLeft(sweep=member.sweep))

    def _forget_silent(self) -> None:
        now_s = self._elapsed_s()
        for driver, member in list(self._members.items()):
            if now_s - member.heard_s > LEASE_S:
                self.leave(driver)

    def _handle(self, *events: Event) -> None:
        """Lets the broker decide, and keeps its decisions for the drivers that they are for."""
        decisions = self._broker.handle(*events, elapsed_s=self._elapsed_s(), wall_s=self._now())
        for allocation in decisions.allocations:
            member, name = self._owners[allocation.name]
            granted = replace(allocation, name=name)
            member.details[name] = replace(member.details[name], allocation=granted)
        for pause in decisions.pauses:
            member, name = self._owners[pause.name]
            member.pauses[name] = replace(pause, name=name)
        for refusal in decisions.refusals:
            member, name = self._owners[refusal.name]
            member.refusals[name] = replace(refusal, name=name)


def _joined(member: _Member) -> Event:
    join = member.join
    return SweepJoined(sweep=member.sweep, member=join.member, max_concurrent=join.max_concurrent)


def _refuse_without_member(member: _Member, source: str) -> None:
    if member.join.member is None:
        raise RequestError(
            f"{source} cannot be put in force while {member.sweep} runs, which names no member; wait for its end"
        )
