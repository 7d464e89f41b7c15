"""When a sweep would end on its member's own GPUs, over windows and changes of clocks."""

import dataclasses
import zoneinfo
from datetime import UTC, datetime, timedelta

import pytest

from cluster.machines.hardware import Node, parse_simulated
from cluster.scheduling.alternatives import Need, find_alternatives, find_cpu_alternatives
from cluster.scheduling.quotas import Member, Team, Window
from dialsum.config import RunConfig
from tests.tune_jobs.planning.timed_options import timed
from tune_jobs.config.space import Categorical, Space
from tune_jobs.config.sweep import Sweep
from tune_jobs.placing.placer import Option
from tune_jobs.placing.throughput import Observation
from tune_jobs.planning.plan import make_plan
from tune_jobs.planning.plan_values import SweepPlan
from tune_jobs.planning.quota_end import end_in_quota
from tune_jobs.records.trial_spec import Bundle, Placement, RunShape
from tune_jobs.search.inputs import DataSizes
from tuning_common.errors import RequestError

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
HOUR_S = 3600.0


def team(day: float, night: float | None = None, zone: str = "UTC") -> Team:
    windows = () if night is None else (Window(name="n", start="22:00", end="06:00", quota_gpus={"jun": night}),)
    return Team(members={"jun": Member(quota_gpus=day)}, windows=windows, time_zone=zone)


def planned(trials: int, gpus: int) -> SweepPlan:
    """Plans trials of one hour, each on a whole card of so many; without cards on CPUs."""
    cards = parse_simulated(f"{gpus or 4}x24GiB")
    if not gpus:
        cards = dataclasses.replace(cards, nodes=(Node(name="n", cpus=4, memory_bytes=64 * 2**30),))

    def options(name: str, config: RunConfig) -> tuple[Option, ...]:
        shape = RunShape(micro_batch=config.batch_size, accumulation=1)
        placement = Placement(bundle=Bundle(cpus=1), shape=shape)
        found = find_alternatives((Need(upper_bytes=20 * 2**30, cpus=1),), cards)
        found = found or find_cpu_alternatives(cpus=1, host_bytes=2**30, inventory=cards)
        return tuple(Option(alternative=one, placement=placement) for one in found)

    base = RunConfig(model="kobart", num_epochs=1)
    sizes = DataSizes(of={base.train_file: 1000, base.dev_file: 100})
    hour = Observation(
        config=base,
        card=cards.pools[0].model if gpus else "CPU",
        train_s=3.6,
        evaluate_s=0.0,
        start_s=0.0,
        source="measured",
    )
    rates = Categorical(name="learning_rate", options=tuple(number / 1e6 for number in range(1, trials + 1)))
    return make_plan(
        Sweep(name="hours", source="hours.yaml", method="grid", space=Space(parameters=(rates,)), base=base),
        cards,
        described=True,
        options=timed(options, cards, sizes, hour),
        sizes=sizes,
    )


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
    day: float, night: float | None, gpus: int, hours: float
) -> None:
    plan = planned(24, gpus)
    assert plan.makespan == 6 * HOUR_S
    found = end_in_quota(plan, team(day, night), "jun", NOON)
    assert found.ends_at == NOON + timedelta(hours=hours)
    assert found.now_gpus == day


def test_a_night_with_a_change_of_clocks_is_an_hour_longer() -> None:
    berlin = zoneinfo.ZoneInfo("Europe/Berlin")
    evening = datetime(2026, 10, 24, 22, tzinfo=berlin)  # the clocks go back at 03:00
    found = end_in_quota(planned(9, 1), team(0, 1, "Europe/Berlin"), "jun", evening)
    assert found.ends_at is not None
    assert found.ends_at.astimezone(UTC) - evening.astimezone(UTC) == timedelta(hours=9)
    assert f"{found.ends_at.astimezone(berlin):%H:%M}" == "06:00"


def test_without_any_quota_it_never_ends_and_that_is_said() -> None:
    for one in (team(0), team(0, 0)):
        found = end_in_quota(planned(1, 1), one, "jun", NOON)
        assert found.ends_at is None
        assert found.describe() == "within jun's own quota (0 GPUs now) it would never end; only lent GPUs would let it"


def test_a_stranger_is_refused_with_the_members() -> None:
    with pytest.raises(RequestError, match=r"'mina' is not in team.yaml; known: jun"):
        end_in_quota(planned(1, 1), team(1), "mina", NOON)
