"""A broker service, drivers of it and a link that loses and delays messages, under clocks that a test sets."""

from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from typing import cast
from zoneinfo import ZoneInfo

from cluster.machines.hardware import Inventory, parse_simulated
from cluster.scheduling.alternatives import Need, find_alternatives
from cluster.scheduling.broker_client import BrokerClient, LocalBroker
from cluster.scheduling.broker_service import BrokerService
from cluster.scheduling.cluster_broker import SOON_S, ClusterBroker
from cluster.scheduling.events import Decisions
from cluster.scheduling.messages import Join, Report
from cluster.scheduling.quotas import Member, Team, Window
from cluster.scheduling.request import Request
from tuning_common.errors import RequestError
from tuning_common.strict import from_mapping

GIB = 2**30
SEOUL = ZoneInfo("Asia/Seoul")
NOON_S = datetime(2026, 11, 25, 12, 0, tzinfo=SEOUL).timestamp()
FOUR = parse_simulated("4x24GiB")
TEAM = Team(
    members={"minji": Member(quota_gpus=1, models=("kobart",)), "jun": Member(quota_gpus=3)},
    windows=(Window(name="night", start="22:00", end="07:00", quota_gpus={"minji": 4, "jun": 0}),),
)


class Link:
    """Calls a service in this process; a message is lost where `loses` says so, and late where `delays` says so."""

    def __init__(self, cluster: "Shells") -> None:
        self.cluster = cluster
        self.loses: Callable[[], str] = lambda: ""  # "", "request" or "reply"
        self.delay_s = 0.0

    def call(self, method: str, *arguments: object) -> object:
        lost = self.loses() if self.cluster.answers else "request"
        answer = None if lost == "request" else getattr(self, method)(*arguments)
        self.cluster.service.validate()
        return (self.cluster.elapsed_s + self.delay_s if not lost else float("inf"), answer)

    def answer(self, call: object, wait_s: float) -> tuple[bool, object]:
        at_s, answer = cast("tuple[float, object]", call)
        return (True, answer) if at_s <= self.cluster.elapsed_s + wait_s else (False, None)

    def join(self, join: dict[str, object]) -> str:
        try:
            self.cluster.service.join(from_mapping(Join, join))
        except RequestError as error:
            return str(error)
        return ""

    def exchange(self, driver: str, report: dict[str, object]) -> dict[str, object]:
        return asdict(self.cluster.service.exchange(driver, from_mapping(Report, report)))

    def leave(self, driver: str) -> str:
        self.cluster.service.leave(driver)
        return ""


class Shells:
    """A cluster, its broker's service and its drivers."""

    def __init__(self, inventory: Inventory = FOUR) -> None:
        self.elapsed_s, self.now_s = 100.0, NOON_S
        self.inventory = inventory
        self.answers = True
        self.service = self.new_service(lost=False)

    def new_service(self, *, lost: bool) -> BrokerService:
        service = BrokerService(elapsed_s=lambda: self.elapsed_s, now=lambda: self.now_s, lost=lost)
        if not lost:
            service.nodes_changed(self.inventory)
        return service

    def lose(self) -> None:
        """The broker's process dies and is started again; it has yet to ask the nodes what they have."""
        self.service = self.new_service(lost=True)

    def driver(
        self, sweep: str, *, member: str | None = None, team: Team | None = None, key: str = ""
    ) -> ClusterBroker:
        """Opens a driver's client."""
        client = ClusterBroker(self.join_of(sweep, member, team, key), Link(self), lambda: self.elapsed_s)
        client.open()
        return client

    def join_of(self, sweep: str, member: str | None = None, team: Team | None = None, key: str = "") -> Join:
        team = team or (TEAM if member else None)
        return Join(
            driver=key or sweep,
            job="01000000",
            sweep=sweep,
            member=member,
            models=("kobart",),
            team=None if team is None else asdict(team),
            team_source="team.yaml",
        )

    def local(self, sweep: str) -> LocalBroker:
        """A broker in the driver."""
        return LocalBroker(self.inventory, sweep=sweep, elapsed_s=lambda: self.elapsed_s, now=lambda: self.now_s)

    def request(self, name: str, gib: float = 23.0, *, cards: int = 1) -> Request:
        """A request of the sweep before the slash; 23 GiB are a whole card of 24 GiB, 11 GiB half of one."""
        found = find_alternatives((Need(upper_bytes=int(gib * GIB), cards=cards, cpus=1.0),), self.inventory)
        return Request(name=name, sweep=name.split("/")[0], alternatives=found)

    def wait(self, seconds: float, *clients: BrokerClient) -> list[Decisions]:
        """Lets time pass while drivers poll; returns what was decided for each."""
        found: list[list[Decisions]] = [[] for _ in clients]
        for _ in range(round(seconds / SOON_S)):
            self.elapsed_s += SOON_S
            self.now_s += SOON_S
            for client, mine in zip(clients, found, strict=True):
                mine.append(client.poll())
        return [together(mine) for mine in found]


def together(decisions: list[Decisions]) -> Decisions:
    """Joins decisions."""
    return Decisions(
        allocations=tuple(one for each in decisions for one in each.allocations),
        pauses=tuple(one for each in decisions for one in each.pauses),
        refusals=tuple(one for each in decisions for one in each.refusals),
    )


def names(decisions: Decisions) -> list[str]:
    """Names of the allocations."""
    return [one.name for one in decisions.allocations]
