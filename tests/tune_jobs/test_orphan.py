"""What a job started ends with it, also when its main thread waits for ever."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.waiting import wait_until
from tune_jobs.driver.orphan import GRACE_S, watch

ROOT = Path(__file__).resolve().parents[2]


def test_it_is_asked_first_and_ended_after_the_grace() -> None:
    told: list[object] = []
    parents = iter([7, 7, 7, 1])
    watch(
        lambda: next(parents),
        ask=lambda: told.append("asked"),
        end=lambda: told.append("ended"),
        sleep=told.append,
    )
    assert told == [1.0, 1.0, "asked", GRACE_S, "ended"]


def test_while_its_supervisor_is_there_a_stopped_job_has_the_time_that_it_was_given() -> None:
    told: list[object] = []
    parents, kept = iter([7, 1]), iter([True] * 60 + [False])
    watch(
        lambda: next(parents),
        lambda: next(kept),
        lambda: told.append("asked"),
        lambda: told.append("ended"),
        told.append,
    )
    assert told == [1.0] * 60 + ["asked", GRACE_S, "ended"], "the supervisor's minute is not cut short"


CHILD = """
import os, pathlib, signal, sys, time
from tune_jobs.driver import orphan
said, looks = map(pathlib.Path, sys.argv[1:])
signal.signal(signal.SIGTERM, lambda *_: (said.write_text("asked"), os._exit(0)))
orphan.end_with_job({"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"})
look = orphan._process  # from here on: whether the supervisor is there, asked after the parent's end
orphan._process = lambda number: (looks.open("a").write("."), look(number))[1]
said.write_text("ready")
time.sleep(600)
"""
SUPERVISOR = """
import pathlib, subprocess, sys, time
shell = subprocess.Popen(["/bin/sh", "-c", '"$0" -c "$@" & wait', *sys.argv[2:]])
pathlib.Path(sys.argv[1]).write_text(str(shell.pid))
time.sleep(600)
"""


def text_of(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_a_submitted_driver_outlives_its_shell_but_not_its_supervisor(tmp_path: Path) -> None:
    shell, said, looks = (tmp_path / name for name in ("shell", "said", "looks"))
    supervisor = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, str(shell), sys.executable, CHILD, str(said), str(looks)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    try:
        wait_until(
            lambda: text_of(shell) and text_of(said) == "ready", "the driver is ready", known=lambda: text_of(said)
        )
        os.kill(int(shell.read_text()), signal.SIGKILL)
        wait_until(
            lambda: text_of(said) != "ready" or len(text_of(looks)) >= 2, "it has looked after its supervisor twice"
        )
        assert said.read_text() == "ready"
    finally:
        supervisor.kill()
        supervisor.wait()
    wait_until(lambda: text_of(said) == "asked", "the driver is asked to end", known=lambda: text_of(said))
