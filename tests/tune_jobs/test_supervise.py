"""A driver that dies is started again as long as that gets anywhere, and never after somebody asked for the end."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import ended
from tune_jobs.jobs import supervise
from tune_jobs.jobs.supervise import FRUITLESS, DriverExit, Progress, keep_running, next_step, pause_s, read_progress
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
    endings = iter([DriverExit(code=-9, begun=True), DriverExit(code=1, progressed=True), DriverExit(code=0)])

    def run(command: list[str], progress: object) -> DriverExit:
        commands.append(command[3:])
        return next(endings)

    monkeypatch.setattr(supervise, "_run", run)
    monkeypatch.setattr(supervise.time, "sleep", lambda seconds: None)
    assert keep_running(["run", "a.yaml", "--supervise"], Progress) == 0
    assert commands == [["run", "a.yaml"], ["run", "a.yaml", "--resume"], ["run", "a.yaml", "--resume"]]
    assert (
        "the driver was ended by signal 9; it starts again and goes on where it was, in 5 s" in capsys.readouterr().err
    )


def test_drivers_that_get_nowhere_are_given_up_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(supervise, "_run", lambda *_: DriverExit(code=1))
    monkeypatch.setattr(supervise.time, "sleep", pauses.append)
    with pytest.raises(WorkError, match=rf"the last {FRUITLESS} drivers ended \(exit code 1\)"):
        keep_running(["run", "a.yaml", "--supervise"], Progress)
    assert pauses == [5.0, 10.0, 20.0, 40.0]


def test_each_driver_is_followed_by_a_pause_that_grows_while_nothing_comes_of_it() -> None:
    endings = [DriverExit(code=1, progressed=progressed) for progressed in (True, False, False, True)]
    assert [pause_s(endings[: count + 1]) for count in range(4)] == [1.0, 5.0, 10.0, 1.0]


def write_journal(folder: Path, *events: tuple[str, int, int]) -> None:
    folder.mkdir(exist_ok=True)
    with (folder / "journal.jsonl").open("a") as stream:
        for event, number, evaluation in events:
            stream.write(json.dumps({"event": event, "number": number, "evaluation": evaluation}) + "\n")


def test_only_new_evaluations_and_ended_trials_of_the_sweep_itself_are_progress(tmp_path: Path) -> None:
    def read() -> Progress:
        return read_progress(tmp_path, ["small", "small_wide"])

    before = read()
    write_journal(tmp_path / "small2", ("reported", 1, 1))
    assert read().since(before) == (False, False), "a neighbour whose name begins alike"
    write_journal(tmp_path / "small_wide", ("submitted", 1, 0))
    assert read().since(before) == (True, False)
    write_journal(tmp_path / "small_wide", ("reported", 1, 1), ("reported", 1, 2))
    begun, before = read().since(before), read()
    assert begun == (True, True)
    write_journal(tmp_path / "small_wide", ("interrupted", 1, 0), ("started", 1, 0), ("reported", 1, 2))
    assert read().since(before) == (False, False), "a driver that repeats an evaluation and dies gets nowhere"
    write_journal(tmp_path / "small_wide", ("ended", 1, 0))
    assert read().since(before) == (False, True)


def test_results_that_were_put_aside_are_no_progress_and_new_ones_are(tmp_path: Path) -> None:
    write_journal(tmp_path / "small", ("reported", 1, 1))
    before = read_progress(tmp_path, ["small"])
    (tmp_path / "small").rename(tmp_path / "small_1130_120000")
    assert read_progress(tmp_path, ["small"]).since(before) == (False, False)
    write_journal(tmp_path / "small", ("reported", 1, 1))
    assert read_progress(tmp_path, ["small"]).since(before) == (True, True)


@pytest.mark.parametrize(("code", "starts"), [(1, 1), (-9, 2)])
def test_a_stop_file_that_a_person_left_ends_the_supervision(
    monkeypatch: pytest.MonkeyPatch, code: int, starts: int
) -> None:
    endings = [DriverExit(code=0), DriverExit(code=code, progressed=True)]
    monkeypatch.setattr(supervise, "_run", lambda *_: endings.pop())
    monkeypatch.setattr(supervise.time, "sleep", lambda seconds: None)
    keep_running(["run", "a.yaml", "--supervise"], Progress, lambda: True)
    assert 2 - len(endings) == starts


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
sys.exit(supervise.keep_running([], supervise.Progress))
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
