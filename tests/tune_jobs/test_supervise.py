"""A driver that dies is started again as long as that gets anywhere, and never after somebody asked for the end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.errors import WorkError
from tune_jobs.jobs import supervise
from tune_jobs.jobs.supervise import FRUITLESS, Ending, command_of, keep_running, next_step

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("endings", "step"),
    [
        ([Ending(code=0)], "done"),
        ([Ending(code=-9, progressed=True), Ending(code=0)], "done"),
        ([Ending(code=2)], "refused"),
        ([Ending(code=1, asked=True, progressed=True)], "stopped"),
        ([Ending(code=-15, asked=True)], "stopped"),
        ([Ending(code=-9)], "again"),
        ([Ending(code=1, progressed=True)] * 50, "again"),
        ([Ending(code=-9, progressed=True), *[Ending(code=-9)] * (FRUITLESS - 1)], "again"),
        ([Ending(code=-9, progressed=True), *[Ending(code=-9)] * FRUITLESS], "give up"),
    ],
)
def test_what_follows_an_ending(endings: list[Ending], step: str) -> None:
    assert next_step(endings) == step


def test_the_next_driver_resumes_and_is_not_supervised_itself() -> None:
    arguments = ["run", "a.yaml", "--supervise", "--member", "ann"]
    assert command_of(arguments, resume=False) == ["run", "a.yaml", "--member", "ann"]
    assert command_of(arguments, resume=True) == ["run", "a.yaml", "--member", "ann", "--resume"]
    assert command_of([*arguments, "--resume"], resume=True).count("--resume") == 1
    late = [*arguments, "--start-at", "22:00"]
    assert command_of(late, resume=False)[-2:] == ["--start-at", "22:00"]
    assert "22:00" not in command_of(late, resume=True), "a driver that died at 23:00 must not wait for tomorrow"
    assert command_of(["run", "a.yaml", "--start-at=22:00"], resume=True) == ["run", "a.yaml", "--resume"]


def test_drivers_are_started_again_until_one_is_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands: list[list[str]] = []
    endings = iter([Ending(code=-9, progressed=True), Ending(code=1, progressed=True), Ending(code=0)])

    def run(command: list[str], progress: object, before: object) -> Ending:
        commands.append(command[3:])
        return next(endings)

    monkeypatch.setattr(supervise, "_run", run)
    assert keep_running(["run", "a.yaml", "--supervise"], lambda: 0) == 0
    assert commands == [["run", "a.yaml"], ["run", "a.yaml", "--resume"], ["run", "a.yaml", "--resume"]]
    assert "the driver was ended by signal 9; it starts again and goes on where it was" in capsys.readouterr().err


def test_drivers_that_get_nowhere_are_given_up_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "_run", lambda *_: Ending(code=1))
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


def test_sigterm_reaches_the_driver_once_and_nothing_starts_again(tmp_path: Path) -> None:
    """The driver here is a script that counts the signals it gets."""
    script = tmp_path / "tune_jobs_stand_in.py"
    script.write_text(
        "import signal, sys, time\n"
        "got = []\n"
        "signal.signal(signal.SIGTERM, lambda *_: got.append(1))\n"
        "print('ready', flush=True)\n"
        "ends = time.time() + 20\n"
        "while not got and time.time() < ends: time.sleep(0.02)\n"
        "time.sleep(0.5)\n"
        "print('signals', len(got), flush=True)\n"
        "sys.exit(1)\n"
    )
    program = (
        "import sys; from tune_jobs.jobs import supervise\n"
        f"supervise.command_of = lambda *_, **__: None\n"
        f"real = supervise._run\n"
        f"supervise._run = lambda command, *rest: real([sys.executable, {str(script)!r}], *rest)\n"
        "supervise.command_of = lambda arguments, resume: []\n"
        "sys.exit(supervise.keep_running([], lambda: 0))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert out == "signals 1\n"
    assert "starts again" not in err
