"""A sweep on a real Ray that is interrupted: Tune's controller dies, somebody stops it, somebody ends it at once."""

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from dialsum.config import RunConfig
from tests.tune_jobs.counting import counting_trial
from tests.tune_jobs.driver.one_node import two_cards
from tests.tune_jobs.driver.ray_sweep import Made, RaySweep
from tests.tune_jobs.specs_of import spec_of
from tune_jobs.driver.stop_signals import StopRequest
from tune_jobs.records.journal import TrialHistory
from tune_jobs.search.samplers import Sampled

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]
GO_ON = "all may go on"


def sweep_of(folder: Path, names: list[str], **parts: object) -> RaySweep:
    """Counting trials in a quarter of a card each; they do not end before GO_ON is there."""
    cards = two_cards()

    def make_spec(sampled: Sampled) -> object:
        return spec_of(folder / "results", str(sampled["name"]), RunConfig(batch_size=8), sweep="s", simulated=True)

    return RaySweep(
        folder=folder,
        specs=Made(make_spec=make_spec, inventory=cards, upper_bytes=lambda sampled: 5 * 2**30),  # type: ignore[arg-type]
        trials=[{"name": name, "wait_for": GO_ON} for name in names],
        trainable=counting_trial,
        inventory=cards,
        **parts,  # type: ignore[arg-type]
    )


def pids(trials: Mapping[int, TrialHistory]) -> dict[int, int]:
    """The processes of all trials."""
    return {number: int(str(trial.attempts[-1]["pid"])) for number, trial in trials.items()}


def all_have(trials: Mapping[int, TrialHistory], count: int, evaluations: int) -> bool:
    """Whether so many trials have made so many evaluations."""
    return len(trials) == count and all(len(trial.evaluations) >= evaluations for trial in trials.values())


def test_a_controller_that_dies_costs_the_trial_that_caused_it_one_attempt_and_the_others_none(tmp_path: Path) -> None:
    """As Ray 2.60 does when its memory monitor ends an actor: Tune's actor manager raises (actor_manager.py)."""
    before: dict[int, int] = {}

    def watch(trials: Mapping[int, TrialHistory]) -> None:
        if before:
            (sweep.results.path / GO_ON).touch()
        elif all_have(trials, 3, 3):
            before.update(pids(trials))
            os.kill(before[2], signal.SIGKILL)
            raise RuntimeError(
                "Caught unexpected exception: Task was killed due to the node running low on memory.\n"
                f"where the task (actor ID: 1a, name=ImplicitFunc.__init__, pid={before[2]}, memory used=2.31GB) was"
                " running"
            )

    sweep = sweep_of(tmp_path, ["one", "two", "three"], watch=watch)
    sweep.run()
    assert {name: (record.status, record.retries) for name, record in sweep.records.items()} == {
        "one": ("finished", 0),
        "two": ("finished", 1),
        "three": ("finished", 0),
    }
    assert {name: trial.retries for name, trial in sweep.history.items() if trial.retries} == {"two": ["host_memory"]}
    for record in sweep.records.values():
        assert [row["iteration"] for row in record.history] == [1, 2, 3]
    assert "Ray Tune ended with an error" in sweep.shown
    assert "trial 1 pauses after evaluation 3: Ray Tune ended with an error" in sweep.shown
    assert [pid for pid in before.values() if psutil.pid_exists(pid)] == []


def test_a_stop_lets_trials_save_and_another_driver_goes_on(tmp_path: Path) -> None:
    stop = StopRequest()

    def watch(trials: Mapping[int, TrialHistory]) -> None:
        if all_have(trials, 2, 1):
            stop.request()

    first = sweep_of(tmp_path, ["one", "two", "three", "four"], watch=watch, stop=stop, max_concurrent=2)
    first.trials = [{"name": trial["name"], "steps": 60} for trial in first.trials]
    first.longest = 60
    first.run()
    assert "asked to stop: trials save a checkpoint at their next step and end" in first.shown
    assert first.records == {}
    paused = first.history
    assert set(paused) == {"one", "two"}, "none starts after the stop"
    assert all(trial.checkpoint is not None and not trial.running and trial.status is None for trial in paused.values())

    second = sweep_of(tmp_path, ["one", "two", "three", "four"], max_concurrent=2)
    second.trials, second.longest, second.name = first.trials, 60, "2"
    second.run()
    assert {name: (record.status, record.retries) for name, record in second.records.items()} == dict.fromkeys(
        ("one", "two", "three", "four"), ("finished", 0)
    )
    reports = [(event["number"], event["evaluation"]) for event in second.events if event["event"] == "reported"]
    assert len(reports) == len(set(reports)) == 240, "nothing twice"


def test_an_end_at_once_does_not_wait_for_trials_that_would_not_save(tmp_path: Path) -> None:
    stop = StopRequest()
    processes: dict[int, int] = {}

    def watch(trials: Mapping[int, TrialHistory]) -> None:
        if all_have(trials, 2, 3) and not processes:
            processes.update(pids(trials))
            stop.request()
            stop.force()

    sweep = sweep_of(tmp_path, ["one", "two", "three"], watch=watch, stop=stop, max_concurrent=2)
    sweep.run()
    assert sweep.records == {}
    ended = time.monotonic()
    psutil.wait_procs([psutil.Process(pid) for pid in processes.values() if psutil.pid_exists(pid)], timeout=120)
    assert [pid for pid in processes.values() if psutil.pid_exists(pid)] == []
    assert time.monotonic() - ended < 120

    (sweep.results.path / GO_ON).touch()
    again = sweep_of(tmp_path, ["one", "two", "three"], name="2").run()
    assert {name: record.status for name, record in again.records.items()} == dict.fromkeys(
        ("one", "two", "three"), "finished"
    )
