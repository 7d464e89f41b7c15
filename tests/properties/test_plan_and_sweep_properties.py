"""A plan and a sweep's driver start the same trials in the same sequence, at the same times, on the same nodes.

The driver is the real one, with its state, its journal and its embedded broker; only Ray Tune is played by hand.
"""

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from ray.tune.schedulers import FIFOScheduler

from cluster.machines.hardware import Inventory, Node, parse_simulated
from cluster.scheduling.alternatives import Need, find_alternatives, find_cpu_alternatives
from cluster.scheduling.broker_client import LocalBroker
from tune_jobs.config.sections import Resources
from tune_jobs.config.space import Space
from tune_jobs.config.sweep import Sweep
from tune_jobs.driver.recovery import RetryPolicy
from tune_jobs.driver.stop_signals import StopRequest
from tune_jobs.driver.sweep_driver import SweepDriver
from tune_jobs.driver.sweep_parts import Clocks, SweepLimits, SweepParts
from tune_jobs.driver.sweep_state import SweepState
from tune_jobs.placing.placer import Option
from tune_jobs.placing.submission import SubmissionLimits, request_for, submission_limits
from tune_jobs.planning.timeline import TimedTrial, run_timeline
from tune_jobs.records.journal import Journal
from tune_jobs.records.trial_spec import EVALUATION_KEY, Bundle, Placement, RunShape, TrialSpec
from tune_jobs.search.early_stopping import EarlyStopping
from tune_jobs.search.samplers import ListSampler, Sampled

GIB = 2**30
METRIC = "eval/loss"
CLUSTERS = (
    parse_simulated("2x24GiB"),
    parse_simulated("3x24GiB,1x80GiB@2", cards_per_node=2),
    parse_simulated("2xA:16GiB@0.5,2xB:24GiB,1xC:80GiB@3", cards_per_node=1),
    Inventory(nodes=tuple(Node(name=name, cpus=3, memory_bytes=8 * GIB) for name in "ab")),
)
Started = tuple[int, float, str, tuple[str, ...]]  # number, time, GPU model, nodes


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What one trial needs."""

    gib: int
    cards: int
    cpus: int
    minutes: int
    busy: float | None = None


asked = st.builds(
    Asked,
    gib=st.sampled_from([1, 3, 6, 10, 14]),
    cards=st.sampled_from([1, 1, 1, 2]),
    cpus=st.sampled_from([1, 2]),
    minutes=st.integers(1, 9),
)


def options_of(one: Asked, inventory: Inventory) -> tuple[Option, ...]:
    if inventory.cards:
        expected_s = None if one.busy is None else one.minutes * 60.0
        need = Need(upper_bytes=one.gib * GIB, cards=one.cards, cpus=one.cpus, expected_s=expected_s, busy=one.busy)
        alternatives = find_alternatives((need, replace(need, cards=1)), inventory)
    else:
        alternatives = find_cpu_alternatives(cpus=one.cpus, host_bytes=GIB, inventory=inventory)
    return tuple(
        Option(
            alternative=found,
            placement=Placement(
                bundle=Bundle(cpus=found.cpus, gpus=found.gpus),
                shape=RunShape(micro_batch=1, accumulation=1),
                gpu_model=found.model,
            ),
        )
        for found in alternatives
    )


def length_s(number: int, one: Asked) -> float:
    """Sums of different roots differ, so no two trials end at the same time."""
    return one.minutes * 60 + math.sqrt(number) / 100


class LearningSampler(ListSampler):
    """Suggests from a list what a model of the results would, so trials are suggested one after another."""

    is_list = False


class Specs:
    """Makes the trials that were asked for."""

    def __init__(self, trials: Sequence[Asked], inventory: Inventory) -> None:
        self._trials, self._inventory = trials, inventory

    def make(self, number: int, sampled: Sampled) -> TrialSpec:
        return TrialSpec(
            number=number,
            name=f"trial{number}",
            sweep="s",
            sampled=dict(sampled),
            config={},
            folder="",
            sweep_folder="",
            cache_dir="",
            metric=METRIC,
            bundle=Bundle(cpus=1),
            shape=RunShape(micro_batch=1, accumulation=1),
        )

    def options(self, spec: TrialSpec, least_bytes: int = 0) -> tuple[Option, ...]:
        return options_of(self._trials[spec.number - 1], self._inventory)


@dataclass(kw_only=True)
class Embedded:
    """A driver of one sweep whose attempts take simulated time."""

    trials: Sequence[Asked]
    inventory: Inventory
    limits: SubmissionLimits
    order: Sequence[int]
    tick_s: float
    now_s: float = 0.0
    started: list[Started] = field(default_factory=list)

    def run(self, folder: Path) -> list[Started]:
        clocks = Clocks(elapsed_s=lambda: self.now_s, now=lambda: self.now_s)
        journal = Journal(folder / "journal.jsonl")
        sampler = ListSampler if self.limits.waiting is None else LearningSampler
        parts = SweepParts(
            sampler=sampler([{"seed": number} for number, _ in enumerate(self.trials)], self.order),
            specs=Specs(self.trials, self.inventory),
            early_stopping=EarlyStopping(FIFOScheduler(), seed=0),
            retry=RetryPolicy(),
            inherit=lambda trial, donor, exploit: None,
        )
        limits = SweepLimits(sweep="s", goal="minimize", longest=1, submission=self.limits)
        broker = LocalBroker(
            self.inventory,
            sweep="s",
            max_concurrent=self.limits.running,
            elapsed_s=clocks.elapsed_s,
            now=clocks.now,
        )
        broker.open()
        driver = SweepDriver(
            SweepState(parts, limits, journal, clocks),
            journal,
            broker,
            folder,
            notify=lambda text: None,
            stop=StopRequest(),
            clocks=clocks,
            kill=lambda location: None,
        )
        ends: dict[int, float] = {}
        self._launch(driver, ends)
        while not driver.state.is_over:
            next_s, number = min((end_s, number) for number, end_s in ends.items())
            while self.now_s + self.tick_s < next_s:  # polls between two ends change nothing
                self.now_s += self.tick_s
                driver.tick()
            self.now_s = next_s
            del ends[number]
            driver.reported(number, {METRIC: 1.0, EVALUATION_KEY: 1})
            driver.ended(number, None)
            self._launch(driver, ends)
        return self.started

    def _launch(self, driver: SweepDriver, ends: dict[int, float]) -> None:
        speeds = {pool.model: pool.speed for pool in self.inventory.pools}
        before = -1
        while before != len(self.started) or driver.has_launch():
            before = len(self.started)
            driver.tick()
            driver.tick()
            while (spec := driver.next_launch()) is not None:
                self.started.append((spec.number, self.now_s, spec.gpu_model, spec.bundle.nodes))
                work_s = length_s(spec.number, self.trials[spec.number - 1])
                ends[spec.number] = self.now_s + work_s / speeds.get(spec.gpu_model, 1.0)
                driver.started(spec.number)


@given(
    trials=st.lists(asked, min_size=1, max_size=14),
    inventory=st.sampled_from(CLUSTERS),
    method=st.sampled_from(["grid", "bayes"]),
    running=st.sampled_from([None, 1, 3]),
    shuffled=st.randoms(use_true_random=False),
    tick_s=st.sampled_from([7.0, 61.0]),
    busy=st.sampled_from([None, 0.1]),  # of eight co-tenants none slows another down
)
def test_a_plan_and_a_sweep_start_the_same_trials_in_the_same_sequence_on_the_same_nodes(
    trials: list[Asked],
    inventory: Inventory,
    method: str,
    running: int | None,
    shuffled: object,
    tick_s: float,
    busy: float | None,
) -> None:
    trials = [replace(one, busy=busy) for one in trials]
    sweep = Sweep(
        name="s",
        source="",
        method=method,  # type: ignore[arg-type]
        space=Space(),
        resources=Resources(max_concurrent_trials=running),
    )
    limits = submission_limits(sweep, inventory)
    order = list(range(1, len(trials) + 1))
    shuffled.shuffle(order)  # type: ignore[attr-defined]
    asked_for = [
        TimedTrial(
            name=str(number),
            request=request_for("s", number, options_of(trials[number - 1], inventory)),
            length=length_s(number, trials[number - 1]),
        )
        for number in order
    ]
    planned = run_timeline(asked_for, inventory, limits)
    assert planned is not None
    with tempfile.TemporaryDirectory() as folder:
        swept = Embedded(trials=trials, inventory=inventory, limits=limits, order=order, tick_s=tick_s).run(
            Path(folder)
        )
    assert [(int(run.name), run.gpu_model, run.nodes) for run in planned.runs] == [
        (number, model, nodes) for number, _, model, nodes in swept
    ]
    assert all(
        math.isclose(run.start, start_s, abs_tol=1e-6)
        for run, (_, start_s, _, _) in zip(planned.runs, swept, strict=True)
    )
