"""A whole sweep of light trials, without torch, whose terminal, reader or parent goes away."""

import fcntl
import os
import select
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

import psutil
import pytest

from benchmarks.chaos import processes_of
from benchmarks.light_sweep import SWEEP
from tests.waiting import LIMIT_S, tail, wait_until
from tune_jobs.records.ledger import SweepFolder
from tuning_common.files import read_jsonl

ROOT = Path(__file__).resolve().parents[3]
PR_SET_CHILD_SUBREAPER = 36

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def start(
    folder: Path, *arguments: str, output: "int | IO[bytes]", before: Callable[[], object] = lambda: None
) -> "subprocess.Popen[bytes]":
    """Starts a sweep in a session of its own."""
    (folder / "small.yaml").write_text(SWEEP.replace("NAME", "small"), encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.light_sweep", "small.yaml", "--cpu-only", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdin=output,
        stdout=output,
        stderr=output,
        start_new_session=True,
        preexec_fn=before,
    )


def journal(folder: Path) -> Path:
    return folder / "outputs/sweep_results/small/journal.jsonl"


def wait_for_reports(folder: Path, count: int, process: "subprocess.Popen[bytes]") -> None:
    path = journal(folder)

    def alive() -> None:
        assert process.poll() is None, process.returncode

    wait_until(
        lambda: path.exists() and path.read_text().count('"reported"') >= count,
        f"{count} evaluations",
        alive=alive,
        known=lambda: tail(path),
    )


class Terminal:
    """A terminal with one program in it; what the program writes is read all the time, as its buffer is small."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._near, far = os.openpty()
        self.process = start(folder, *arguments, output=far, before=_take_terminal)
        os.close(far)
        self._shown = b""
        self._closing = threading.Event()
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    def press(self, key: bytes) -> None:
        os.write(self._near, key)

    def close(self) -> str:
        """Closes the window; returns what was in it."""
        self._closing.set()
        self._reading.join()
        os.close(self._near)
        return self._shown.decode()

    def _read(self) -> None:
        with suppress(OSError):  # the program has ended
            while select.select([self._near], [], [], 0.1)[0] or not self._closing.is_set():
                if select.select([self._near], [], [], 0.1)[0]:
                    self._shown += os.read(self._near, 2**12)


def _take_terminal() -> None:
    """Makes standard input the terminal that rules this process, as a shell in a window does."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


def test_a_reader_that_goes_away_ends_nothing_and_nohup_ignores_the_terminal(tmp_path: Path) -> None:
    reader, writing = os.pipe()
    process = start(tmp_path, output=writing, before=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    os.close(writing)
    assert os.read(reader, 1)
    os.close(reader)  # as `| head` does
    wait_for_reports(tmp_path, 2, process)
    os.killpg(process.pid, signal.SIGHUP)  # as a closed SSH connection does
    assert process.wait(LIMIT_S) == 0
    records = SweepFolder.of(tmp_path / "outputs", "small").load().trials
    assert [(record.status, record.retries) for record in records] == [("finished", 0)] * 4


def test_the_quit_key_and_a_closed_terminal_are_clean_stops_that_save(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    wait_for_reports(tmp_path, 2, terminal.process)
    terminal.press(b"\x1c")  # Ctrl-\
    assert terminal.process.wait(LIMIT_S) == 1
    shown = terminal.close()
    assert "resume with: python -m tune_jobs run small.yaml --cpu-only --resume" in shown
    assert "Traceback" not in shown
    before = check_saved(tmp_path)

    terminal = Terminal(tmp_path, "--resume")
    wait_for_reports(tmp_path, before + 2, terminal.process)
    terminal.close()
    assert terminal.process.wait(LIMIT_S) == 1
    check_saved(tmp_path)
    reports = [(event["number"], event["evaluation"]) for event in events(tmp_path, "reported")]
    assert len(reports) == len(set(reports)), "nothing twice"


def test_a_driver_whose_raylet_is_killed_ends_and_shows_how_to_resume(tmp_path: Path) -> None:
    with (tmp_path / "shown").open("wb") as log:
        process = start(tmp_path, output=log)
    wait_until(lambda: "4 waiting" in (tmp_path / "shown").read_text(), "the start of the sweep")
    (raylet,) = [number for number, program in processes_of(process.pid) if program == "raylet"]
    os.kill(raylet, signal.SIGKILL)
    assert process.wait(LIMIT_S) == 1
    shown = (tmp_path / "shown").read_text()
    assert "Ray lost a raylet on this machine: the sweep stops, and --resume continues it with a new Ray" in shown
    assert "Traceback" not in shown


def events(folder: Path, kind: str) -> list[dict[str, object]]:
    return [event for event in read_jsonl(journal(folder))[0] if event["event"] == kind]


def check_saved(folder: Path) -> int:
    """Checks that the trials saved between two evaluations; returns how many evaluations there were."""
    assert events(folder, "paused"), tail(journal(folder))
    return len(events(folder, "reported"))


SUBREAPER = f"""
import ctypes, subprocess, sys, time
ctypes.CDLL(None).prctl({PR_SET_CHILD_SUBREAPER}, 1, 0, 0, 0)
subprocess.Popen(sys.argv[1:])
time.sleep(600)
"""


def test_where_nobody_reaps_no_trial_outlives_its_driver(tmp_path: Path) -> None:
    """As in a container whose first process is `sleep infinity`."""
    (tmp_path / "small.yaml").write_text(SWEEP.replace("NAME", "small"), encoding="utf-8")
    command = [sys.executable, "-m", "benchmarks.light_sweep", "small.yaml", "--cpu-only"]
    first = subprocess.Popen(
        [sys.executable, "-c", SUBREAPER, *command],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    try:
        wait_for_reports(tmp_path, 2, first)
        below = psutil.Process(first.pid)
        trials = {int(str(event["location"]["pid"])) for event in events(tmp_path, "located")}  # type: ignore[index]
        assert len(trials) == 2
        (driver,) = below.children()
        driver.kill()
        wait_until(lambda: not trials & alive(below), "the trials' end", known=lambda: str(below.children()))
    finally:
        for process in [*below.children(recursive=True), below]:
            process.kill()
        first.wait()


def alive(process: psutil.Process) -> set[int]:
    return {one.pid for one in process.children(recursive=True) if one.status() != psutil.STATUS_ZOMBIE}
