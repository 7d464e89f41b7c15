"""Recovery on a real Ray with the real trainer: in place, by a larger share, and after a killed worker."""

import io
import os
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest

from cluster.machines.hardware import parse_simulated
from cluster.scheduling.occupancy import Occupancy
from tests.tune_jobs.offered import offers_of, placed_order
from tests.tune_jobs.ordered import METRIC, order_of
from tests.tune_jobs.tiny import tiny_config, write_dialogues
from tune_jobs.config.anomalies import Anomalies
from tune_jobs.driver.card_line import CardLine, Offer
from tune_jobs.driver.conductor import SweepConductor
from tune_jobs.driver.tuner import FitSettings, fit
from tune_jobs.driver.view import LogView
from tune_jobs.records.journal import Journal
from tune_jobs.records.ledger import SweepFolder, TrialRecord
from tune_jobs.records.progress import SweepProgress
from tune_jobs.records.trial_spec import PretendedUse, TrialOrder
from tune_jobs.search.samplers import ListSampler, Sampled
from tune_jobs.search.stopping import NeverStop
from tune_jobs.trial.run_trial import run_trial

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]
GIB = 2**30
CARDS = parse_simulated("2x24GiB")
UPPER_BYTES = 5 * GIB  # a quarter of the card, which is 5.8 GiB
USES = {
    "fits": PretendedUse(fixed_bytes=GIB, bytes_per_sample=GIB // 2),  # 5 GiB
    "smaller": PretendedUse(fixed_bytes=2 * GIB, bytes_per_sample=920 * 2**20),  # 5.6 GiB at a micro-batch of 4
    "larger": PretendedUse(fixed_bytes=11 * GIB, bytes_per_sample=GIB // 100),  # never in a quarter of the card
}


class Orders:
    """Makes tiny trials in a quarter of a pretended card each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_dialogues(folder, train_count=32)

    def make(self, number: int, sampled: Sampled) -> TrialOrder:
        name = str(sampled["model"])
        order = order_of(
            self.folder,
            name,
            tiny_config(self.folder, num_epochs=4),
            number=number,
            sweep="recovered",
            pretended=USES.get(name),
            simulated=True,
        )
        return placed_order(order, CARDS, UPPER_BYTES)

    def offers(self, order: TrialOrder, least_bytes: int = 0) -> tuple[Offer, ...]:
        return offers_of(order, CARDS, UPPER_BYTES, least_bytes)


class WorkerKiller(SweepConductor):
    """Kills the process of trial "killed" with signal 9 once, after its second evaluation."""

    killed = False

    def reported(self, order: Mapping[str, object], result: Mapping[str, object]) -> bool:
        stop = super().reported(order, result)
        if order["name"] == "killed" and result["trial/evaluation"] == 2 and not self.killed:
            self.killed = True
            os.kill(int(str(result["pid"])), signal.SIGKILL)
        return stop


def conducted(
    folder: Path,
    names: list[str],
    kind: type[SweepConductor] = SweepConductor,
    anomalies: Anomalies | None = None,
) -> tuple[dict[str, TrialRecord], str]:
    """Runs trials by name and returns their records and what was said."""
    said = io.StringIO()
    results = SweepFolder(folder / "results")
    conductor = kind(
        proposer=ListSampler([{"model": name} for name in names]),
        orders=Orders(folder),
        rule=NeverStop(),
        progress=SweepProgress(
            sweep="recovered", metric=METRIC, goal="maximize", total=len(names), longest=4, slots=2, started_s=0.0
        ),
        view=LogView(said),
        folder=results,
        journal=Journal(results.path / "journal.jsonl"),
        cards=CardLine(Occupancy(CARDS)),
        shares=(0.25, 0.5, 1.0),
        anomalies=anomalies,
    )
    fit(run_trial, conductor, FitSettings(folder=folder / "tune", name="1", attempts=3, max_concurrent=2))
    return {record.name: record for record in results.load().trials}, said.getvalue()


def test_an_out_of_memory_is_mended_in_place_and_then_by_a_larger_share(tmp_path: Path) -> None:
    records, said = conducted(tmp_path, ["fits", "smaller", "larger"])
    assert {name: record.status for name, record in records.items()} == dict.fromkeys(USES, "finished")
    plans = {
        name: record.plan and (record.plan["micro_batch"], record.plan["accumulation"])
        for name, record in records.items()
    }
    assert plans == {"fits": (8, 1), "smaller": (4, 2), "larger": (8, 1)}
    assert {name: (record.share, record.retries) for name, record in records.items()} == {
        "fits": (0.25, 0),
        "smaller": (0.25, 0),
        "larger": (0.5, 1),
    }
    assert all([row["iteration"] for row in record.history] == [1, 2, 3, 4] for record in records.values())
    measured = records["smaller"].measured
    assert measured is not None
    assert measured["device_bytes"] == (2048 + 4 * 920) * 2**20
    assert "trial 3 failed and starts again: out of memory; 0.25 -> 0.5 of a card" in said


def test_a_killed_worker_costs_the_steps_since_its_last_checkpoint(tmp_path: Path) -> None:
    records, said = conducted(tmp_path, ["killed", "neighbour"], WorkerKiller)
    assert {name: record.status for name, record in records.items()} == {"killed": "finished", "neighbour": "finished"}
    assert (records["killed"].retries, records["neighbour"].retries) == (1, 0)
    assert [row["iteration"] for row in records["killed"].history] == [1, 2, 3, 4]
    assert "trial 1 failed and starts again: worker lost" in said
    starts = [line for line in said.splitlines() if "starts" in line]
    assert len(starts) == 4  # two trials, one failure that says so, one new start


def test_by_policy_a_killed_worker_is_not_started_again_and_its_neighbour_goes_on(tmp_path: Path) -> None:
    policy = Anomalies(lost_worker="stop")
    records, said = conducted(tmp_path, ["killed", "neighbour"], WorkerKiller, policy)
    assert {name: record.status for name, record in records.items()} == {"killed": "failed", "neighbour": "finished"}
    error = records["killed"].error
    assert error is not None
    assert error.type == "worker_lost"
    assert [row["iteration"] for row in records["killed"].history] == [1, 2]
    assert "starts again" not in said
