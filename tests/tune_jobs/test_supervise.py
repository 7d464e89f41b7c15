"""A driver that dies is started again as long as that gets anywhere, and never after somebody asked for the end."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import ended
from tune_jobs.jobs import supervise
from tune_jobs.jobs.supervise import FRUITLESS, DriverExit, keep_running, next_step
from tune_jobs.records.command_line import driver_arguments
from tuning_common.errors import WorkError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("endings", "step"),
    [
        ([DriverExit(code=0)], "done"),
        ([DriverExit(code=-9, progressed=True), DriverExit(code=0)], "done"),
        ([DriverExit(code=2)], "refused"),
        ([DriverExit(code=1, asked=True, progressed=True)], "stopped"),
        ([DriverExit(code=-15, asked=True)], "stopped"),
        ([DriverExit(code=-9)], "again"),
        ([DriverExit(code=1, progressed=True)] * 50, "again"),
        ([DriverExit(code=-9, progressed=True), *[DriverExit(code=-9)] * (FRUITLESS - 1)], "again"),
        ([DriverExit(code=-9, progressed=True), *[DriverExit(code=-9)] * FRUITLESS], "give up"),
    ],
)
def test_what_follows_an_ending(endings: list[DriverExit], step: str) -> None:
    assert next_step(endings) == step


def test_the_next_driver_resumes_and_is_not_supervised_itself() -> None:
    arguments = ["run", "a.yaml", "--supervise", "--member", "ann"]
    assert driver_arguments(arguments, resume=False) == ["run", "a.yaml", "--member", "ann"]
    assert driver_arguments(arguments, resume=True) == ["run", "a.yaml", "--member", "ann", "--resume"]
    assert driver_arguments([*arguments, "--resume"], resume=True).count("--resume") == 1
    late = [*arguments, "--start-at", "22:00"]
    assert driver_arguments(late, resume=False)[-2:] == ["--start-at", "22:00"]
    assert "22:00" not in driver_arguments(late, resume=True), "a driver that died at 23:00 must not wait for tomorrow"
    assert driver_arguments(["run", "a.yaml", "--start-at=22:00"], resume=True) == ["run", "a.yaml", "--resume"]


def test_drivers_are_started_again_until_one_is_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands: list[list[str]] = []
    endings = iter([DriverExit(code=-9, progressed=True), DriverExit(code=1, progressed=True), DriverExit(code=0)])

    def run(command: list[str], progress: object, before: object) -> DriverExit:
        commands.append(command[3:])
        return next(endings)

    monkeypatch.setattr(supervise, "_run", run)
    assert keep_running(["run", "a.yaml", "--supervise"], lambda: 0) == 0
    assert commands == [["run", "a.yaml"], ["run", "a.yaml", "--resume"], ["run", "a.yaml", "--resume"]]
    assert "the driver was ended by signal 9; it starts again and goes on where it was" in capsys.readouterr().err


def test_drivers_that_get_nowhere_are_given_up_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "_run", lambda *_: DriverExit(code=1))
    monkeypatch.setattr(supervise, "WAIT_S", 0.0)
    with pytest.raises(WorkError, match=rf"the last {FRUITLESS} drivers ended \(exit code 1\)"):
        keep_running(["run", "a.yaml", "--supervise"], lambda: 0)


def test_a_wrong_request_is_passed_on_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("name: a\nmethod: grid\nparameters: {learning_rate: {value: 1e-3}}\nbad: 1\n")
    done = subprocess.run(
        [sys.executable, "-m", "tune_jobs", "run", "a.yaml", "--supervise"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2
    assert "unknown key 'bad'" in done.stderr


STAND_IN = """
import signal, sys, time
got = []
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
    signal.signal(number, lambda *_: got.append(1))
print("ready", flush=True)
ends = time.monotonic() + 60
while not got and time.monotonic() < ends: time.sleep(0.02)
time.sleep(0.5)  # a second signal would come at once
print("signals", len(got), flush=True)
sys.exit(1)
"""
SUPERVISOR = """
import os, signal, subprocess, sys
from tests.waiting import ended
from tune_jobs.jobs import supervise
run, start = supervise._run, subprocess.Popen
supervise.driver_arguments = lambda arguments, resume: []
supervise._run = lambda command, *rest: run([sys.executable, "-c", sys.argv[1]], *rest)

def start_and_be_stopped(command):
    process = start(command)
    os.kill(os.getpid(), signal.SIGTERM)
    return process

if sys.argv[2] == "at once":
    subprocess.Popen = start_and_be_stopped
sys.exit(supervise.keep_running([], lambda: 0))
"""


def supervisor(stopped: str) -> "subprocess.Popen[str]":
    """Keeps a script running that counts the signals it gets."""
    return subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, STAND_IN, stopped],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_stop_reaches_the_driver_once_and_nothing_starts_again(number: int) -> None:
    process = supervisor("when it is ready")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, err = ended(process)
    assert process.returncode == 1
    assert out == "signals 1\n"
    assert "starts again" not in err


def test_sigterm_in_the_moment_of_the_start_ends_the_driver_too() -> None:
    process = supervisor("at once")
    out, err = ended(process)
    assert process.returncode == 1
    assert out in ("", "ready\nsignals 1\n"), "before or after it listens"
    assert "starts again" not in err
