"""Recovery on a real Ray with the real trainer: in place, by a larger share, and after a killed worker."""

import os
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.tune_jobs.driver.one_node import two_cards
from tests.tune_jobs.driver.ray_sweep import Made, RaySweep, once
from tests.tune_jobs.options_of import GIB
from tests.tune_jobs.tiny import tiny_config, write_dialogues
from tests.tune_jobs.trial.trial_specs import LinearDevice, LinearDevices, spec_of
from tune_jobs.config.anomalies import Anomalies
from tune_jobs.driver.recovery import RetryPolicy
from tune_jobs.records.journal import TrialHistory
from tune_jobs.records.trial_spec import TrialSpec
from tune_jobs.search.samplers import Sampled
from tune_jobs.trial.run_trial import run_trial

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]
UPPER_BYTES = 5 * GIB  # a quarter of the card, which is 5.8 GiB
USES = LinearDevices(
    {
        "fits": LinearDevice(fixed_bytes=GIB, bytes_per_sample=GIB // 2),  # 5 GiB
        "smaller": LinearDevice(fixed_bytes=2 * GIB, bytes_per_sample=920 * 2**20),  # 5.6 GiB at a micro-batch of 4
        "larger": LinearDevice(fixed_bytes=8 * GIB, bytes_per_sample=GIB // 100),  # never in a quarter of the card
    }
)


def pretending(config: dict[str, object]) -> None:
    """Trains on pretended cards."""
    run_trial(config, USES)


def driven(folder: Path, names: list[str], retry: RetryPolicy | None = None) -> RaySweep:
    """Runs tiny trials by name in a quarter of a pretended card each; the process of "killed" is killed once."""
    write_dialogues(folder, train_count=32)

    def make_spec(sampled: Sampled) -> TrialSpec:
        config = tiny_config(folder, num_epochs=4)
        return spec_of(folder / "results", str(sampled["name"]), config, sweep="recovered", simulated=True)

    def second_evaluation(trials: Mapping[int, TrialHistory]) -> TrialHistory | None:
        found = (one for one in trials.values() if one.name == "killed" and len(one.evaluations) == 2 and one.running)
        return next(found, None)

    cards = two_cards()
    return RaySweep(
        folder=folder,
        specs=Made(make_spec=make_spec, inventory=cards, upper_bytes=lambda sampled: UPPER_BYTES),
        trials=[{"name": name} for name in names],
        trainable=pretending,
        inventory=cards,
        longest=4,
        retry=retry or RetryPolicy(),
        watch=once(second_evaluation, lambda trial: os.kill(int(str(trial.attempts[-1]["pid"])), signal.SIGKILL)),
        max_concurrent=2,
    ).run()


def test_an_out_of_memory_is_mended_in_place_and_by_a_larger_share_and_a_killed_worker_costs_little(
    tmp_path: Path,
) -> None:
    sweep = driven(tmp_path, ["fits", "smaller", "larger", "killed"])
    records = sweep.records
    assert {name: record.status for name, record in records.items()} == dict.fromkeys(
        [*USES.by_name, "killed"], "finished"
    )
    plans = {
        name: record.plan and (record.plan["micro_batch"], record.plan["accumulation"])
        for name, record in records.items()
    }
    assert plans == {"fits": (8, 1), "smaller": (4, 2), "larger": (8, 1), "killed": (8, 1)}
    assert {name: (record.share, record.retries) for name, record in records.items()} == {
        "fits": (0.25, 0),
        "smaller": (0.25, 0),
        "larger": (0.375, 1),
        "killed": (0.25, 1),
    }
    assert all([row["iteration"] for row in record.history] == [1, 2, 3, 4] for record in records.values())
    measured = records["smaller"].measured
    assert measured is not None
    assert measured["device_bytes"] == (2048 + 4 * 920) * 2**20
    assert "trial 3 failed and starts again: out of memory; 0.25 -> 0.375 of a card" in sweep.shown
    assert "trial 4 failed and starts again: worker lost" in sweep.shown
    starts = [line for line in sweep.shown.splitlines() if "starts" in line]
    assert len(starts) == 8  # four trials, two failures that say so, two new starts


def test_by_policy_a_killed_worker_is_not_started_again_and_its_neighbour_goes_on(tmp_path: Path) -> None:
    sweep = driven(tmp_path, ["killed", "neighbour"], RetryPolicy(anomalies=Anomalies(lost_worker="stop")))
    records = sweep.records
    assert {name: record.status for name, record in records.items()} == {"killed": "failed", "neighbour": "finished"}
    error = records["killed"].error
    assert error is not None
    assert error.type == "worker_lost"
    assert [row["iteration"] for row in records["killed"].history] == [1, 2]
    assert "starts again" not in sweep.shown
