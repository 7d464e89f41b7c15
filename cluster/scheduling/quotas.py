"""Who may use how many GPUs, and when: members, quotas and the windows in which other quotas hold. Pure."""

import zoneinfo
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from tuning_common.errors import RequestError
from tuning_common.strict import from_mapping, load_yaml, model

Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
WEEKDAYS: tuple[Weekday, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
Quota = Annotated[float, Field(ge=0)]
_HORIZON_DAYS = 8  # a weekly plan repeats, so its next change lies within eight days


@model
class Member:
    """One person or group that submits sweeps.

    Attributes:
        quota_gpus: GPUs that are theirs at all times outside the windows; fractions count.
        focus: What they work on, for people.
        models: The only models they may tune; empty means any.
    """

    quota_gpus: Quota
    focus: str = ""
    models: tuple[str, ...] = ()


@model
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
    quota_gpus: Mapping[str, Quota]
    days: Annotated[tuple[Weekday, ...], Field(min_length=1)] = WEEKDAYS

    @field_validator("start", "end")
    @classmethod
    def _check_time(cls, value: str, info: ValidationInfo) -> str:
        try:
            time.fromisoformat(value)
        except ValueError:
            raise ValueError(f"{info.field_name} {value!r} is no time of day; write HH:MM, for example 22:00") from None
        return value


@model
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

    @field_validator("time_zone")
    @classmethod
    def _check_zone(cls, value: str) -> str:
        if value not in zoneinfo.available_timezones():
            raise ValueError(f"time_zone {value!r} is unknown; write an IANA name such as Asia/Seoul")
        return value

    @field_validator("windows")
    @classmethod
    def _check_members(cls, value: tuple[Window, ...], info: ValidationInfo) -> tuple[Window, ...]:
        members = info.data.get("members")  # absent where they are wrong themselves
        problems = [
            f"windows.{index}.quota_gpus.{name} is no member; known: {', '.join(sorted(members))}"
            for index, window in enumerate(value)
            for name in window.quota_gpus
            if members is not None and name not in members
        ]
        if problems:
            raise ValueError(*problems)
        return value


def load_team(path: Path) -> Team:
    """Reads team.yaml strictly.

    Raises:
        RequestError: With file, line and remedy of every problem.
    """
    document = load_yaml(path)
    values = document.mapping()
    if "assignments" in values and "members" not in values:
        values["members"] = _members(values.pop("assignments"))
    return from_mapping(Team, values, located=document)


def _members(assignments: object) -> object:
    """Returns members for assignments: a list with names, or a mapping by name, each with focus, models and gpu.

    `gpu` names a card, or lists several; it becomes a quota of as many cards, which are not tied to a member.

    >>> _members([{"member": "minji", "focus": "KoBART", "models": ["kobart"], "gpu": 0}])
    {'minji': {'focus': 'KoBART', 'models': ['kobart'], 'quota_gpus': 1}}
    """
    named: dict[str, object] = {}
    if isinstance(assignments, dict):
        named = {str(name): one for name, one in assignments.items()}
    elif isinstance(assignments, list) and all(isinstance(one, dict) for one in assignments):
        for one in assignments:
            rest = dict(one)
            named[str(rest.pop("member", None) or rest.pop("name", None))] = rest
    else:
        return assignments  # refused by the reader
    members: dict[str, object] = {}
    for name, one in named.items():
        values = dict(one) if isinstance(one, dict) else {"focus": one}
        cards = values.pop("gpu", values.pop("gpus", 0))
        cards = cards.split(",") if isinstance(cards, str) else cards
        members[name] = {**values, "quota_gpus": len(cards) if isinstance(cards, list) else 1}
    return members


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


def describe_next_change(team: Team, instant: datetime) -> str:
    """Says when quotas change, in brackets; empty where they do not."""
    change = next_change(team, instant)
    if change is None:
        return ""
    return f" (quotas change at {change.astimezone(zoneinfo.ZoneInfo(team.time_zone)):%a %H:%M})"


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
