"""The books of a cluster: what every sweep holds and asks for, and who is let in. Pure; team_actor keeps them in Ray.

Every sweep's driver tells again and again, in whole, what it holds and what it asks for. So a driver that dies is
forgotten after LEASE_S, and books that were lost are full again as soon as every driver has spoken once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from common.errors import RequestError
from common.units import format_duration
from tune_jobs.team.quotas import (
    Books,
    Claim,
    Decision,
    Team,
    admit,
    next_change,
    open_window,
    quota_gpus,
    refuse_models,
    to_give_back,
    why_back,
)

LEASE_S = 30.0  # what a silent driver holds is free after this time
PLACE_S = 15.0  # an admitted trial that has no place by then waits for room in one piece


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One trial of a sweep as its driver tells it.

    Attributes:
        trial: Name, unique in its sweep.
        gpus: What it holds or asks for.
        since_s: Unix seconds at which it began to hold or to wait.
        running: Whether Ray has found a place for a trial that was admitted.
    """

    trial: str
    gpus: float
    since_s: float
    running: bool = False


@dataclass(frozen=True, kw_only=True)
class Telling:
    """What a driver tells in one exchange.

    Attributes:
        held: Its admitted trials.
        asks: Trials that would start now.
        further: How many more like the first of `asks` would follow at once: others' idle GPUs are given back for all
            of them together, not one after another.
    """

    held: tuple[Entry, ...] = ()
    asks: tuple[Entry, ...] = ()
    further: int = 0


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the books answer.

    Attributes:
        known: False where the driver has to enter first: the books are new, or it was silent for too long.
        decisions: For each trial that asked.
        give_back: Trials to pause at their next report, and why.
    """

    known: bool = True
    decisions: Mapping[str, Decision] = field(default_factory=dict)
    give_back: Mapping[str, str] = field(default_factory=dict)


@dataclass(kw_only=True)
class _Sweep:
    name: str
    member: str
    heard_s: float
    telling: Telling = field(default_factory=Telling)
    verdicts: dict[str, Literal["own", "lent"]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    placed_s: dict[str, float] = field(default_factory=dict)


class TeamBooks:
    """Keeps the books of one cluster.

    Args:
        elapsed_s: Seconds that only grow: leases do not end when somebody sets a clock.
        now: Unix seconds: windows are hours of the wall clock.
        lost: Whether earlier books were lost: nobody is let in until every driver that lives has told what it holds.
    """

    def __init__(self, *, elapsed_s: Callable[[], float], now: Callable[[], float], lost: bool = False) -> None:
        self._elapsed_s, self._now = elapsed_s, now
        self._team: Team | None = None
        self._team_source = ""
        self._sweeps: dict[str, _Sweep] = {}
        self._full_at_s = elapsed_s() + LEASE_S if lost else elapsed_s()

    def enter(self, driver: str, *, sweep: str, member: str, models: Sequence[str], team: Team, source: str) -> None:
        """Takes in a sweep.

        Args:
            driver: Unique to the driver's process.
            sweep: Its name, for people.
            member: Whose quota it uses.
            models: What it tunes.
            team: Its team file; in force from now on where no other is.
            source: Where that file is, for people.

        Raises:
            RequestError: When another team file is in force, or this one does not allow the sweep.
        """
        self._forget_silent()
        if self._team is not None and team != self._team and self._sweeps:
            running = ", ".join(sorted({f"{known.name} ({known.member})" for known in self._sweeps.values()}))
            raise RequestError(
                f"{source} differs from the quotas in force on this cluster, which came from {self._team_source} and"
                f" hold for {running}; use the same file, or put yours in force:"
                f" python -m tune_jobs team --apply {source}"
            )
        refuse_models(team, member, models)
        self._team, self._team_source = team, source
        self._sweeps[driver] = _Sweep(name=sweep, member=member, heard_s=self._elapsed_s())

    def apply(self, team: Team, source: str) -> None:
        """Puts other quotas in force, for running sweeps too.

        Raises:
            RequestError: When a member with a running sweep is not among them.
        """
        self._forget_silent()
        for sweep in self._sweeps.values():
            refuse_models(team, sweep.member, ())
        self._team, self._team_source = team, source

    def leave(self, driver: str) -> None:
        """A sweep is over."""
        self._sweeps.pop(driver, None)

    @property
    def in_force(self) -> bool:
        """Whether the cluster has quotas at all."""
        return self._team is not None

    def exchange(self, driver: str, telling: Telling, capacity_gpus: float) -> Answer:
        """Hears what a driver holds and asks for, and answers who may start and who should pause.

        Args:
            driver: As it entered.
            telling: In whole: what is not told again is free.
            capacity_gpus: Cards of the cluster.
        """
        self._forget_silent()
        sweep = self._sweeps.get(driver)
        if sweep is None or self._team is None:
            return Answer(known=False)
        self._hear(sweep, telling)
        decisions: dict[str, Decision] = {}
        for ask in sorted(telling.asks, key=lambda entry: (entry.since_s, entry.trial)):
            decision = self._decide(driver, sweep, ask, capacity_gpus)
            decisions[ask.trial] = decision
            sweep.reasons[ask.trial] = decision.reason
            if decision.verdict != "waits":
                sweep.verdicts[ask.trial] = decision.verdict
                held = Entry(trial=ask.trial, gpus=ask.gpus, since_s=self._now())
                rest = tuple(entry for entry in sweep.telling.asks if entry.trial != ask.trial)
                sweep.telling = Telling(held=(*sweep.telling.held, held), asks=rest, further=sweep.telling.further)
        instant = self._instant()
        books = self._books(capacity_gpus)
        back = {claim.trial: claim for claim in to_give_back(self._team, books, instant)}
        give_back = {
            entry.trial: why_back(self._team, books, back[_key(driver, entry.trial)], instant)
            for entry in telling.held
            if _key(driver, entry.trial) in back
        }
        return Answer(decisions=decisions, give_back=give_back)

    def status(self, capacity_gpus: float) -> dict[str, object]:
        """Tells who holds what, who waits and why; plain values, for `team --format json`."""
        self._forget_silent()
        if self._team is None:
            return {"in_force": False, "capacity_gpus": capacity_gpus, "members": [], "held": [], "waiting": []}
        books = self._books(capacity_gpus)
        return {
            "in_force": True,
            "source": self._team_source,
            "capacity_gpus": capacity_gpus,
            "free_gpus": books.free_gpus,
            "settling_s": max(0.0, self._full_at_s - self._elapsed_s()),
            "held": [
                {
                    "member": sweep.member,
                    "sweep": sweep.name,
                    "trial": entry.trial,
                    "gpus": entry.gpus,
                    "since_s": entry.since_s,
                    "kind": sweep.verdicts.get(entry.trial, "own"),
                    "running": entry.running,
                }
                for sweep in self._sweeps.values()
                for entry in sweep.telling.held
            ],
            "waiting": [
                {
                    "member": sweep.member,
                    "sweep": sweep.name,
                    "trial": entry.trial,
                    "gpus": entry.gpus,
                    "since_s": entry.since_s,
                    "reason": sweep.reasons.get(entry.trial, ""),
                    "further": sweep.telling.further,
                }
                for sweep in self._sweeps.values()
                for entry in sweep.telling.asks
            ],
        } | team_status(self._team, self._instant(), books)

    def _decide(self, driver: str, sweep: _Sweep, ask: Entry, capacity_gpus: float) -> Decision:
        assert self._team is not None
        left_s = self._full_at_s - self._elapsed_s()
        if left_s > 0:
            reason = f"the team's books were lost; full again in {format_duration(left_s)}, when every sweep has spoken"
            return Decision(verdict="waits", reason=reason)
        claim = _claim(driver, sweep.member, ask)
        return admit(self._team, self._books(capacity_gpus), claim, self._instant())

    def _hear(self, sweep: _Sweep, telling: Telling) -> None:
        now_s = self._elapsed_s()
        sweep.heard_s, sweep.telling = now_s, telling
        names = {entry.trial for entry in telling.held}
        sweep.verdicts = {name: verdict for name, verdict in sweep.verdicts.items() if name in names}
        sweep.placed_s = {
            entry.trial: sweep.placed_s.get(entry.trial, now_s) for entry in telling.held if not entry.running
        }
        sweep.reasons = {}

    def _books(self, capacity_gpus: float) -> Books:
        held, waiting, unplaced = [], [], []
        for driver, sweep in self._sweeps.items():
            for entry in sweep.telling.held:
                claim = _claim(driver, sweep.member, entry)
                held.append(claim)
                admitted_s = sweep.placed_s.get(entry.trial)
                if admitted_s is not None and self._elapsed_s() - admitted_s > PLACE_S:
                    unplaced.append(claim)
            waiting += [_claim(driver, sweep.member, entry) for entry in _all_waiting(sweep.telling)]
        return Books(capacity_gpus=capacity_gpus, held=held, waiting=waiting, unplaced=unplaced)

    def _forget_silent(self) -> None:
        now_s = self._elapsed_s()
        self._sweeps = {name: sweep for name, sweep in self._sweeps.items() if now_s - sweep.heard_s <= LEASE_S}

    def _instant(self) -> datetime:
        return datetime.fromtimestamp(self._now(), tz=UTC)


def team_status(team: Team, instant: datetime, books: Books | None = None) -> dict[str, object]:
    """Tells what a team file gives whom at an instant; plain values.

    Args:
        team: The file.
        instant: With a time zone.
        books: What is held; None where there is no cluster.
    """
    window, change = open_window(team, instant), next_change(team, instant)
    return {
        "time_zone": team.time_zone,
        "lend_idle": team.lend_idle,
        "now_s": instant.timestamp(),
        "window": window.name if window else None,
        "next_change_s": change.timestamp() if change else None,
        "members": [
            {
                "member": name,
                "focus": member.focus,
                "models": list(member.models),
                "quota_gpus": quota_gpus(team, name, instant),
                "held_gpus": books.held_by(name) if books else None,
                "waiting_gpus": sum(claim.gpus for claim in books.waiting if claim.member == name) if books else None,
            }
            for name, member in team.members.items()
        ],
    }


def _all_waiting(telling: Telling) -> list[Entry]:
    if not telling.asks:
        return []
    first = telling.asks[0]
    more = [
        Entry(trial=f"{first.trial}+{place}", gpus=first.gpus, since_s=first.since_s)
        for place in range(1, telling.further + 1)
    ]
    return [*telling.asks, *more]


def _claim(driver: str, member: str, entry: Entry) -> Claim:
    return Claim(trial=_key(driver, entry.trial), member=member, gpus=entry.gpus, since_s=entry.since_s)


def _key(driver: str, trial: str) -> str:
    return f"{driver}/{trial}"
