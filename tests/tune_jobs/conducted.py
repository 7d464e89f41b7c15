"""A sweep's conductor before eight cards of 24 GiB, driven by hand instead of by Tune."""

import io
from collections.abc import Mapping
from pathlib import Path

from cluster.machines.hardware import parse_simulated
from cluster.scheduling.occupancy import Occupancy
from common.errors import RequestError
from dialsum.config import RunConfig
from tests.tune_jobs.offered import offers_of, placed_order
from tests.tune_jobs.ordered import METRIC, order_of
from tune_jobs.config.anomalies import Anomalies
from tune_jobs.driver.card_line import CardLine, Offer
from tune_jobs.driver.conductor import Clocks, SweepConductor
from tune_jobs.driver.view import LogView
from tune_jobs.records.journal import Journal
from tune_jobs.records.ledger import SweepFolder
from tune_jobs.records.progress import SweepProgress
from tune_jobs.records.trial_spec import Bundle, TrialOrder
from tune_jobs.search.samplers import CompletedTrial, ListSampler, Sampled
from tune_jobs.search.stopping import RungRule
from tune_jobs.team.admission import Admission

CARDS = parse_simulated("8xA:24GiB")
HALF = Bundle(cpus=1, gpus=0.5, labels={"gpu-model": "A"})
HALF_BYTES = 11 * 2**30


class OutOfMemoryError(RuntimeError):
    """Named as torch's own."""


class ActorDiedError(RuntimeError):
    """Named as Ray's own."""


class Proposer(ListSampler):
    """Proposes batches 1, 2, 3, ... and writes down its lessons."""

    def __init__(self, count: int) -> None:
        super().__init__([{"batch_size": size} for size in range(1, count + 1)])
        self.lessons: dict[int, CompletedTrial] = {}

    def learn(self, number: int, lesson: CompletedTrial) -> None:
        self.lessons[number] = lesson


class Orders:
    """Makes orders of half a card; batch 3 fits nowhere."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make(self, number: int, sampled: Sampled) -> TrialOrder:
        size = sampled["batch_size"]
        assert isinstance(size, int)
        if size == 3:
            raise RequestError("needs 30.0 GiB, found 24.0 GiB")
        order = order_of(
            self.folder,
            f"bs{size}",
            RunConfig(batch_size=size),
            number=number,
            bundle=HALF,
            sampled=dict(sampled),
        )
        return placed_order(order, CARDS, HALF_BYTES)

    def offers(self, order: TrialOrder, least_bytes: int = 0) -> tuple[Offer, ...]:
        return offers_of(order, CARDS, HALF_BYTES, least_bytes)


class Driver:
    """One driver process: a conductor over the files of `folder`, driven by hand instead of by Tune."""

    def __init__(
        self,
        folder: Path,
        count: int = 4,
        ends_at_s: float | None = None,
        admission: Admission | None = None,
        anomalies: Anomalies | None = None,
    ) -> None:
        self.now = 1000.0
        self.said = io.StringIO()
        self.left: list[float] = []
        self.proposer = Proposer(count)
        self.orders = Orders(folder)
        self.folder = SweepFolder(folder)
        self.progress = SweepProgress(
            sweep="sample", metric=METRIC, goal="maximize", total=count, longest=3, slots=2, started_s=self.now
        )
        self.conductor = SweepConductor(
            proposer=self.proposer,
            orders=self.orders,
            rule=RungRule(rungs=(1,), eta=2, goal="maximize"),
            progress=self.progress,
            view=LogView(self.said),
            folder=self.folder,
            journal=Journal(folder / "journal.jsonl"),
            cards=CardLine(Occupancy(CARDS)),
            shares=(0.5, 0.75, 1.0),
            anomalies=anomalies,
            ends_at_s=ends_at_s,
            admission=admission,
            clocks=Clocks(elapsed_s=lambda: self.now, now=lambda: self.now),
            all_saved=lambda: self.left.append(self.now),
        )

    def start(self) -> Mapping[str, object]:
        """The next trial starts on half a card."""
        order = self.conductor.next_order("key")
        assert isinstance(order, Mapping)
        self.conductor.started(order, HALF)
        return order

    def report(self, order: Mapping[str, object], evaluation: int, value: float) -> bool:
        """A trial reports ten seconds later; returns whether it must stop."""
        self.now += 10
        result = {
            METRIC: value,
            "trial/evaluation": evaluation,
            "memory/device_bytes": 9e9,
            "trial/held_bytes": 5e9,
            "time_total_s": 1.0,
        }
        return self.conductor.reported(order, result)
