"""Whoever can write to a sweep's results must not get code run in its driver: Tune's error.pkl is never unpickled."""

import os
import pickle
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tune_jobs.driver.tuner import TunerSettings, run_tuner
from tune_jobs.records.trial_spec import Bundle, RunShape, TrialSpec

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.mark}",)


class Host:
    """Launches one attempt."""

    def __init__(self, folder: Path) -> None:
        self.launches = [
            TrialSpec(
                number=1,
                name="trial_1",
                sweep="s",
                sampled={},
                config={},
                folder=str(folder / "e"),
                sweep_folder=str(folder),
                cache_dir=str(folder / "c"),
                metric="eval/loss",
                bundle=Bundle(cpus=1),
                shape=RunShape(micro_batch=1, accumulation=1),
            )
        ]
        self.error: str | None = None

    def has_launch(self) -> bool:
        return bool(self.launches)

    def next_launch(self) -> TrialSpec | None:
        return self.launches.pop() if self.launches else None

    def started(self, number: int) -> None:
        """Does nothing."""

    def reported(self, number: int, result: Mapping[str, object]) -> bool:
        return False

    def saved(self, number: int, folder: Path) -> None:
        """Does nothing."""

    def ended(self, number: int, error: str | None) -> None:
        self.error = error

    def tick(self) -> None:
        """Does nothing."""

    def take_cancelled(self) -> Collection[int]:
        return ()

    def must_end(self) -> bool:
        return False


def fails(config: dict[str, object]) -> None:
    raise RuntimeError("no such data")


@contextmanager
def neighbour(folder: Path, mark: Path) -> Iterator[None]:
    """Puts a payload where Tune looks for a trial's error, again and again: Tune writes its own file once or twice."""
    over = threading.Event()

    def plant() -> None:
        payload = pickle.dumps(Payload(mark))
        while not over.wait(0.001):
            for trial in folder.glob("run_1/trial_1_*"):
                (trial / "planted").write_bytes(payload)
                os.replace(trial / "planted", trial / "error.pkl")

    thread = threading.Thread(target=plant)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_an_error_file_in_the_results_is_not_unpickled(tmp_path: Path) -> None:
    host, mark = Host(tmp_path), tmp_path / "the_payload_ran"
    with neighbour(tmp_path, mark):
        run_tuner(fails, host, TunerSettings(folder=tmp_path, name="run_1"))
    assert host.error is not None
    assert "no such data" in host.error
    assert not mark.exists()
    assert list(tmp_path.glob("run_1/trial_1_*/error.pkl")), "there was a payload"
    assert list(tmp_path.glob("run_1/tuner.pkl")) == [], "nothing is pickled that would have to be read again"
