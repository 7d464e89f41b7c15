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
    watch(lambda: next(parents), lambda: told.append("asked"), lambda: told.append("ended"), told.append)
    assert told == [1.0, 1.0, "asked", GRACE_S, "ended"]


def test_an_orphan_of_a_submitted_job_gets_sigterm(tmp_path: Path) -> None:
    said = tmp_path / "said"
    child = (
        "import os, signal, time, pathlib; from tune_jobs.running.orphan import end_with_job\n"
        f"said = pathlib.Path({str(said)!r})\n"
        "signal.signal(signal.SIGTERM, lambda *_: (said.write_text('asked'), os._exit(0)))\n"
        "end_with_job({'RAY_JOB_CONFIG_JSON_ENV_VAR': '{}'}); said.write_text('ready'); time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        ["/bin/sh", "-c", f'{sys.executable} -c "$CHILD" & wait'],
        env=os.environ | {"PYTHONPATH": str(ROOT), "CHILD": child},
    )
    ends = time.monotonic() + 20
    while not (said.exists() and said.read_text() == "ready"):
        assert time.monotonic() < ends
        time.sleep(0.05)
    time.sleep(0.2)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    while said.read_text() != "asked":
        assert time.monotonic() < ends
        time.sleep(0.05)
