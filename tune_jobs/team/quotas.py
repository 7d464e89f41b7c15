"""Who may use how many GPUs, and when: members, quotas and the windows in which other quotas hold. Pure."""

import zoneinfo
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Literal

from common.errors import Problems, RequestError
from common.strict import from_mapping, load_yaml

Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
WEEKDAYS: tuple[Weekday, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_HORIZON_DAYS = 8  # a weekly plan repeats, so its next change lies within eight days


@dataclass(frozen=True, kw_only=True)
class Member:
    """One person or group that submits sweeps.

    Attributes:
        quota_gpus: GPUs that are theirs at all times outside the windows; fractions count.
        focus: What they work on, for people.
        models: The only models they may tune; empty means any.
    """

    quota_gpus: float
    focus: str = ""
    models: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Window:
    """Hours in which other quotas hold.

    Attributes:
        name: For people and for the ledger.
        days: The weekdays on which the window begins; one that crosses midnight ends on the next day.
        start: Wall-clock time "HH:MM" in the team's time zone.
        end: Wall-clock time "HH:MM"; at or before `start` means the next day.
        quota_gpus: GPUs by member in these hours; a member who is not named keeps the ordinary quota.
    """

    name: str
    start: str
    end: str
    quota_gpus: Mapping[str, float]
    days: tuple[Weekday, ...] = WEEKDAYS


@dataclass(frozen=True, kw_only=True)
class Team:
    """The content of team.yaml.

    Attributes:
        members: By name.
        windows: When two are open at once, the later one in the file holds.
        time_zone: IANA name, for example Asia/Seoul.
        lend_idle: Whether GPUs that nobody entitled asks for may be used beyond a quota until somebody does.
    """

    members: Mapping[str, Member]
    windows: tuple[Window, ...] = ()
    time_zone: str = "Asia/Seoul"
    lend_idle: bool = True

    def __post_init__(self) -> None:
        problems = Problems()
        if self.time_zone not in zoneinfo.available_timezones():
            problems.add(f"time_zone {self.time_zone!r} is unknown; write an IANA name such as Asia/Seoul")
        for name, member in self.members.items():
            if member.quota_gpus < 0:
                problems.add(f"members.{name}.quota_gpus must not be negative, but is {member.quota_gpus:g}")
        for index, window in enumerate(self.windows):
            problems.extend([f"windows.{index}: {text}" for text in _window_problems(window, self.members)])
        problems.raise_if_any("team")


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a member holds or asks for.

    Attributes:
        trial: The trial's name.
        member: Whose it is.
        gpus: Shares are fractions; a multi-GPU trial holds whole cards.
        since_s: Unix seconds at which it began to hold or to wait.
    """

    trial: str
    member: str
    gpus: float
    since_s: float


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Whether a trial may start now, and why."""

    verdict: Literal["own", "lent", "waits"]
    reason: str


@dataclass(frozen=True, kw_only=True)
class Books:
    """Everything that a decision rests on.

    Attributes:
        capacity_gpus: Cards of the cluster.
        held: Running trials of every member.
        waiting: Trials of every member that could start but for admission.
        unplaced: Those of `held` that were admitted a while ago and still have no place: the free GPUs lie on several
            cards, none of which has room for the trial in one piece.
    """

    capacity_gpus: float
    held: Sequence[Claim] = field(default_factory=tuple)
    waiting: Sequence[Claim] = field(default_factory=tuple)
    unplaced: Sequence[Claim] = field(default_factory=tuple)

    def held_by(self, member: str) -> float:
        """GPUs that a member holds."""
        return round(sum(claim.gpus for claim in self.held if claim.member == member), 4)

    @property
    def free_gpus(self) -> float:
        """GPUs that nobody holds."""
        return round(self.capacity_gpus - sum(claim.gpus for claim in self.held), 4)


def load_team(path: Path) -> Team:
    """Reads team.yaml strictly.

    Raises:
        RequestError: With file, line and remedy of every problem.
    """
    document = load_yaml(path)
    return from_mapping(Team, document.mapping(), located=document)


def open_window(team: Team, instant: datetime) -> Window | None:
    """Returns the window that holds at an instant, or None for ordinary hours.

    Args:
        team: The team.
        instant: A moment with a time zone.

    >>> night = Window(name="night", start="22:00", end="07:00", quota_gpus={"minji": 4})
    >>> team = Team(members={"minji": Member(quota_gpus=1)}, windows=(night,))
    >>> seoul = zoneinfo.ZoneInfo("Asia/Seoul")
    >>> open_window(team, datetime(2026, 11, 25, 3, 0, tzinfo=seoul)).name
    'night'
    >>> open_window(team, datetime(2026, 11, 25, 12, 0, tzinfo=seoul)) is None
    True
    """
    moment = instant.astimezone(UTC)
    found = None
    for window in team.windows:
        if any(start <= moment < end for start, end in _spans(team, window, moment)):
            found = window
    return found


def quota_gpus(team: Team, member: str, instant: datetime) -> float:
    """Returns how many GPUs are a member's own at an instant.

    Raises:
        RequestError: When the member is unknown.
    """
    if member not in team.members:
        raise RequestError(f"member {member!r} is not in team.yaml; known: {', '.join(sorted(team.members))}")
    window = open_window(team, instant)
    ordinary = team.members[member].quota_gpus
    return window.quota_gpus.get(member, ordinary) if window else ordinary


def next_change(team: Team, instant: datetime) -> datetime | None:
    """Returns the next moment (UTC) at which a window opens or closes, or None without windows."""
    moment = instant.astimezone(UTC)
    edges = [edge for window in team.windows for span in _spans(team, window, moment) for edge in span if edge > moment]
    return min(edges, default=None)


def admit(team: Team, books: Books, claim: Claim, instant: datetime) -> Decision:
    """Decides whether a waiting trial may start.

    A trial inside its member's quota starts as soon as cards are free. Beyond the quota it starts only on cards that
    no waiting trial inside its own quota could use (lent), and it is given back at the next rung; see to_give_back.

    Args:
        team: Members and windows.
        books: What is held and who waits.
        claim: The trial that asks.
        instant: Now, with a time zone.

    Returns:
        "own", "lent" or "waits", with a reason for people.
    """
    quota = quota_gpus(team, claim.member, instant)
    held = books.held_by(claim.member)
    state = f"{claim.member} holds {held:g} of {quota:g} GPUs"
    if claim.gpus > books.free_gpus + 1e-9:
        return Decision(verdict="waits", reason=f"asks for {claim.gpus:g} GPUs, {books.free_gpus:g} are free")
    if held + claim.gpus <= quota + 1e-9:
        return Decision(verdict="own", reason=state)
    if not team.lend_idle:
        return Decision(verdict="waits", reason=f"{state} and the team does not lend idle GPUs{_until(team, instant)}")
    owed = sum(other.gpus for other in _entitled(team, books, instant) if other.member != claim.member)
    if claim.gpus <= books.free_gpus - owed + 1e-9:
        return Decision(verdict="lent", reason=f"{state}; idle GPUs are lent until their owner asks")
    return Decision(verdict="waits", reason=f"{state}; free GPUs are owed to others{_until(team, instant)}")


def to_give_back(team: Team, books: Books, instant: datetime) -> tuple[Claim, ...]:
    """Names the running trials that must be checkpointed and paused at their next rung.

    Trials beyond their member's quota at this instant (a window closed, or cards were lent) go when an entitled trial
    waits and too little is free, or at once where the team does not lend. The youngest go first: they lose least.

    Returns:
        The trials to pause, in order.
    """
    borrowed = _borrowed(team, books, instant)
    if not team.lend_idle:
        return tuple(borrowed)
    unplaced = [claim for claim in books.unplaced if claim not in borrowed]
    missing = sum(claim.gpus for claim in [*_entitled(team, books, instant), *unplaced]) - books.free_gpus
    chosen: list[Claim] = []
    for claim in borrowed:
        if missing <= 1e-9:
            break
        chosen.append(claim)
        missing -= claim.gpus
    return tuple(chosen)


def why_back(team: Team, books: Books, claim: Claim, instant: datetime) -> str:
    """Says for people why a trial of to_give_back pauses."""
    quota, held = quota_gpus(team, claim.member, instant), books.held_by(claim.member)
    owners = sorted({other.member for other in [*books.waiting, *books.unplaced]} - {claim.member})
    asked = f" and {', '.join(owners)} asked for what is theirs" if owners and team.lend_idle else ""
    return f"{claim.member} holds {held:g} of {quota:g} GPUs{asked}{_until(team, instant)}"


def refuse_models(team: Team, member: str, models: Sequence[str]) -> None:
    """Refuses models that are not a member's to tune.

    Raises:
        RequestError: When the member is unknown, or has a list of models that lacks one of these.
    """
    if member not in team.members:
        raise RequestError(f"member {member!r} is not in team.yaml; known: {', '.join(sorted(team.members))}")
    allowed = team.members[member].models
    strange = [model for model in models if allowed and model not in allowed]
    if strange:
        raise RequestError(
            f"{', '.join(strange)}: not among the models of {member}; team.yaml gives {member} {', '.join(allowed)}"
        )


def _borrowed(team: Team, books: Books, instant: datetime) -> list[Claim]:
    """Trials beyond their member's quota, youngest first."""
    beyond: list[Claim] = []
    for member in {claim.member for claim in books.held}:
        quota, used = quota_gpus(team, member, instant), 0.0
        for claim in sorted((c for c in books.held if c.member == member), key=lambda c: (c.since_s, c.trial)):
            used += claim.gpus
            if used > quota + 1e-9:
                beyond.append(claim)
    return sorted(beyond, key=lambda claim: (-claim.since_s, claim.trial))


def _entitled(team: Team, books: Books, instant: datetime) -> list[Claim]:
    """Waiting trials that fit inside their member's quota, oldest first."""
    left = {member: quota_gpus(team, member, instant) - books.held_by(member) for member in team.members}
    entitled = []
    for claim in sorted(books.waiting, key=lambda claim: (claim.since_s, claim.trial)):
        if claim.gpus <= left.get(claim.member, 0.0) + 1e-9:
            left[claim.member] -= claim.gpus
            entitled.append(claim)
    return entitled


def _spans(team: Team, window: Window, moment: datetime) -> list[tuple[datetime, datetime]]:
    """Start and end (UTC) of a window's openings around a moment.

    Wall-clock times are put into the zone day by day, so a night with a change of clocks is an hour shorter or
    longer. A time that the change skips is taken with the offset before it (PEP 495, fold=0), a time that comes
    twice is its first.
    """
    zone = zoneinfo.ZoneInfo(team.time_zone)
    start, end = time.fromisoformat(window.start), time.fromisoformat(window.end)
    today = moment.astimezone(zone).date()
    spans = []
    for offset in range(-1, _HORIZON_DAYS):
        day = today + timedelta(days=offset)
        if WEEKDAYS[day.weekday()] in window.days:
            last = day if end > start else day + timedelta(days=1)
            spans.append(
                (
                    datetime.combine(day, start, tzinfo=zone).astimezone(UTC),
                    datetime.combine(last, end, tzinfo=zone).astimezone(UTC),
                )
            )
    return spans


def _until(team: Team, instant: datetime) -> str:
    change = next_change(team, instant)
    if change is None:
        return ""
    return f" (quotas change at {change.astimezone(zoneinfo.ZoneInfo(team.time_zone)):%a %H:%M})"


def _window_problems(window: Window, members: Mapping[str, Member]) -> list[str]:
    problems = []
    for name, text in (("start", window.start), ("end", window.end)):
        try:
            time.fromisoformat(text)
        except ValueError:
            problems.append(
                f"window {window.name!r}: {name} {text!r} is no time of day; write HH:MM, for example 22:00"
            )
    for member, quota in window.quota_gpus.items():
        if member not in members:
            problems.append(f"window {window.name!r}: {member!r} is no member; known: {', '.join(sorted(members))}")
        if quota < 0:
            problems.append(f"window {window.name!r}: the quota of {member!r} must not be negative, but is {quota:g}")
    if not window.days:
        problems.append(f"window {window.name!r}: days is empty, so the window never opens")
    return problems
