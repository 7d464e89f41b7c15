"""Waiting for an hour: `run --start-at 22:00`. The hour is pure; the waiting sleeps in pieces by the wall clock."""

import time as clock
import zoneinfo
from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta, tzinfo

from tuning_common.errors import RequestError, WorkError
from tuning_common.units import format_duration

_PIECE_S = 20.0  # a machine that slept, or whose clock was set, is noticed after this time


def next_moment(text: str, instant: datetime, zone: tzinfo) -> datetime:
    """Returns the next moment (UTC) at which a wall clock shows a time of day.

    A time that a change of clocks skips is taken with the offset before it (PEP 495, fold=0), one that comes twice
    is its first; so windows of a team are read too.

    Args:
        text: "HH:MM".
        instant: Now, with a time zone.
        zone: Where the clock hangs.

    Raises:
        RequestError: When the text is no time of day.

    >>> seoul = zoneinfo.ZoneInfo("Asia/Seoul")
    >>> next_moment("22:00", datetime(2026, 11, 25, 23, 0, tzinfo=seoul), seoul).isoformat()
    '2026-11-26T13:00:00+00:00'
    """
    try:
        wanted = time.fromisoformat(text)
    except ValueError:
        raise RequestError(f"--start-at {text!r} is no time of day; write HH:MM, for example 22:00") from None
    today = instant.astimezone(zone).date()
    moments = (
        datetime.combine(today + timedelta(days=days), wanted, tzinfo=zone).astimezone(UTC) for days in range(-1, 3)
    )
    return next(moment for moment in moments if moment >= instant)


def zone_of(name: str | None) -> tzinfo:
    """Returns a zone by its IANA name; this machine's own, with its changes of clocks, where None."""
    if name is not None:
        return zoneinfo.ZoneInfo(name)
    try:
        with open("/etc/localtime", "rb") as stream:
            return zoneinfo.ZoneInfo.from_file(stream, key="local time")
    except (OSError, ValueError):
        return UTC


def wait_until(
    moment: datetime,
    zone: tzinfo,
    say: Callable[[str], None],
    *,
    now: Callable[[], float] = clock.time,
    sleep: Callable[[float], None] = clock.sleep,
) -> None:
    """Waits for a moment of the wall clock.

    Args:
        moment: When to continue.
        zone: For what is said.
        say: Is called once with the time of the start, and again when it has come.
        now: Unix seconds.
        sleep: Sleeps for seconds.

    Raises:
        WorkError: When it is interrupted (Ctrl-C).
    """
    left_s = moment.timestamp() - now()
    if left_s <= 0:
        return
    shown = moment.astimezone(zone)
    try:
        say(f"waits until {shown:%a %Y-%m-%d %H:%M} ({zone}), for {format_duration(left_s)}; nothing runs before")
        while (left_s := moment.timestamp() - now()) > 0:
            sleep(min(left_s, _PIECE_S))
    except KeyboardInterrupt:
        raise WorkError("stopped while it waited; nothing was run") from None
    say(f"it is {shown:%H:%M}")
