"""run --start-at: the right moment across midnight, changes of clocks and set clocks."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from tune_jobs.driver.start_at import next_moment, wait_until, zone_of
from tuning_common.errors import RequestError, WorkError

SEOUL, BERLIN = ZoneInfo("Asia/Seoul"), ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("text", "instant", "zone", "expected"),
    [
        ("22:00", datetime(2026, 11, 25, 12, tzinfo=SEOUL), SEOUL, datetime(2026, 11, 25, 22, tzinfo=SEOUL)),
        ("22:00", datetime(2026, 11, 25, 22, tzinfo=SEOUL), SEOUL, datetime(2026, 11, 25, 22, tzinfo=SEOUL)),
        ("22:00", datetime(2026, 11, 25, 22, 1, tzinfo=SEOUL), SEOUL, datetime(2026, 11, 26, 22, tzinfo=SEOUL)),
        # another day at the clock's place than at the asker's
        ("00:30", datetime(2026, 11, 25, 15, 0, tzinfo=UTC), SEOUL, datetime(2026, 11, 25, 15, 30, tzinfo=UTC)),
        # 02:00 to 03:00 is skipped: with the offset before, 02:30 is 01:30 UTC
        ("02:30", datetime(2026, 3, 28, 23, 0, tzinfo=UTC), BERLIN, datetime(2026, 3, 29, 1, 30, tzinfo=UTC)),
        ("06:00", datetime(2026, 3, 28, 21, 0, tzinfo=UTC), BERLIN, datetime(2026, 3, 29, 4, 0, tzinfo=UTC)),
        # 02:00 to 03:00 comes twice: the first
        ("02:30", datetime(2026, 10, 24, 22, 0, tzinfo=UTC), BERLIN, datetime(2026, 10, 25, 0, 30, tzinfo=UTC)),
        ("02:30", datetime(2026, 10, 25, 0, 40, tzinfo=UTC), BERLIN, datetime(2026, 10, 26, 1, 30, tzinfo=UTC)),
        ("06:00", datetime(2026, 10, 24, 20, 0, tzinfo=UTC), BERLIN, datetime(2026, 10, 25, 5, 0, tzinfo=UTC)),
    ],
)
def test_the_next_time_a_clock_shows_an_hour(text: str, instant: datetime, zone: ZoneInfo, expected: datetime) -> None:
    assert next_moment(text, instant, zone) == expected


@pytest.mark.parametrize("text", ["10pm", "25:00", ""])
def test_what_is_no_hour_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="is no time of day; write HH:MM"):
        next_moment(text, datetime.now(UTC), SEOUL)


class Clock:
    """A wall clock that jumps back an hour in the third sleep."""

    def __init__(self) -> None:
        self.now_s = datetime(2026, 11, 25, 21, 58, tzinfo=SEOUL).timestamp()
        self.slept_s: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.now_s += seconds - (3600 if len(self.slept_s) == 3 else 0)


def test_it_waits_by_the_wall_clock_and_says_until_when() -> None:
    clock, said = Clock(), []
    wait_until(
        datetime(2026, 11, 25, 22, 0, tzinfo=SEOUL), SEOUL, said.append, now=lambda: clock.now_s, sleep=clock.sleep
    )
    assert said == [
        "waits until Wed 2026-11-25 22:00 (Asia/Seoul), for 2 min 00 s; nothing runs before",
        "it is 22:00",
    ]
    assert sum(clock.slept_s) == 120 + 3600


def test_an_interrupt_says_that_nothing_was_run() -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(WorkError, match="nothing was run"):
        wait_until(datetime(2100, 1, 1, tzinfo=UTC), SEOUL, lambda text: None, sleep=interrupted)


def test_this_machines_own_zone_is_found() -> None:
    assert datetime(2026, 1, 1, tzinfo=zone_of(None)).utcoffset() is not None
