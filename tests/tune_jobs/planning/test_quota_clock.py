"""When a sweep would end on its member's own GPUs, over windows and changes of clocks."""

import zoneinfo
from datetime import UTC, datetime, timedelta

import pytest

from common.errors import RequestError
from tune_jobs.planning.quota_clock import end_in_quota
from cluster.scheduling.quotas import Member, Team, Window

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
HOUR_S = 3600.0


def team(day: float, night: float | None = None, zone: str = "UTC") -> Team:
    windows = () if night is None else (Window(name="n", start="22:00", end="06:00", quota_gpus={"jun": night}),)
    return Team(members={"jun": Member(quota_gpus=day)}, windows=windows, time_zone=zone)


@pytest.mark.parametrize(
    ("day", "night", "gpus", "hours"),
    [
        (4, None, 4, 6.0),  # the quota is no limit
        (8, None, 4, 6.0),
        (2, None, 4, 12.0),  # half the rate throughout
        (0, 4, 4, 16.0),  # waits for the night, ten hours away
        (4, 0, 4, 6.0),  # over before the night
        (2, 0, 4, 20.0),  # five of six hours by 22:00, none until 06:00, the last hour at half the rate
        (0, 2, 4, 10 + 8 + 16 + 4.0),  # four of six hours in the first night, the rest in the second
        (0, 0, 0, 6.0),  # trials without GPUs use no quota
    ],
)
def test_six_hours_of_work_end_by_the_quotas_of_day_and_night(
    day: float, night: float | None, gpus: float, hours: float
) -> None:
    found = end_in_quota(team(day, night), "jun", starts_at=NOON, makespan_s=6 * HOUR_S, gpus=gpus)
    assert found.ends_at == NOON + timedelta(hours=hours)
    assert found.now_gpus == day


def test_a_night_with_a_change_of_clocks_is_an_hour_longer() -> None:
    berlin = zoneinfo.ZoneInfo("Europe/Berlin")
    evening = datetime(2026, 10, 24, 22, tzinfo=berlin)  # the clocks go back at 03:00
    found = end_in_quota(team(0, 1, "Europe/Berlin"), "jun", starts_at=evening, makespan_s=9 * HOUR_S, gpus=1)
    assert found.ends_at is not None
    assert found.ends_at.astimezone(UTC) - evening.astimezone(UTC) == timedelta(hours=9)
    assert f"{found.ends_at.astimezone(berlin):%H:%M}" == "06:00"


def test_without_any_quota_it_never_ends_and_that_is_said() -> None:
    for one in (team(0), team(0, 0)):
        found = end_in_quota(one, "jun", starts_at=NOON, makespan_s=1.0, gpus=1)
        assert found.ends_at is None
        assert found.describe() == (
            "within jun's own quota (0 GPUs now): not within 8 weeks; only lent GPUs would let it end"
        )


def test_a_stranger_is_refused_with_the_members() -> None:
    with pytest.raises(RequestError, match=r"'mina' is not in team.yaml; known: jun"):
        end_in_quota(team(1), "mina", starts_at=NOON, makespan_s=1.0, gpus=1)
