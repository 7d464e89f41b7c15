"""Trials on several whole cards, without Ray: asked for, placed, divided, counted, and what their processes say."""

import dataclasses
import io
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cluster.guard import OutOfMemoryError
from cluster.machines.hardware import Inventory, Node, parse_simulated
from cluster.scheduling.occupancy import Occupancy
from common.errors import DivergedError, RequestError
from dialsum.config import RunConfig
from tests.tune_jobs.test_monitoring import Recorder
from tests.tune_jobs.test_run_resources import LineEstimator
from tests.tune_jobs.test_run_trainable import METRIC, Sent, keep_nothing, order_in
from tests.tune_jobs.test_run_trainable import OutOfMemoryError as TorchOutOfMemoryError
from tune_jobs.config.sections import Resources
from tune_jobs.driver.card_line import Waiting
from tune_jobs.driver.metered_view import MeteredView
from tune_jobs.driver.tuner import _bundle, _factory
from tune_jobs.driver.view import LogView
from tune_jobs.placing.resources import SharePlacer, placer_for, slots
from tune_jobs.planning.plan_clock import Job, run_clock
from tune_jobs.planning.throughput import Speed
from tune_jobs.records.progress import SweepProgress
from tune_jobs.records.trial_spec import Bundle
from tune_jobs.team.quotas import Books, Claim, Member, Team, admit
from tune_jobs.trial.rank_process import RankProcess, RankReporter, RankTask, Word
from tune_jobs.trial.ranks import root_cause
from tune_jobs.trial.recovery import RunShape
from tune_jobs.trial.reporter import StopFile
from tune_jobs.trial.run_trial import attempt

TWO = Resources(gpus_per_trial=2, cpus_per_trial=4)


def placer(cards: str, resources: Resources = TWO) -> SharePlacer:
    found = placer_for(parse_simulated(cards), resources, estimator=LineEstimator)
    assert isinstance(found, SharePlacer)
    return found


def config(batch_size: int, **changes: object) -> RunConfig:
    return RunConfig(model="kobart", batch_size=batch_size).with_changes(changes)


def test_two_cards_halve_the_micro_batch_and_are_held_whole() -> None:
    placed = placer("2x24GiB").place("wide", config(16))
    assert placed.bundle == Bundle(cpus=4, gpus=2.0, labels={"gpu-model": "simulated-24GiB"})
    assert placed.shape == RunShape(micro_batch=8, accumulation=1, ranks=2)
    assert (placed.shape.batch_size, placed.context_bytes) == (16, 2**29)  # the estimate's own, with NCCL
    assert placed.estimate is not None
    assert placed.estimate["ranks"] == 2
    assert placed.estimate["upper_bytes"] == 8 * 2**30  # on each card: 4 GiB, and half a GiB for each of 8


def test_pieces_that_one_card_would_need_are_divided_among_the_cards() -> None:
    placed = placer("2x24GiB").place("wide", config(16, gradient_accumulation_steps=4))
    assert placed.shape == RunShape(micro_batch=4, accumulation=2, ranks=2)


def test_where_a_part_of_the_batch_is_too_large_it_is_planned_in_pieces_again() -> None:
    placed = placer("2x24GiB").place("wide", config(128))  # 64 a card would need 36 GiB
    assert placed.shape.ranks == 2
    assert placed.shape.batch_size == 128
    assert placed.shape.micro_batch < 64


@pytest.mark.parametrize(
    ("batch_size", "cards", "message"),
    [
        (7, "2x24GiB", r"batch_size 7 cannot be divided among 2 cards \(resources.gpus_per_trial\); take 6 or 8"),
        (1, "2x24GiB", "take 2"),
        (8, "1x24GiB,1x40GiB", "on each of 2 cards of simulated-24GiB .* 2 cards of at least .* in one machine"),
    ],
)
def test_what_can_never_run_on_two_cards_is_refused_with_what_would(batch_size: int, cards: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        placer(cards).place("wide", config(batch_size))


def test_without_cards_several_are_refused() -> None:
    with pytest.raises(RequestError, match=r"asks for 2 GPUs .* found no GPU; leave gpus_per_trial out"):
        placer_for(Inventory(nodes=(Node(name="host", cpus=8.0),)), TWO, estimator=LineEstimator).check(
            "wide", config(8)
        )


def test_one_whole_card_is_a_share_of_one() -> None:
    placed = placer("2x24GiB", Resources(gpus_per_trial=1)).place("one", config(8))
    assert (placed.bundle.gpus, placed.shape.ranks) == (1.0, 1)


def test_the_sweep_file_says_what_cannot_go_together() -> None:
    with pytest.raises(RequestError) as caught:
        Resources(gpus_per_trial=2, share=0.5, max_trials_per_gpu=4)
    assert caught.value.problems == (
        "share 0.5 is a part of a card, gpus_per_trial whole ones; give one of the two",
        "gpus_per_trial gives each trial whole cards, so max_trials_per_gpu cannot be above 1",
    )
    for wrong, message in (
        ({"gpus_per_trial": 0}, "gpus_per_trial must be at least 1"),
        ({"spread": True, "share": 0.5}, "which with a fixed share has one"),
        ({"share": 2.0}, "whole cards, also several, are `gpus_per_trial`"),
    ):
        with pytest.raises(RequestError, match=message):
            Resources(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("bundle", "strategy"),
    [
        (Bundle(cpus=3, gpus=2.0, labels={"gpu-model": "A"}), "STRICT_PACK"),
        (Bundle(cpus=1, gpus=4.0, spread=True), "PACK"),
        (Bundle(cpus=1, gpus=0.25, labels={"gpu-model": "A"}), "PACK"),
        (Bundle(cpus=2), "PACK"),
    ],
)
def test_ray_gets_one_bundle_for_each_card_and_they_are_read_back(bundle: Bundle, strategy: str) -> None:
    factory = _factory(bundle)
    assert (factory.strategy, len(factory.bundles)) == (strategy, bundle.ranks)
    assert sum(one.get("GPU", 0) for one in factory.bundles) == bundle.gpus
    assert _bundle(factory) == bundle


def test_an_out_of_memory_on_several_cards_halves_the_micro_batch_of_each(tmp_path: Path) -> None:
    shapes: list[tuple[int, int]] = []

    def train(config: RunConfig, folder: Path, **parts: object) -> None:
        shapes.append(
            (config.batch_size // config.gradient_accumulation_steps // 2, config.gradient_accumulation_steps)
        )
        if len(shapes) < 3:
            raise OutOfMemoryError("rank 1: no bytes left")

    order = dataclasses.replace(
        order_in(tmp_path, batch_size=16), shape=RunShape(micro_batch=8, accumulation=1, ranks=2)
    )
    attempt(order, train, Sent(), keep_nothing, None)
    assert shapes == [(8, 1), (4, 2), (2, 4)]


def test_the_most_telling_failure_counts() -> None:
    closed = RuntimeError("rank 0: RuntimeError: Connection closed by peer")

    class ActorDiedError(Exception):
        """As Ray's."""

    for blamed in (OutOfMemoryError("x"), DivergedError("x"), ActorDiedError("x")):
        assert root_cause([closed, blamed]) is blamed
    assert root_cause([closed]) is closed


def test_the_first_process_speaks_and_each_is_held_to_its_card(tmp_path: Path) -> None:
    class Card:
        peak_bytes = 5
        checked = 0

        def check(self) -> None:
            self.checked += 1

    said: list[Word] = []
    card = Card()
    stop = StopFile(tmp_path, clock=lambda: 0.0)
    for is_first in (True, False):
        RankReporter(said.append, stop, card, is_first=is_first).log({"train/loss": 1.0})  # type: ignore[arg-type]
    assert said == [Word(kind="log", metrics={"train/loss": 1.0, "trial/held_bytes": 5.0})]
    assert card.checked == 2


def test_a_process_says_its_out_of_memory_without_a_type_of_torch(tmp_path: Path, monkeypatch: object) -> None:
    import tune_jobs.trial.rank_process as module

    def fails(task: RankTask, ask: object) -> None:
        raise TorchOutOfMemoryError("Tried to allocate 2 GiB")

    monkeypatch.setattr(module, "_train", fails)  # type: ignore[attr-defined]
    order = order_in(tmp_path, batch_size=8)
    process = RankProcess()
    with pytest.raises(OutOfMemoryError, match="rank 1: OutOfMemoryError: Tried to allocate"):
        process.train(dataclasses.asdict(RankTask(order=order, config=order.config, rank=1, size=2)))
    assert process.words() == [{"kind": "end", "text": "", "metrics": {}, "checkpoint": None}]


def test_a_trial_on_two_cards_is_a_tenant_of_both() -> None:
    progress = SweepProgress(sweep="s", metric=METRIC, goal="maximize", total=1, longest=4, slots=1, started_s=0.0)
    progress.started(1, "wide", now_s=0.0, share=2.0)
    progress.reported(1, iteration=1, value=1.0, rung=None, now_s=1.0, place=("10.0.0.1", "0,1"))
    recorder = Recorder()
    MeteredView(LogView(io.StringIO()), recorder, "", clock=lambda: 10.0).refresh(progress)
    tenants = [value for key, value in recorder.values.items() if key[0] == "tuning_card_tenants"]
    assert tenants == [1, 1]


def test_by_the_books_two_trials_of_two_cards_fill_four_and_the_third_waits() -> None:
    places = placer("4x24GiB", Resources(gpus_per_trial=2))
    line = places.line()
    waiting = [
        Waiting(order=dataclasses.replace(order_in(Path()), name=name), offers=places.offers(name, config(8)))
        for name in "abc"
    ]
    started = []
    while (start := line.first(waiting)) is not None:
        line.take(start)
        waiting.remove(start.waiting)
        started.append(start.order.name)
    assert (started, [one.order.name for one in waiting]) == (["a", "b"], ["c"])
    line.release("a")
    last = line.first(waiting)
    assert last is not None
    assert (last.order.name, last.order.bundle.gpus, last.order.shape.ranks) == ("c", 2.0, 2)


def test_cards_of_several_machines_only_where_that_is_asked_for() -> None:
    machines = parse_simulated("3x24GiB", cards_per_node=1)
    spread = Resources(gpus_per_trial=2, spread=True, cpus_per_trial=16)
    places = placer_for(machines, spread, estimator=LineEstimator)
    assert places.place("wide", config(8)).bundle == Bundle(
        cpus=16, gpus=2.0, labels={"gpu-model": "simulated-24GiB"}, spread=True
    )
    with pytest.raises(RequestError, match=r"2 cards of at least .* in one machine"):
        placer_for(machines, Resources(gpus_per_trial=2), estimator=LineEstimator).place("wide", config(8))
    books = Occupancy(machines, cpus_per_trial=16)
    (offer,) = places.offers("wide", config(8))
    spot = books.take(offer.choice)
    assert (spot.node, spot.cards) == ("simulated-24GiB-node0+simulated-24GiB-node1", (0, 0))
    assert not books.fits(offer.choice)
    books.give_back(spot, offer.choice.share)
    assert books.fits(offer.choice)


def test_a_plan_counts_whole_cards_and_half_the_time() -> None:
    demand = placer("4x24GiB").demand("wide", config(8))
    jobs = [Job(name=name, demand=demand, length=10.0) for name in "abc"]
    timeline = run_clock(jobs, parse_simulated("4x24GiB"), TWO)
    assert [(stay.name, stay.gpus, stay.cards, stay.start) for stay in timeline.stays] == [
        ("a", 2.0, (0, 1), 0.0), ("b", 2.0, (2, 3), 0.0), ("c", 2.0, (0, 1), 10.0),
    ]  # fmt: skip
    assert [slots(parse_simulated(cards), TWO) for cards in ("4x24GiB", "3x24GiB", "1x24GiB")] == [2, 1, 1]
    speed = Speed(train_s=0.01, evaluate_s=0.1, start_s=5, source="a pilot")
    assert speed.trial_s(evaluations=3, dialogues=1000, dev_dialogues=50, cards=2) == 27.5


def test_a_team_s_quota_counts_every_card() -> None:
    team = Team(members={"minji": Member(quota_gpus=3)}, time_zone="UTC")
    first, second = (Claim(trial=name, member="minji", gpus=2.0, since_s=0.0) for name in "ab")
    noon = datetime(2026, 11, 25, 12, tzinfo=UTC)
    books = Books(capacity_gpus=4, held=(), waiting=(first,))
    assert admit(team, books, first, noon).verdict == "own"
    books = Books(capacity_gpus=4, held=(first,), waiting=(second,))
    assert books.free_gpus == 2
    assert admit(team, books, second, noon).verdict == "lent"
