"""Attempts on a real Ray Tune: launches, events, failures without a retry, warm processes, cancelled launches."""

import json
import os
import signal
import tempfile
import time
from collections import Counter, deque
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tune_jobs.specs_of import spec_of
from tests.waiting import wait_until
from tune_jobs.driver.tuner import TunerSettings, run_tuner
from tune_jobs.records.trial_spec import Bundle, TrialSpec
from tune_jobs.trial.tune_session import report

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]
QUARTER, HALF = 0.25, 0.5


class TooLittleError(RuntimeError):
    """What a trial raises that needs a larger share."""


def trial(config: dict[str, object]) -> None:
    """Counts to three; number 2 needs half a card for its third step."""
    import ray

    spec = TrialSpec.from_tune(config)
    share = ray.get_runtime_context().get_assigned_resources()["GPU"]
    start = json.loads((Path(spec.resume_from) / "state.json").read_text())["step"] if spec.resume_from else 0
    for step in range(start + 1, 4):
        if spec.number == 2 and step == 3 and share < HALF:
            raise TooLittleError(f"{share} of a card is too little")
        time.sleep(0.05)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "state.json").write_text(json.dumps({"step": step}))
            report({"step": step, "share": share, "start": start, "pid": os.getpid()}, Path(folder))


class RecordingHost:
    """Launches a list of attempts, some at a time, and writes down every event."""

    def __init__(self, specs: Collection[TrialSpec], at_a_time: int = 8) -> None:
        self.waiting, self.at_a_time = deque(specs), at_a_time
        self.running: set[int] = set()
        self.started_numbers: list[int] = []
        self.results: list[tuple[int, Mapping[str, object]]] = []
        self.saves: dict[int, Path] = {}
        self.ends: list[tuple[int, str | None]] = []
        self.stop_at: tuple[int, int] | None = None
        self.cancelled: set[int] = set()
        self.ticks = 0
        self.over = False

    def has_launch(self) -> bool:
        return bool(self.waiting) and len(self.running) < self.at_a_time

    def next_launch(self) -> TrialSpec | None:
        if not self.has_launch():
            return None
        spec = self.waiting.popleft()
        self.running.add(spec.number)
        return spec

    def started(self, number: int) -> None:
        self.started_numbers.append(number)

    def reported(self, number: int, result: Mapping[str, object]) -> bool:
        self.results.append((number, dict(result)))
        return (number, result.get("step")) == self.stop_at

    def saved(self, number: int, folder: Path) -> None:
        assert (folder / "state.json").exists()
        self.saves[number] = folder

    def ended(self, number: int, error: str | None) -> None:
        self.running.discard(number)
        self.ends.append((number, error))

    def tick(self) -> None:
        self.ticks += 1

    def take_cancelled(self) -> Collection[int]:
        cancelled, self.cancelled = self.cancelled, set()
        return cancelled

    def must_end(self) -> bool:
        return self.over

    def of(self, number: int, key: str) -> list[object]:
        return [result[key] for at, result in self.results if at == number]


def node() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())


def specs(folder: Path, count: int, **changes: object) -> list[TrialSpec]:
    bundle = Bundle(cpus=1, gpus=QUARTER, nodes=(node(),))
    return [spec_of(folder, f"t{number}", number=number, bundle=bundle, **changes) for number in range(1, count + 1)]


def settings(folder: Path) -> TunerSettings:
    return TunerSettings(folder=folder / "tune", name="1")


def test_a_failed_attempt_is_over_and_goes_on_as_another_with_a_larger_share_from_its_checkpoint(
    tmp_path: Path,
) -> None:
    class Retrying(RecordingHost):
        def ended(self, number: int, error: str | None) -> None:
            super().ended(number, error)
            if error is not None:
                bundle = Bundle(cpus=1, gpus=HALF, nodes=(node(),))
                again = spec_of(tmp_path, "t2", number=2, bundle=bundle, resume_from=str(self.saves[number]))
                self.waiting.append(again)

    host = Retrying(specs(tmp_path, 9))
    host.stop_at = (1, 2)
    run_tuner(trial, host, settings(tmp_path))
    failure = f"{__name__}.TooLittleError: 0.25 of a card is too little"
    assert [(at, error) for at, error in host.ends if error] == [(2, failure)]
    assert Counter(at for at, _ in host.ends) == Counter({**dict.fromkeys(range(1, 10), 1), 2: 2})
    assert Counter(host.started_numbers) == Counter(at for at, _ in host.ends)
    assert {at: host.of(at, "step") for at in range(1, 10)} == {1: [1, 2], **{at: [1, 2, 3] for at in range(2, 10)}}
    assert (host.of(2, "start")[-1], host.of(2, "share")[-1]) == (2, HALF)
    assert len({result["pid"] for _, result in host.results}) < 9, "no process served two trials"
    assert host.ticks > 0


def test_the_next_attempt_of_the_same_resources_takes_the_warm_process(tmp_path: Path) -> None:
    host = RecordingHost(specs(tmp_path, 3)[::2], at_a_time=1)  # the second waits until the first has ended
    run_tuner(trial, host, settings(tmp_path))
    assert host.ends == [(1, None), (3, None)]
    assert len({result["pid"] for _, result in host.results}) == 1


def test_a_lost_process_ends_its_attempt_once_also_while_a_stop_is_under_way(tmp_path: Path) -> None:
    class Killing(RecordingHost):
        """Kills the processes of trials 1 and 3 within a report; that of trial 3 should stop at the same report."""

        def reported(self, number: int, result: Mapping[str, object]) -> bool:
            super().reported(number, result)
            if number in (1, 3) and result["step"] == 2:
                os.kill(int(str(result["pid"])), signal.SIGKILL)
            return number == 3 and result["step"] == 2

    host = Killing(specs(tmp_path, 4)[::2] + specs(tmp_path, 4)[3:])
    run_tuner(trial, host, settings(tmp_path))
    assert Counter(at for at, _ in host.ends) == {1: 1, 3: 1, 4: 1}
    ends = dict(host.ends)
    assert ends[1] is not None
    assert ends[4] is None
    assert "died" in ends[1]


def outlasting(config: dict[str, object]) -> None:
    """Trial 2 ends when its marker is there."""
    spec = TrialSpec.from_tune(config)
    report({"step": 1}, None)
    if spec.number == 2:
        wait_until((Path(spec.sweep_folder) / "free").exists, "the process of trial 1 holds its share no longer")


def test_a_process_without_an_attempt_gives_its_share_back_while_others_run(tmp_path: Path) -> None:
    class Tail(RecordingHost):
        """Lets trial 2 end when nobody else holds anything."""

        def tick(self) -> None:
            import ray

            if (1, None) in self.ends and ray.available_resources().get("GPU", 0.0) >= 1.75:
                (tmp_path / "free").touch()

    host = Tail(specs(tmp_path, 2))
    run_tuner(outlasting, host, settings(tmp_path))
    assert sorted(host.ends) == [(1, None), (2, None)]


def test_a_launch_that_ray_cannot_start_is_cancelled_and_the_others_end(tmp_path: Path) -> None:
    class Impatient(RecordingHost):
        """Cancels trial 1 when trial 2 has reported."""

        def reported(self, number: int, result: Mapping[str, object]) -> bool:
            if not self.results:
                self.cancelled.add(1)
            return super().reported(number, result)

    nowhere, somewhere = specs(tmp_path, 3)[::2]
    nowhere = replace(nowhere, bundle=Bundle(cpus=1, gpus=QUARTER, nodes=("f" * 56,)))
    host = Impatient([nowhere, somewhere])
    run_tuner(trial, host, settings(tmp_path))
    assert sorted(host.ends) == [(1, None), (3, None)]
    assert set(host.started_numbers) == {3}


def hanging(config: dict[str, object]) -> None:
    """Reports once and then hangs."""
    report({"step": 1, "pid": os.getpid()}, None)
    time.sleep(600)


def test_everything_ends_at_once_where_it_must(tmp_path: Path) -> None:
    class Ending(RecordingHost):
        """Ends everything as soon as both have reported."""

        def must_end(self) -> bool:
            return len(self.results) == 2

    host = Ending(specs(tmp_path, 2))
    run_tuner(hanging, host, settings(tmp_path))
    assert len(host.results) == 2
