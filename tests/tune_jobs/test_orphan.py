"""What a job started ends with it, also when its main thread waits for ever."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tune_jobs.running.orphan import GRACE_S, watch

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
from tune_jobs.running.orphan import end_with_job
said = pathlib.Path(sys.argv[1])
signal.signal(signal.SIGTERM, lambda *_: (said.write_text("asked"), os._exit(0)))
end_with_job({"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"})
said.write_text("ready")
time.sleep(600)
"""
SUPERVISOR = """
import pathlib, subprocess, sys, time
shell = subprocess.Popen(["/bin/sh", "-c", '"$0" -c "$1" "$2" & wait', *sys.argv[2:]])
pathlib.Path(sys.argv[1]).write_text(str(shell.pid))
time.sleep(600)
"""


def test_a_submitted_driver_outlives_its_shell_but_not_its_supervisor(tmp_path: Path) -> None:
    said = tmp_path / "said"
    number = tmp_path / "shell"
    supervisor = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, str(number), sys.executable, CHILD, str(said)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )

    def wait_for(word: str) -> None:
        ends = time.monotonic() + 100
        while not (said.exists() and said.read_text() == word):
            assert time.monotonic() < ends, said.read_text() if said.exists() else "it said nothing"
            time.sleep(0.05)

    wait_for("ready")
    os.kill(int(number.read_text()), signal.SIGKILL)
    time.sleep(2.5)  # longer than two looks: it has seen that its parent is another one
    assert said.read_text() == "ready"
    supervisor.kill()
    supervisor.wait()
    wait_for("asked")
