"""The door to Tune on a real Ray: orders in, events out, a larger share after a failure, labels kept, actors reused."""

import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.waiting import wait_until
from tune_jobs.driver import tuner as tune_door
from tune_jobs.driver.tuner import FitSettings, fit, last_checkpoint, report
from tune_jobs.records.trial_spec import LATER, ORDER_KEY, Bundle
from tune_jobs.trial.recovery import classify

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]
LABELS = {"gpu-model": "simulated-24GiB"}


class TooLittleError(RuntimeError):
    """What a trial raises that needs a larger share."""


def trial(config: dict[str, object]) -> None:
    """Counts to three; number 2 needs half a card for its third step."""
    import ray

    order = config[ORDER_KEY]
    assert isinstance(order, dict)
    share = ray.get_runtime_context().get_assigned_resources()["GPU"]
    checkpoint = last_checkpoint()
    start = json.loads((checkpoint / "state.json").read_text())["step"] if checkpoint else 0
    for step in range(start + 1, 4):
        if order["number"] == 2 and step == 3 and share < 0.5:
            raise TooLittleError(f"{share} of a card is too little")
        time.sleep(0.05)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "state.json").write_text(json.dumps({"step": step}))
            report({"step": step, "share": share, "start": start, "pid": os.getpid()}, Path(folder))


class RecordingConductor:
    """Orders `count` trials and writes down everything it hears."""

    def __init__(self, count: int, stop: Callable[[int, int], bool] = lambda number, step: False) -> None:
        self.count, self.stop = count, stop
        self.ordered = 0
        self.results: list[tuple[int, Mapping[str, object]]] = []
        self.saves: list[tuple[int, str]] = []
        self.retries: list[tuple[int, str, Bundle]] = []
        self.starts: list[tuple[int, Bundle]] = []
        self.ends: dict[int, BaseException | None] = {}
        self.ticks = 0

    def next_order(self, key: str) -> Mapping[str, object] | None:
        if self.ordered == self.count:
            return None
        self.ordered += 1
        bundle = dataclasses.asdict(Bundle(cpus=1, gpus=0.25, labels=LABELS))
        return {"number": self.ordered, "name": f"trial_{self.ordered}", "bundle": bundle}

    def started(self, order: Mapping[str, object], bundle: Bundle) -> None:
        self.starts.append((number(order), bundle))

    def reported(self, order: Mapping[str, object], result: Mapping[str, object]) -> bool:
        self.results.append((number(order), dict(result)))
        return self.stop(number(order), int(str(result["step"])))

    def saved(self, order: Mapping[str, object], folder: Path) -> None:
        assert (folder / "state.json").exists()
        self.saves.append((number(order), folder.name))

    def retried(self, order: Mapping[str, object], error: BaseException | None, bundle: Bundle) -> Bundle:
        self.retries.append((number(order), str(isinstance(error, TooLittleError)), bundle))
        return dataclasses.replace(bundle, gpus=0.5)

    def ended(self, key: str, order: Mapping[str, object], error: BaseException | None) -> None:
        self.ends[number(order)] = error

    def tick(self) -> Collection[int]:
        self.ticks += 1
        return ()


def number(order: Mapping[str, object]) -> int:
    return int(str(order["number"]))


def test_a_failed_trial_comes_back_with_a_larger_share_and_its_labels_from_its_checkpoint(tmp_path: Path) -> None:
    conductor = RecordingConductor(9, stop=lambda number, step: number == 1 and step == 2)
    fit(trial, conductor, FitSettings(folder=tmp_path, name="run_1", attempts=1))

    quarter, half = (Bundle(cpus=1.0, gpus=share, labels=LABELS) for share in (0.25, 0.5))
    assert conductor.retries == [(2, "True", quarter)]
    assert [bundle for at, bundle in conductor.starts if at == 2] == [quarter, half]
    by_trial = {at: [result for who, result in conductor.results if who == at] for at in range(1, 10)}
    steps = {at: [result["step"] for result in results] for at, results in by_trial.items()}
    assert steps == {1: [1, 2]} | {at: [1, 2, 3] for at in range(2, 10)}
    assert [by_trial[2][-1][key] for key in ("start", "share")] == [2, 0.5]
    assert conductor.ends == dict.fromkeys(range(1, 10))
    assert len(conductor.saves) == len(conductor.results) == 26
    assert len({result["pid"] for _, result in conductor.results}) < 9, "no process served two trials"
    assert conductor.ticks > 0


def test_the_last_failure_ends_the_trial_with_its_error_and_spares_the_others(tmp_path: Path) -> None:
    conductor = RecordingConductor(3)
    fit(trial, conductor, FitSettings(folder=tmp_path, name="run_1", attempts=0))
    assert conductor.retries == []
    assert isinstance(conductor.ends[2], TooLittleError)
    assert (conductor.ends[1], conductor.ends[3]) == (None, None)


def test_a_second_failure_of_a_lost_process_does_not_end_the_trial_that_waits_to_start_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is lost with two tasks under way fails both; the trial is queued again by then."""
    from ray.exceptions import ActorDiedError

    add, late = tune_door._ConductedScheduler.on_trial_add, list[str]()

    def add_and_fail_again(self: object, wrapper: Any, trial: Any) -> None:
        add(self, wrapper, trial)
        if trial.run_metadata.num_failures and not late:
            late.append(trial.trial_id)
            wrapper._tune_controller._trial_task_failure(trial, ActorDiedError())

    monkeypatch.setattr(tune_door._ConductedScheduler, "on_trial_add", add_and_fail_again)
    conductor = RecordingConductor(3)
    fit(trial, conductor, FitSettings(folder=tmp_path, name="run_1", attempts=3))
    assert len(late) == 1
    assert conductor.ends == dict.fromkeys(range(1, 4))
    assert [number for number, *_ in conductor.retries] == [2]


class Tail(RecordingConductor):
    """Has no third trial to start, but might: an open trial can want another place. Lets trial 2 end by a file."""

    marker = Path()

    def next_order(self, key: str) -> Mapping[str, object] | Literal["later"] | None:
        order = super().next_order(key)
        if order is None:
            return LATER if len(self.ends) < 2 else None
        return dict(order) | {"marker": str(self.marker)}

    def tick(self) -> Collection[int]:
        import ray

        if 1 in self.ends and ray.available_resources().get("GPU", 0.0) >= 1.75:
            self.marker.touch()
        return ()


def outlasting(config: dict[str, object]) -> None:
    """Trial 2 ends when nobody else holds anything."""
    order = config[ORDER_KEY]
    assert isinstance(order, dict)
    report({"step": 1}, None)
    if order["number"] == 2:
        wait_until(Path(order["marker"]).exists, "the process of trial 1 holds its share no longer")


def test_a_process_without_a_trial_gives_its_share_back_before_the_sweep_ends(tmp_path: Path) -> None:
    conductor = Tail(2)
    conductor.marker = tmp_path / "free"
    fit(outlasting, conductor, FitSettings(folder=tmp_path, name="run_1", attempts=0, idle_s=0.5))
    assert conductor.ends == {1: None, 2: None}


class Impatient(RecordingConductor):
    """Ends the process of trial 1 a while after its first start."""

    def tick(self) -> Collection[int]:
        starts = [at for at, _ in self.starts]
        if starts.count(1) == 1 and self.results:
            self.results.clear()
            return (1,)
        return ()

    def retried(self, order: Mapping[str, object], error: BaseException | None, bundle: Bundle) -> Bundle:
        self.retries.append((number(order), classify(error) if error else "", bundle))
        return bundle


def hanging(config: dict[str, object]) -> None:
    """Reports once and then hangs; goes on when it is started again."""
    report({"step": 1}, None)
    marker = Path(str(config[ORDER_KEY]["marker"]))  # type: ignore[index]
    if not marker.exists():
        marker.touch()
        time.sleep(600)


def test_a_process_that_hangs_is_ended_and_starts_again(tmp_path: Path) -> None:
    conductor = Impatient(1)
    order = conductor.next_order

    def marked(key: str) -> Mapping[str, object] | None:
        found = order(key)
        return None if found is None else dict(found) | {"marker": str(tmp_path / "hung")}

    conductor.next_order = marked  # type: ignore[method-assign]
    fit(hanging, conductor, FitSettings(folder=tmp_path, name="run_1", attempts=1))
    assert [(at, kind) for at, kind, _ in conductor.retries] == [(1, "worker_lost")]
    assert conductor.ends == {1: None}
