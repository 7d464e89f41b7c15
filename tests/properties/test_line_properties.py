"""The line that a plan simulates and the line of a real sweep start the same trials, at the same moments and places."""

import heapq
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.machines.hardware import Inventory, parse_simulated
from cluster.scheduling.fair_line import Reach
from cluster.scheduling.occupancy import Occupancy
from cluster.scheduling.placement import Demand, Need
from cluster.scheduling.simulate import SimulatedTrial, simulate
from tests.tune_jobs.offered import GIB, offers_of
from tests.tune_jobs.ordered import order_of
from tune_jobs.driver.card_line import CardLine, Offer
from tune_jobs.driver.trial_line import TrialLine
from tune_jobs.driver.view import LogView
from tune_jobs.records.journal import Journal
from tune_jobs.records.progress import SweepProgress
from tune_jobs.records.trial_spec import TrialOrder
from tune_jobs.search.samplers import ListSampler, Sampled
from tune_jobs.team.admission import OpenAdmission

CLUSTERS = ("1x24GiB", "3x24GiB", "2x24GiB,1x80GiB", "1x24GiB,1x40GiB,1x80GiB", "2xT4:16GiB@0.5,1xA100:80GiB@2")
Started = tuple[float, str, str, float]  # when, which trial, on which model, with how many GPUs


@dataclass(frozen=True)
class Listed:
    """A trial of a backlog."""

    gib: int
    long_s: int
    cards: int


class Guided(ListSampler):
    """Trials that are made when there may be room for them, not before: as where results decide the next one."""

    knows_all = False


class RealLine:
    """A sweep's own line of trials before its own line of cards, driven by hand instead of by Tune and Ray."""

    def __init__(self, trials: Sequence[Listed], cards: Inventory, cpus: float, reach: Reach, folder: Path) -> None:
        self._trials, self._inventory = trials, cards
        self._cards = CardLine(Occupancy(cards, cpus_per_trial=cpus))
        proposer = ListSampler if reach == "list" else Guided
        progress = SweepProgress(
            sweep="s", metric="m", goal="maximize", total=len(trials), longest=1, slots=1, started_s=0.0
        )
        self._line = TrialLine(
            proposer=proposer([{} for _ in trials]),
            orders=self,
            cards=self._cards,
            journal=Journal(folder / "journal.jsonl"),
            admission=OpenAdmission(),
            exploiter=None,
            progress=progress,
            view=LogView(io.StringIO()),
            refuse=lambda number, sampled, error: None,
            lose=lambda number, error: pytest.fail(f"trial {number} was lost: {error}"),
            begins_to_wait=lambda number, bundles: None,
        )
        self._speeds = {pool.model: pool.speed for pool in cards.pools}

    def make(self, number: int, sampled: Sampled) -> TrialOrder:
        """Returns an order without a place; see trial_line.OrderMaker."""
        return order_of(Path(), name_of(number), number=number)

    def offers(self, order: TrialOrder, least_bytes: int = 0) -> tuple[Offer, ...]:
        """Returns every place; see trial_line.OrderMaker."""
        trial = self._trials[order.number - 1]
        return offers_of(order, self._inventory, trial.gib * GIB, least_bytes, cards=trial.cards)

    def run(self) -> list[Started]:
        """Starts and ends all trials, each after its own time."""
        started: list[Started] = []
        running: list[tuple[float, str]] = []
        now_s = 0.0
        while True:
            while isinstance(order := self._line.next_order(), Mapping):
                number, bundle = int(str(order["number"])), order["bundle"]
                assert isinstance(bundle, dict)
                model = bundle["labels"]["gpu-model"]
                started.append((now_s, name_of(number), model, bundle["gpus"]))
                self._cards.started(name_of(number))
                heapq.heappush(
                    running, (now_s + self._trials[number - 1].long_s / self._speeds[model], name_of(number))
                )
            if not running:
                return started
            now_s = running[0][0]
            while running and running[0][0] == now_s:
                self._cards.release(heapq.heappop(running)[1])


def name_of(number: int) -> str:
    return f"t{number:03d}"


def simulated(trials: Sequence[Listed], cards: Inventory, cpus: float, reach: Reach) -> list[Started]:
    """What a plan of the same trials says."""
    done = simulate(
        [
            SimulatedTrial(
                demand=Demand(
                    name=name_of(number),
                    needs=(Need(upper_bytes=trial.gib * GIB, cards=trial.cards, expected_s=float(trial.long_s)),),
                )
            )
            for number, trial in enumerate(trials, start=1)
        ],
        cards,
        order="arrival",
        cpus_per_trial=cpus,
        reach=reach,
    )
    return [(one.start_s, one.name, one.spot.model, one.share.gpus) for one in done.placements]


listed = st.builds(
    Listed,
    gib=st.sampled_from([1, 3, 6, 9, 12, 14, 20, 22, 30, 39, 60, 75, 90]),
    long_s=st.integers(1, 12),
    cards=st.sampled_from([1, 1, 1, 1, 1, 2]),
)


@settings(max_examples=60)
@given(
    st.lists(listed, min_size=1, max_size=30),
    st.sampled_from(CLUSTERS),
    st.sampled_from([0.0, 2.0]),
    st.sampled_from(["list", "few"]),
)
def test_a_plan_starts_the_trials_that_the_sweep_starts_in_its_order_and_places(
    trials: list[Listed], cluster: str, cpus: float, reach: Reach
) -> None:
    cards = parse_simulated(cluster)
    with TemporaryDirectory() as folder:
        real = RealLine(trials, cards, cpus, reach, Path(folder)).run()
    assert simulated(trials, cards, cpus, reach) == sorted(real)


def test_a_small_trial_overtakes_large_ones_as_often_in_a_plan_as_in_the_sweep(tmp_path: Path) -> None:
    cards = parse_simulated("1x24GiB,1x80GiB")
    trials = [Listed(60, 9, 1), Listed(70, 9, 1), *(Listed(9, 2, 1) for _ in range(20)), Listed(75, 3, 1)]
    found = simulated(trials, cards, 0.0, "list")
    assert found == sorted(RealLine(trials, cards, 0.0, "list", tmp_path).run())
    large = next(place for place, one in enumerate(found) if one[1] == name_of(2))
    assert found[large] == (9.0, "t002", "simulated-80GiB", 0.9)
    on_large = [name for _, name, model, _ in found[:large] if model == "simulated-80GiB"]
    assert len(on_large) == 1 + 4, "the first, and four small ones while the second waited"
