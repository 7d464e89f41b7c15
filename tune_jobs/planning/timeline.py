"""When and where the trials of a phase would run: the broker of real sweeps under a simulated clock. Pure."""

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from cluster.machines.hardware import Inventory
from cluster.scheduling.broker import Broker
from cluster.scheduling.events import Decisions, Ended, Event, Submitted, SweepJoined
from cluster.scheduling.quotas import Team, next_change
from cluster.scheduling.request import Allocation, Request
from tune_jobs.placing.submission import SubmissionLimits

NO_LIMITS = SubmissionLimits()
LONGEST = timedelta(weeks=8)  # a plan that reaches further is no plan


@dataclass(frozen=True, kw_only=True)
class TimedTrial:
    """One trial.

    Attributes:
        name: Unique in the plan.
        request: What it asks the broker for.
        length: How long it takes alone on a card of speed 1, in the plan's unit.
    """

    name: str
    request: Request
    length: float


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """Where and when a trial runs, from its start or resumption to its end or pause.

    Attributes:
        name: The trial.
        gpu_model: Label of the cards; empty without.
        nodes: Name of the node of each card; one where only CPUs are counted.
        cards: Number of each card on its node.
        gpus: Share of a card, or whole cards.
        start: In the plan's unit.
        end: In the plan's unit.
    """

    name: str
    gpu_model: str = ""
    nodes: tuple[str, ...] = ()
    cards: tuple[int, ...] = ()
    gpus: float = 0.0
    start: float
    end: float


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """All trials of a phase.

    Attributes:
        runs: In the sequence in which the broker started them.
    """

    runs: tuple[PlannedRun, ...]

    @property
    def makespan(self) -> float:
        """The last end."""
        return max((run.end for run in self.runs), default=0.0)

    @property
    def gpu_time(self) -> float:
        """Shares, times how long they are held."""
        return sum(run.gpus * (run.end - run.start) for run in self.runs)

    @property
    def most_at_once(self) -> int:
        """Trials side by side at the fullest moment."""
        moves = sorted([(run.start, 1) for run in self.runs] + [(run.end, -1) for run in self.runs])
        running = most = 0
        for _, move in moves:  # at one moment ends (-1) come before starts
            running += move
            most = max(most, running)
        return most


@dataclass(frozen=True, kw_only=True)
class Quota:
    """Whose quota a phase uses, and when it starts.

    Attributes:
        team: Members, windows, lending.
        member: Of the team.
        starts_at: With a time zone.
    """

    team: Team
    member: str
    starts_at: datetime


def run_timeline(
    trials: Sequence[TimedTrial],
    inventory: Inventory,
    limits: SubmissionLimits = NO_LIMITS,
    *,
    quota: Quota | None = None,
) -> Timeline | None:
    """Submits trials in their sequence to a broker and lets each run as long as it takes.

    Args:
        trials: All can run.
        inventory: The nodes.
        limits: How many trials are under way at a time.
        quota: None where everything may be used; else the plan's unit is seconds.

    Returns:
        None where the quota does not let all trials end within LONGEST.

    >>> from cluster.machines.hardware import parse_simulated
    >>> from cluster.scheduling.alternatives import Need, find_alternatives
    >>> cluster = parse_simulated("1x24GiB")
    >>> half = find_alternatives([Need(upper_bytes=11 * 2**30)], cluster)
    >>> requests = [Request(name=f"s/{number}", sweep="s", alternatives=half) for number in (1, 2, 3)]
    >>> found = run_timeline([TimedTrial(name=one.name, request=one, length=10.0) for one in requests], cluster)
    >>> [(run.name, run.gpus, run.end) for run in found.runs]
    [('s/1', 0.5, 10.0), ('s/2', 0.5, 10.0), ('s/3', 0.5, 20.0)]
    """
    return _Simulation(trials, inventory, limits, quota).run()


@dataclass(slots=True)
class _Running:
    """A trial that holds an allocation; it was the `sequence`-th to start."""

    sequence: int
    trial: TimedTrial
    allocation: Allocation
    start: float
    end: float


class _Simulation:
    """One simulation under way."""

    def __init__(
        self,
        trials: Sequence[TimedTrial],
        inventory: Inventory,
        limits: SubmissionLimits,
        quota: Quota | None,
    ) -> None:
        self._coming = deque(trials)
        self._limits, self._quota = limits, quota
        self._speeds = {pool.model: pool.speed for pool in inventory.pools}
        self._broker = Broker(inventory, team=quota.team if quota else None)
        self._events: list[Event] = []
        if trials:
            member, sweep = (quota.member if quota else None), trials[0].request.sweep
            self._events.append(SweepJoined(sweep=sweep, member=member, max_concurrent=limits.running))
        self._waiting: dict[str, TimedTrial] = {}
        self._running: dict[str, _Running] = {}
        self._ends: list[tuple[float, int, str]] = []
        self._runs: list[tuple[int, PlannedRun]] = []
        self._started = 0
        self._now = 0.0

    def run(self) -> Timeline | None:
        while self._coming or self._waiting or self._running:
            self._submit()
            decisions = self._decide()
            for allocation in decisions.allocations:
                self._start(allocation)
            for pause in decisions.pauses:
                self._pause(pause.name)
            if self._events or self._may_submit():
                continue
            if not self._advance():
                return None
        return Timeline(runs=tuple(run for _, run in sorted(self._runs, key=lambda one: one[0])))

    def _submit(self) -> None:
        while self._may_submit():
            self._wait(self._coming.popleft())

    def _may_submit(self) -> bool:
        return bool(self._coming) and self._limits.has_room(waiting=len(self._waiting), running=len(self._running))

    def _wait(self, trial: TimedTrial) -> None:
        self._waiting[trial.request.name] = trial
        self._events.append(Submitted(request=trial.request))

    def _decide(self) -> Decisions:
        events, self._events = self._events, []
        begin_s = self._quota.starts_at.timestamp() if self._quota else 0.0
        decisions = self._broker.handle(*events, elapsed_s=self._now, wall_s=begin_s + self._now)
        assert not decisions.refusals, decisions.refusals
        return decisions

    def _start(self, allocation: Allocation) -> None:
        trial = self._waiting.pop(allocation.name)
        end = self._now + trial.length / self._speeds.get(allocation.alternative.model, 1.0)
        self._started += 1
        self._running[allocation.name] = _Running(self._started, trial, allocation, self._now, end)
        heapq.heappush(self._ends, (end, self._started, allocation.name))

    def _pause(self, name: str) -> None:
        """A trial saves its progress, gives back what it holds, and asks for it again."""
        trial, left = self._running[name].trial, self._running[name].end - self._now
        speed = self._speeds.get(self._running[name].allocation.alternative.model, 1.0)
        self._end(name)
        self._wait(replace(trial, length=left * speed))

    def _end(self, name: str) -> None:
        run = self._running.pop(name)
        allocation = run.allocation
        self._events.append(Ended(name=name))
        planned = PlannedRun(
            name=run.trial.name,
            gpu_model=allocation.alternative.model,
            nodes=allocation.nodes,
            cards=allocation.cards,
            gpus=allocation.alternative.gpus,
            start=run.start,
            end=self._now,
        )
        self._runs.append((run.sequence, planned))

    def _advance(self) -> bool:
        """Goes on to the next end, or to the next change of quotas; returns whether there is one."""
        while self._ends and self._is_over(self._ends[0]):
            heapq.heappop(self._ends)
        next_end = self._ends[0][0] if self._ends else math.inf
        next_time = min(next_end, self._next_change())
        if next_time == math.inf:
            return False
        self._now = next_time
        while self._ends and self._ends[0][0] == self._now:
            end = heapq.heappop(self._ends)
            if not self._is_over(end):
                self._end(end[2])
        return True

    def _is_over(self, end: tuple[float, int, str]) -> bool:
        return end[2] not in self._running or self._running[end[2]].sequence != end[1]

    def _next_change(self) -> float:
        if self._quota is None:
            return math.inf
        moment = self._quota.starts_at.astimezone(UTC) + timedelta(seconds=self._now)
        change = next_change(self._quota.team, moment)
        if change is None or change - self._quota.starts_at > LONGEST:
            return math.inf
        return (change - self._quota.starts_at.astimezone(UTC)).total_seconds()
