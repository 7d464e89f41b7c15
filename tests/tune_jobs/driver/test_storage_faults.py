"""A full disk and a storage that vanishes, under a real sweep: nothing is lost, and it goes on by itself."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

import pytest

from tests.tune_jobs.tiny import write_tiny_grid
from tests.waiting import LIMIT_S, wait_until
from tune_jobs.driver.storage_watch import StorageWatch
from tune_jobs.records.ledger import SweepFolder
from tune_jobs.trial.storage import TrialStorage
from tuning_common.files import read_jsonl
from tuning_common.storage import LEAST_BYTES, Backoff

ROOT = Path(__file__).resolve().parents[3]
EPOCHS = 10


def mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"needs the right to mount: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 32 MiB as the output folder of a sweep in tmp_path."""
    folder = tmp_path / "outputs"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=32m", "tmpfs", str(folder))
    write_tiny_grid(tmp_path / "small.yaml", epochs=EPOCHS, resources="cpus_per_trial: 1")
    yield folder
    for place in (folder, tmp_path / "elsewhere"):
        subprocess.run(["umount", "-l", str(place)], capture_output=True, check=False)


@pytest.fixture
def sweep(disk: Path, tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """The sweep, until each trial has a checkpoint. What it says lies beside the disk."""
    import sys

    with (tmp_path / "said").open("wb") as said:
        process = run(sys.executable, tmp_path, said)
        journal = disk / "sweep_results/small/journal.jsonl"
        wait_until(lambda: journal.exists() and journal.read_text().count('"event": "saved"') >= 4, "checkpoints")
        yield process
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait()


def run(python: str, folder: Path, said: IO[bytes]) -> "subprocess.Popen[bytes]":
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [python, "-m", "tune_jobs", "run", "small.yaml", "--cpu-only"]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=said)


def check_nothing_lost(folder: Path) -> None:
    records = SweepFolder.of(folder / "outputs", "small").load().trials
    assert [record.status for record in records] == ["finished", "finished"]
    assert all([row["iteration"] for row in record.history] == list(range(1, EPOCHS + 1)) for record in records)
    assert [record.retries for record in records] == [0, 0], "a trial waits; it does not use up its attempts"
    events = read_jsonl(folder / "outputs/sweep_results/small/journal.jsonl")[0]
    reports = [(event["number"], event["evaluation"]) for event in events if event["event"] == "reported"]
    assert len(reports) == len(set(reports)) == 2 * EPOCHS
    assert all((Path(record.experiment_dir) / "models/best_model/model.safetensors").exists() for record in records)
    assert SweepFolder.of(folder / "outputs", "small").report_html.exists()


@pytest.mark.ray
@pytest.mark.slow
def test_a_full_disk_is_waited_for(sweep: "subprocess.Popen[bytes]", disk: Path, tmp_path: Path) -> None:
    ballast = disk / "ballast"
    filled = subprocess.run(["dd", "if=/dev/zero", f"of={ballast}", "bs=4096"], capture_output=True, check=False)
    assert b"No space left" in filled.stderr
    wait_until(lambda: "trials wait with what they hold" in (tmp_path / "said").read_text(), "it is said")
    with suppress(AssertionError):  # the trials meet it too; a driver that waits for its journal says so later
        wait_until(lambda: "waits with its share" in (tmp_path / "said").read_text(), "a trial waits", limit_s=30)
    assert sweep.poll() is None, (tmp_path / "said").read_text()
    ballast.unlink()
    assert sweep.wait(LIMIT_S) == 0, (tmp_path / "said").read_text()
    said = (tmp_path / "said").read_text()
    assert "the storage is well again" in said
    assert "waits with its share: no space left" in said
    assert "Traceback" not in said
    check_nothing_lost(tmp_path)


@pytest.mark.ray
@pytest.mark.slow
def test_a_storage_that_vanishes_and_returns(sweep: "subprocess.Popen[bytes]", disk: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    mount("--move", str(disk), str(elsewhere))
    wait_until(lambda: "it is gone" in (tmp_path / "said").read_text(), "it is said")
    time.sleep(6)  # for as long as some evaluations take: whichever come now must wait; that none came is no failure
    assert sweep.poll() is None, (tmp_path / "said").read_text()
    mount("--move", str(elsewhere), str(disk))
    assert sweep.wait(LIMIT_S) == 0, (tmp_path / "said").read_text()
    said = (tmp_path / "said").read_text()
    assert "Traceback" not in said
    check_nothing_lost(tmp_path)


class Clock:
    """Runs with sleeps."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def test_the_driver_says_once_that_the_storage_is_full_or_gone(tmp_path: Path) -> None:
    clock, said, free = Clock(), [], [LEAST_BYTES]
    watch = StorageWatch(tmp_path, said.append, elapsed_s=lambda: clock.now_s, free=lambda folder: free[0])

    def later() -> list[str]:
        clock.now_s += 5.0
        watch.tick()
        return [line.split(": ", 1)[1] for line in said]

    assert later() == [], "a sweep that has not begun has no journal"
    (tmp_path / "journal.jsonl").touch()
    assert later() == []
    free[0] = 1000
    full = "only 1000 B are left; trials wait with what they hold and go on when this is mended"
    assert (later(), later()) == ([full], [full])
    free[0] = LEAST_BYTES
    assert later() == [full, "the storage is well again"]
    free[0] = 1000
    assert later()[-1] == full
    free[0] = LEAST_BYTES
    watch.check()  # a trial ended before the next tick
    assert said[-1].endswith("the storage is well again")
    (tmp_path / "journal.jsonl").unlink()
    assert later()[-1] == "it is gone; trials wait with what they hold and go on when this is mended"


def test_a_trial_waits_until_its_checkpoint_is_there_and_gives_up_in_time(tmp_path: Path) -> None:
    clock = Clock()
    folder, sweep, checkpoint = tmp_path / "experiments/one", tmp_path / "sweep", tmp_path / "tune/checkpoint_0"
    half_written = folder / "checkpoint-8"
    for path in (half_written, sweep, checkpoint):
        path.mkdir(parents=True)
    (sweep / "journal.jsonl").touch()
    storage = TrialStorage(
        folder=folder,
        sweep_folder=sweep,
        watched=True,
        backoff=Backoff(limit_s=60.0, elapsed_s=lambda: clock.now_s),
        sleep=clock.sleep,
    )
    assert storage.wait("no space left", folder, checkpoint)
    storage.backoff.succeeded()
    clock.now_s = 0.0
    assert not half_written.exists()
    checkpoint.rmdir()
    told: list[str] = []
    assert not storage.wait("it is gone", folder, checkpoint, told.append)
    assert clock.now_s > 60.0
    assert told == [f"it is gone, needs 4.00 MiB in {folder}"] * 2
    (sweep / "journal.jsonl").unlink()
    with pytest.raises(OSError, match="it is gone"):
        storage.check()
