"""Quotas by the hour: windows cross midnight and clock changes; team files are refused whole."""

from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from cluster.scheduling.held import SweepUse
from cluster.scheduling.queue import Kind, KindKey
from cluster.scheduling.quota_use import QuotaUse
from cluster.scheduling.quotas import (
    Member,
    Team,
    Window,
    load_team,
    next_change,
    open_window,
    quota_gpus,
    refuse_models,
)
from tuning_common.errors import RequestError

SEOUL = ZoneInfo("Asia/Seoul")
NIGHT = Window(
    name="night", start="22:00", end="07:00", days=("mon", "tue", "wed", "thu", "fri"), quota_gpus={"minji": 4}
)
TEAM = Team(members={"minji": Member(quota_gpus=1), "jun": Member(quota_gpus=3)}, windows=(NIGHT,))
NOON = datetime(2026, 11, 25, 12, 0, tzinfo=SEOUL)  # a Wednesday
MIDNIGHT = datetime(2026, 11, 26, 0, 30, tzinfo=SEOUL)


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


def test_a_bad_team_file_is_refused_whole(tmp_path: Path) -> None:
    path = tmp_path / "team.yaml"
    path.write_text(
        "time_zone: Asia/Soul\nmembers:\n  minji: {quota_gpus: 1}\n  jun: {quota_gpus: two, focuss: T5}\n"
        "windows:\n  - {name: night, start: 22:00, end: 25:00, quota_gpus: {mimji: 2}}\n"
    )
    with pytest.raises(RequestError) as caught:
        load_team(path)
    assert caught.value.problems == (
        f"{path}:1: time_zone 'Asia/Soul' is unknown; write an IANA name such as Asia/Seoul",
        f"{path}:4: unknown key 'focuss'; did you mean 'focus'?",
        f"{path}:4: members.jun.quota_gpus must be a number of at least 0, but is 'two'",
        f"{path}:6: windows.0.end '25:00' is no time of day; write HH:MM, for example 22:00",
    )
    windows = "windows:\n  - {name: a, start: 01:00, end: 02:00, quota_gpus: {mimji: 2}}\n"
    path.write_text("members: {minji: {quota_gpus: 1}}\n" + windows)
    with pytest.raises(RequestError, match=r"yaml:3: windows\.0\.quota_gpus\.mimji is no member; known: minji"):
        load_team(path)


def test_an_unknown_member_is_named() -> None:
    with pytest.raises(RequestError, match=r"member 'bo' is not in team\.yaml; known: jun, minji"):
        quota_gpus(TEAM, "bo", NOON)


def test_models_that_are_not_a_members_are_refused() -> None:
    team = Team(members={"minji": Member(quota_gpus=1, models=("kobart",)), "jun": Member(quota_gpus=1)})
    refuse_models(team, "jun", ["t5"])
    with pytest.raises(RequestError, match=r"t5: not among the models of minji; team\.yaml gives minji kobart"):
        refuse_models(team, "minji", ["kobart", "t5"])


@pytest.mark.parametrize(
    "text",
    [
        "assignments:\n  - {member: minji, focus: KoBART, models: [kobart], gpu: 0}\n  - {member: jun, gpu: [1, 2]}\n",
        "assignments:\n  minji: {focus: KoBART, models: [kobart], gpu: 0}\n  jun: {gpu: '1,2'}\n",
    ],
)
def test_assignments_of_cards_become_quotas(tmp_path: Path, text: str) -> None:
    path = tmp_path / "team.yaml"
    path.write_text(text, encoding="utf-8")
    team = load_team(path)
    assert team.members["minji"] == Member(quota_gpus=1, focus="KoBART", models=("kobart",))
    assert quota_gpus(team, "jun", NOON) == 2


def test_the_team_file_that_we_ship_is_right() -> None:
    team = load_team(Path(__file__).resolve().parents[3] / "team.yaml")
    assert quota_gpus(team, "jun", MIDNIGHT) == 3
    assert quota_gpus(team, "jun", NOON) == 2


def test_requests_that_exactly_fill_a_quota_lie_inside_it() -> None:
    """Jun has 3 GPUs and holds 1.5: three requests of 0.5 are his own, and nothing of that is lent."""
    team = Team(members={"minji": Member(quota_gpus=1), "jun": Member(quota_gpus=3)})
    use = QuotaUse(team, datetime(2026, 11, 25, tzinfo=UTC), {"jun": 1.5})
    kinds = [
        Kind(
            key=KindKey(sweep="s", type=(number,)),
            models=frozenset("A"),
            least_gpus=0.5,
            is_known=False,
            takes_one_card=True,
            keys=[(number, 0.0, i) for i in range(count)],
        )
        for number, count in ((1, 2), (2, 2))
    ]
    sweeps = {"s": SweepUse(member="jun")}
    assert [count for _, count in use.entitled(kinds, sweeps)] == [2, 1]
    assert use.lendable_gpus("minji", 2.0, kinds, sweeps) == pytest.approx(0.5)
