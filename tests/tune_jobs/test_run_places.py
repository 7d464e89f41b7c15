"""Which trial starts next, on which GPU model, with how much of a card; conducted without Ray on unequal cards."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.estimator.calibration import load_calibration
from cluster.machines.hardware import parse_simulated
from cluster.scheduling.occupancy import Occupancy
from common.files import read_jsonl
from common.strict import from_mapping
from dialsum.config import RunConfig
from tests.tune_jobs.conducted import METRIC, Driver, Orders, OutOfMemoryError
from tests.tune_jobs.offered import GIB, offers_of
from tune_jobs.config.space import Categorical, Space
from tune_jobs.driver.card_line import CardLine, Offer
from tune_jobs.driver.conductor import Clocks, SweepConductor
from tune_jobs.driver.view import LogView
from tune_jobs.records.journal import Journal
from tune_jobs.records.trial_spec import LATER, Bundle, TrialOrder
from tune_jobs.search.samplers import ListSampler, Proposer, Sampled, TpeSampler
from tune_jobs.search.stopping import RungRule

UNEQUAL = parse_simulated("1xA:24GiB,1xB:80GiB")
LISTED = {1: 4, 2: 70, 3: 30, 4: 4, 5: 70, 6: 70, 7: 70, 8: 70, 9: 4}  # batch: GiB


class UnequalOrders(Orders):
    """Trials that need so many GiB as LISTED says for their batch."""

    def make(self, number: int, sampled: Sampled) -> TrialOrder:
        order = super().make(number, {"batch_size": 1})
        size = int(str(sampled["batch_size"]))
        order = replace(order, name=f"bs{size}", sampled=dict(sampled), config=RunConfig(batch_size=size).to_dict())
        return order.at(self.offers(order)[0].placed)

    def offers(self, order: TrialOrder, least_bytes: int = 0) -> tuple[Offer, ...]:
        return offers_of(order, UNEQUAL, LISTED[int(str(order.config["batch_size"]))] * 2**30, least_bytes)


class UnequalDriver(Driver):
    """A driver before a card of 24 and one of 80 GiB; trials start in an order that is not the list's."""

    def __init__(self, folder: Path, order: Sequence[int] | None = None, proposer: Proposer | None = None) -> None:
        super().__init__(folder)
        self.listed = proposer or ListSampler([{"batch_size": size} for size in LISTED], order)
        self.conductor = SweepConductor(
            proposer=self.listed,
            orders=UnequalOrders(folder),
            rule=RungRule(rungs=(), eta=2, goal="maximize"),
            progress=self.progress,
            view=LogView(self.said),
            folder=self.folder,
            journal=Journal(folder / "journal.jsonl"),
            cards=CardLine(Occupancy(UNEQUAL)),
            calibration=folder / "calibration.jsonl",
            shares=(0.125, 0.25, 0.5, 0.75, 1.0),
            clocks=Clocks(elapsed_s=lambda: self.now, now=lambda: self.now),
        )
        self.given: dict[int, Mapping[str, object]] = {}

    def next(self) -> tuple[int, str, float] | str | None:
        """Starts the next trial: its number, its model and its share."""
        found = self.conductor.next_order("key")
        if not isinstance(found, Mapping):
            return found
        bundle = from_mapping(Bundle, found["bundle"])  # type: ignore[arg-type]
        self.given[int(str(found["number"]))] = found
        self.conductor.started(found, bundle)
        return int(str(found["number"])), bundle.labels["gpu-model"], bundle.gpus

    def out_of_memory(self, number: int, bundle_gpus: float, model: str) -> None:
        """As Tune: an attempt failed, and the conductor says that it shall not be queued again."""
        bundle = Bundle(cpus=1, gpus=bundle_gpus, labels={"gpu-model": model})
        order = self.given[number]
        assert self.conductor.retried(order, OutOfMemoryError("no bytes"), bundle) is None
        self.conductor.ended("key", order, None)


def test_large_trials_at_the_head_of_the_line_hold_up_no_card_that_they_do_not_fit(tmp_path: Path) -> None:
    driver = UnequalDriver(tmp_path, order=(2, 5, 6, 7, 8, 3, 1, 4, 9))
    assert driver.next() == (2, "B", 0.9)
    assert [driver.next() for _ in range(4)] == [(1, "A", 0.1875), (4, "A", 0.1875), (9, "A", 0.1875), LATER]
    ordered = [event["number"] for event in read_jsonl(tmp_path / "journal.jsonl")[0] if event["event"] == "ordered"]
    assert ordered == [2, 1, 4, 9, 5, 6, 7, 8], "of those that wait, four are told"
    driver.conductor.ended("key", driver.given[2], None)
    assert driver.next() == (5, "B", 0.9)


def test_a_resumed_driver_keeps_numbers_and_names_and_starts_the_others_in_their_order(tmp_path: Path) -> None:
    order = (3, 2, 5, 6, 7, 8, 1, 4, 9)
    first = UnequalDriver(tmp_path, order)
    assert [first.next() for _ in range(3)] == [(3, "B", 0.4), (1, "A", 0.1875), (4, "A", 0.1875)]
    first.conductor.ended("key", first.given[1], None)
    second = UnequalDriver(tmp_path, order)
    assert [second.next() for _ in range(3)] == [(3, "B", 0.4), (4, "A", 0.1875), (9, "A", 0.1875)]
    assert {number: given["name"] for number, given in second.given.items()} == {3: "bs3", 4: "bs4", 9: "bs9"}
    assert second.progress.count("finished") == 1


def test_after_a_whole_card_a_larger_model_and_then_the_reason(tmp_path: Path) -> None:
    driver = UnequalDriver(tmp_path, order=(4, 3, 1))
    assert driver.next() == (4, "B", 0.125)
    assert driver.next() == (3, "B", 0.4)
    driver.conductor.ended("key", driver.given[4], None)
    driver.out_of_memory(3, 0.4, "B")
    assert driver.next() == (3, "B", 0.75)
    driver.out_of_memory(3, 0.75, "B")
    assert driver.next() == (3, "B", 1.0)
    driver.conductor.reported(driver.given[3], {METRIC: 1.0, "trial/evaluation": 1})
    driver.out_of_memory(3, 1.0, "B")
    (record,) = [one for one in driver.folder.load().trials if one.trial_id == "3"]
    assert (record.status, record.retries, record.share) == ("oom", 2, 1.0)
    assert record.error is not None
    assert record.error.message.startswith(
        "OutOfMemoryError: no bytes; it had all that a card here can give: bs3: needs 7"
    )
    assert "would fit with a card of at least" in record.error.message


def test_an_out_of_memory_on_a_whole_card_moves_the_trial_to_a_model_with_larger_cards(tmp_path: Path) -> None:
    driver = UnequalDriver(tmp_path, order=(2, 1))
    assert [driver.next() for _ in range(2)] == [(2, "B", 0.9), (1, "A", 0.1875)]
    for share, larger in ((0.1875, 0.5), (0.5, 0.75), (0.75, 1.0)):
        driver.out_of_memory(1, share, "A")
        assert driver.next() == (1, "A", larger), "B is full"
    driver.out_of_memory(1, 1.0, "A")
    assert driver.next() == LATER
    driver.conductor.ended("key", driver.given[2], None)
    assert driver.next() == (1, "B", 0.3)
    order = from_mapping(TrialOrder, driver.given[1])
    assert (order.usable_bytes, order.number, order.name) == (UNEQUAL.pools[1].usable_bytes, 1, "bs1")
    driver.conductor.reported(driver.given[1], {METRIC: 1.0, "trial/evaluation": 1})
    driver.conductor.ended("key", driver.given[1], None)
    record = next(one for one in driver.folder.load().trials if one.trial_id == "1")
    assert (record.status, record.retries, record.share, record.gpu_model) == ("finished", 4, 0.3, "B")
    assert record.estimate is not None
    assert record.estimate["cap_bytes"] == int(UNEQUAL.pools[1].usable_bytes * 0.3)


def test_a_driver_that_is_killed_after_an_out_of_memory_is_followed_by_one_that_gives_more(tmp_path: Path) -> None:
    driver = UnequalDriver(tmp_path, order=(1,))
    assert driver.next() == (1, "B", 0.125)
    driver.out_of_memory(1, 0.125, "B")
    assert UnequalDriver(tmp_path, order=(1,)).next() == (1, "B", 0.25)


def test_a_cluster_that_lost_its_large_cards_says_so_instead_of_waiting_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = UnequalDriver(tmp_path, order=(2,))
    assert first.next() == (2, "B", 0.9)
    monkeypatch.setattr(sys.modules[__name__], "UNEQUAL", parse_simulated("1xA:24GiB"))
    second = UnequalDriver(tmp_path, order=(2,))
    assert second.next() is None
    (record,) = second.folder.load().trials
    assert record.error is not None
    assert "needs 70.0 GiB on one card, found 1 x A (simulated)" in record.error.message


def test_peaks_of_every_trial_go_to_the_ledger_and_the_calibration_also_of_one_that_ran_out_of_memory(
    tmp_path: Path,
) -> None:
    driver = UnequalDriver(tmp_path, order=(1, 3, 9))
    assert [driver.next() for _ in range(3)] == [(1, "B", 0.125), (3, "B", 0.4), (9, "A", 0.1875)]

    def measured(number: int, evaluation: int, gib: float) -> None:
        result = {METRIC: 1.0, "trial/evaluation": evaluation, "trial/torch": "2.13.0", "trial/held_bytes": gib * GIB}
        result |= {"memory/allocated_bytes": (gib - 1.5) * GIB, "memory/reserved_bytes": (gib - 0.5) * GIB}
        result |= {"trial/micro_batch": 1, "trial/accumulation": 1, "trial/gradient_checkpointing": False}
        driver.conductor.reported(driver.given[number], {**result, "memory/device_bytes": 70.0 * GIB})

    measured(1, 1, 3.5)
    measured(1, 2, 3.0)
    measured(3, 1, 31.0)
    driver.out_of_memory(3, 0.4, "B")
    assert driver.next() == (3, "B", 0.75)
    measured(3, 2, 40.0)
    for number in (1, 3, 9):
        driver.conductor.ended("key", driver.given[number], None)
    records = {record.trial_id: record for record in driver.folder.load().trials}
    peaks = {"allocated_bytes": 2.0 * GIB, "reserved_bytes": 3.0 * GIB, "device_bytes": 3.5 * GIB}
    assert records["1"].measured == peaks, "the highest, and of the card only what the trial itself held"
    assert (records["1"].share, records["3"].share) == (0.125, 0.75)
    assert records["3"].plan == {"micro_batch": 1, "accumulation": 1, "gradient_checkpointing": False}
    assert records["9"].measured is None, "it never reported"
    kept = {peak.run: peak for peak in load_calibration(tmp_path / "calibration.jsonl").peaks}
    cap_bytes = int(UNEQUAL.pools[1].usable_bytes * 0.75)
    assert {name: (peak.measured_device_bytes, peak.outgrew) for name, peak in kept.items()} == {
        "bs1": (int(3.5 * GIB), False),
        "bs3": (cap_bytes, True),
    }
    assert {(peak.predicted_device_bytes, peak.gpu) for peak in kept.values()} == {(4 * GIB, "B"), (30 * GIB, "B")}


def test_a_model_of_the_results_learns_no_score_from_a_trial_that_ran_out_of_memory(tmp_path: Path) -> None:
    space = Space(parameters=(Categorical(name="batch_size", options=tuple(LISTED)),))
    proposer = TpeSampler(space, 4, goal="maximize", seed=0, startup_trials=1)
    driver = UnequalDriver(tmp_path, proposer=proposer)
    started = driver.next()
    assert isinstance(started, tuple)
    number = started[0]
    driver.conductor.reported(driver.given[number], {METRIC: 99.0, "trial/evaluation": 1})
    while isinstance(started, tuple) and started[0] == number:
        driver.out_of_memory(number, started[2], started[1])
        started = driver.next()
    (record,) = driver.folder.load().trials
    assert (record.status, record.best_metrics[METRIC]) == ("oom", 99.0)
    told = [trial for trial in proposer._study.trials if trial.state.is_finished()]
    assert [(trial.state.name, trial.value, trial.intermediate_values) for trial in told] == [("FAIL", None, {})]
