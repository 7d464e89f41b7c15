"""`ray up`, `exec`, `attach` and `down` on the shipped ray_cluster.yaml: three machines with SSH servers, one run.

The machines are name spaces (hosts.py). Their cards are simulated, which is the only change to the file. A sweep that
somebody submitted from a laptop outlives `kill -9` of the head.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict, cast

import pytest

from tests.cluster.machine import ROOT, UNSHARE, missing

REASON = missing("sshd", "ssh", "ssh-keygen", "rsync", "script", "ss", "curl")
pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.skipif(bool(REASON), reason=REASON),
]


class Step(TypedDict):
    """What came of one command."""

    code: int
    seconds: float
    output: str


@pytest.fixture(scope="module")
def steps() -> Iterator[dict[str, Step]]:
    folder = Path(tempfile.mkdtemp(prefix="r"))  # a short path: sockets lie below it
    text = (ROOT / "ray_cluster.yaml").read_text(encoding="utf-8")
    assert text.count("python -m cluster start") == 2
    shown = text.replace("python -m cluster start", "python -m cluster start --simulate $(cat ~/cards)")
    cluster = ROOT / ".ray_cluster_of_a_test.yaml"  # beside the real one, as it names files by their relative paths
    try:
        cluster.write_text(shown, encoding="utf-8")
        run = folder / "f"
        run.mkdir()
        command = [*UNSHARE, sys.executable, "tests/cluster/hosts.py", str(run), str(cluster)]
        done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        yield cast("dict[str, Step]", json.loads((run / "steps.json").read_text()))
    finally:
        cluster.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


def test_up_exec_attach_and_down_end_well(steps: dict[str, Step]) -> None:
    for name in ("up", "exec", "attach", "up again", "down"):
        assert steps[name]["code"] == 0, steps[name]["output"]
    assert "will not be started" not in steps["up"]["output"]
    assert "ATTACHED 10.0.0.1" in steps["attach"]["output"]


def test_every_machine_has_a_raylet_for_each_model_with_its_labels(steps: dict[str, Step]) -> None:
    told = next(line for line in steps["exec"]["output"].splitlines() if line.startswith("NODES "))
    assert sorted(json.loads(told.removeprefix("NODES "))) == [
        ["10.0.0.1", 1.0, "simulated-24GiB"],
        ["10.0.0.2", 1.0, "simulated-24GiB"],
        ["10.0.0.2", 1.0, "simulated-80GiB"],
        ["10.0.0.3", 1.0, "simulated-24GiB"],
    ]


def test_token_spilling_and_metrics_are_set_on_every_machine(steps: dict[str, Step]) -> None:
    for index in range(3):
        assert steps[f"token{index}"]["output"].strip() == "600"
        assert int(steps[f"spill{index}"]["output"]) >= 1
    for name in ("10.0.0.2:8090", "10.0.0.2:8091", "10.0.0.3:8090"):
        assert int(steps[f"metrics {name}"]["output"]) > 20


def test_the_dashboard_stays_on_loopback_and_nobody_enters_without_the_token(steps: dict[str, Step]) -> None:
    sockets = steps["sockets"]["output"].split()
    assert [socket for socket in sockets if socket.endswith(":8265")] == ["127.0.0.1:8265"]
    assert steps["without token"]["output"].strip().endswith("401")
    assert steps["with token"]["output"].strip().endswith("200")


def test_state_outlives_kill_9_of_the_head(steps: dict[str, Step]) -> None:
    assert "COUNTER 1" in steps["counter"]["output"], steps["counter"]["output"]
    assert "COUNTER 2" in steps["counter again"]["output"], steps["counter again"]["output"]


def test_a_submitted_sweep_outlives_kill_9_of_the_head(steps: dict[str, Step]) -> None:
    said = steps["sweep"]["output"]
    assert steps["sweep"]["code"] == 0, said
    assert "ann-kept was lost with its machine" in said
    assert "it is submitted again" in said
    assert "ann-kept-2 succeeded" in said
    trials = [json.loads(line) for line in steps["ledger"]["output"].splitlines()]
    ended = {trial["trial_id"]: trial for trial in trials if trial["event"] == "trial"}
    assert [trial["status"] for trial in ended.values()] == ["finished", "finished"]
    assert all([row["iteration"] for row in trial["history"]] == list(range(1, 21)) for trial in ended.values())


def test_after_down_and_the_line_for_the_workers_nothing_is_left(steps: dict[str, Step]) -> None:
    assert [steps[f"left{index}"]["output"].strip() for index in range(3)] == ["0", "0", "0"]
