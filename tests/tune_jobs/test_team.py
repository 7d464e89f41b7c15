"""Quotas by the hour: windows cross midnight and clock changes, idle GPUs are lent and given back."""

from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tune_jobs.team.quotas
from common.errors import RequestError
from tune_jobs.team.quotas import (
    Books,
    Claim,
    Member,
    Team,
    Window,
    admit,
    load_team,
    next_change,
    open_window,
    to_give_back,
)

SEOUL = ZoneInfo("Asia/Seoul")
NIGHT = Window(
    name="night", start="22:00", end="07:00", days=("mon", "tue", "wed", "thu", "fri"), quota_gpus={"minji": 4}
)
TEAM = Team(members={"minji": Member(quota_gpus=1), "jun": Member(quota_gpus=3)}, windows=(NIGHT,))
NOON = datetime(2026, 11, 25, 12, 0, tzinfo=SEOUL)  # a Wednesday
MIDNIGHT = datetime(2026, 11, 26, 0, 30, tzinfo=SEOUL)


def claim(trial: str, member: str, gpus: float, since_s: float = 0.0) -> Claim:
    return Claim(trial=trial, member=member, gpus=gpus, since_s=since_s)


@pytest.mark.parametrize(
    ("moment", "is_open"),
    [
        (datetime(2026, 11, 25, 21, 59, 59, tzinfo=SEOUL), False),
        (datetime(2026, 11, 25, 22, 0, tzinfo=SEOUL), True),
        (datetime(2026, 11, 28, 6, 59, tzinfo=SEOUL), True),  # Saturday morning belongs to Friday's window
        (datetime(2026, 11, 28, 7, 0, tzinfo=SEOUL), False),
        (datetime(2026, 11, 28, 23, 0, tzinfo=SEOUL), False),  # Saturday night is no window
    ],
)
def test_a_window_crosses_midnight(moment: datetime, is_open: bool) -> None:
    assert (open_window(TEAM, moment) is not None) is is_open


def test_a_window_follows_the_wall_clock_through_a_change_of_clocks() -> None:
    window = Window(name="early", start="01:30", end="03:30", quota_gpus={"ann": 2})
    team = Team(members={"ann": Member(quota_gpus=1)}, windows=(window,), time_zone="Europe/Berlin")
    spring = datetime(2026, 3, 29, 0, 0, tzinfo=UTC)  # 01:00 in Berlin; clocks jump from 02:00 to 03:00
    assert next_change(team, spring) == datetime(2026, 3, 29, 0, 30, tzinfo=UTC)
    assert next_change(team, datetime(2026, 3, 29, 0, 30, tzinfo=UTC)) == datetime(2026, 3, 29, 1, 30, tzinfo=UTC)
    autumn = datetime(2026, 10, 24, 23, 30, tzinfo=UTC)  # 01:30 in Berlin; 02:00 to 03:00 comes twice
    assert next_change(team, autumn) == datetime(2026, 10, 25, 2, 30, tzinfo=UTC)


def test_a_trial_inside_the_quota_starts() -> None:
    decision = admit(TEAM, Books(capacity_gpus=4), claim("a", "minji", 0.5), NOON)
    assert (decision.verdict, decision.reason) == ("own", "minji holds 0 of 1 GPUs")


def test_idle_gpus_are_lent_but_not_those_that_somebody_is_owed() -> None:
    held = [claim("a", "minji", 1.0)]
    assert admit(TEAM, Books(capacity_gpus=4, held=held), claim("b", "minji", 1.0), NOON).verdict == "lent"
    waiting = [claim("j", "jun", 3.0)]
    decision = admit(TEAM, Books(capacity_gpus=4, held=held, waiting=waiting), claim("b", "minji", 1.0), NOON)
    assert decision.verdict == "waits"
    assert decision.reason == "minji holds 1 of 1 GPUs; free GPUs are owed to others (quotas change at Wed 22:00)"


def test_a_lent_gpu_is_given_back_youngest_first() -> None:
    held = [claim("old", "minji", 1.0, 0), claim("mid", "minji", 1.0, 10), claim("new", "minji", 1.0, 20)]
    books = Books(capacity_gpus=4, held=held, waiting=[claim("j", "jun", 2.0)])
    assert [c.trial for c in to_give_back(TEAM, books, NOON)] == ["new"]
    assert to_give_back(TEAM, Books(capacity_gpus=4, held=held), NOON) == ()


def test_the_night_quota_ends_with_the_night() -> None:
    held = [claim(name, "minji", 1.0, index) for index, name in enumerate("abcd")]
    books = Books(capacity_gpus=4, held=held, waiting=[claim("j", "jun", 1.0)])
    assert to_give_back(TEAM, books, MIDNIGHT) == ()
    assert [c.trial for c in to_give_back(TEAM, books, NOON)] == ["d"]


def test_without_lending_everything_beyond_the_quota_goes_when_the_window_closes() -> None:
    strict = Team(members=TEAM.members, windows=TEAM.windows, lend_idle=False)
    held = [claim(name, "minji", 1.0, index) for index, name in enumerate("abcd")]
    assert [c.trial for c in to_give_back(strict, Books(capacity_gpus=4, held=held), NOON)] == ["d", "c", "b"]


@given(
    st.lists(st.tuples(st.sampled_from(["minji", "jun"]), st.sampled_from([0.25, 0.5, 1.0, 2.0])), max_size=12),
    st.integers(min_value=0, max_value=23),
)
def test_admission_never_hands_out_more_than_there_is_and_own_never_exceeds_a_quota(
    asks: list[tuple[str, float]], hour: int
) -> None:
    now = datetime(2026, 11, 25, hour, 30, tzinfo=SEOUL)
    held: list[Claim] = []
    own: dict[str, float] = {}
    for index, (member, gpus) in enumerate(asks):
        ask = claim(str(index), member, gpus, index)
        decision = admit(TEAM, Books(capacity_gpus=4, held=held), ask, now)
        if decision.verdict != "waits":
            held.append(ask)
        if decision.verdict == "own":
            own[member] = own.get(member, 0.0) + gpus
    assert sum(item.gpus for item in held) <= 4
    assert all(total <= tune_jobs.team.quotas.quota_gpus(TEAM, member, now) for member, total in own.items())


def test_a_bad_team_file_is_refused_whole(tmp_path: Path) -> None:
    path = tmp_path / "team.yaml"
    path.write_text(
        "time_zone: Asia/Soul\nmembers:\n  minji: {quota_gpus: -1}\n"
        "windows:\n  - {name: night, start: 22:00, end: 25:00, quota_gpus: {mimji: 2}}\n"
    )
    with pytest.raises(RequestError) as caught:
        load_team(path)
    assert caught.value.problems == (
        f"{path}:1: time_zone 'Asia/Soul' is unknown; write an IANA name such as Asia/Seoul",
        f"{path}:3: members.minji.quota_gpus must not be negative, but is -1",
        f"{path}:5: windows.0: window 'night': end '25:00' is no time of day; write HH:MM, for example 22:00",
        f"{path}:5: windows.0: window 'night': 'mimji' is no member; known: minji",
    )


def test_an_unknown_member_is_named() -> None:
    with pytest.raises(RequestError, match=r"member 'bo' is not in team\.yaml; known: jun, minji"):
        admit(TEAM, Books(capacity_gpus=1), claim("a", "bo", 0.5), NOON)


def test_the_team_file_that_we_ship_is_right() -> None:
    team = load_team(Path(__file__).resolve().parents[2] / "team.yaml")
    assert tune_jobs.team.quotas.quota_gpus(team, "jun", MIDNIGHT) == 3
    assert tune_jobs.team.quotas.quota_gpus(team, "jun", NOON) == 2
