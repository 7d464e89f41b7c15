"""What a driver survives on a real cluster: the loss of a node, and `ray job stop` under a real job server."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tune_jobs.tiny import write_tiny_grid
from tests.waiting import LIMIT_S, ended, stretched, tail, wait_until
from tune_jobs.records.ledger import SweepFolder
from tuning_common.files import read_jsonl

pytestmark = [pytest.mark.ray, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[3]
OPEN = {"RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def evaluations(journal: Path) -> dict[int, list[int]]:
    """The evaluations of each trial in the order in which they were reported."""
    found: dict[int, list[int]] = {}
    for event in read_jsonl(journal)[0]:
        if event["event"] == "reported":
            found.setdefault(int(str(event["number"])), []).append(int(str(event["evaluation"])))
    return found


def numbers(journal: Path, kind: str) -> list[int]:
    """The trial of each such event."""
    return [int(str(event["number"])) for event in read_jsonl(journal)[0] if event["event"] == kind]


def have_saved(journal: Path, times: int) -> bool:
    """Whether both trials have: they may start far apart on a slow machine."""
    saved = numbers(journal, "saved")
    return all(saved.count(number) >= times for number in (1, 2))


@pytest.fixture
def raylets() -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("raylets_process.py"))],
        env=os.environ | OPEN,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    yield process
    ended(process)  # the end of its input ends it


@pytest.mark.long
def test_trials_of_a_lost_node_go_on_elsewhere_from_their_checkpoints(
    tmp_path: Path, raylets: "subprocess.Popen[str]"
) -> None:
    assert raylets.stdin is not None
    assert raylets.stdout is not None
    address = raylets.stdout.readline().strip()
    write_tiny_grid(tmp_path / "small.yaml", epochs=16)
    driver = subprocess.Popen(
        [sys.executable, "-m", "tune_jobs", "run", "small.yaml", "--cpu-only"],
        cwd=tmp_path, env=os.environ | OPEN | {"RAY_ADDRESS": address}, text=True, stderr=subprocess.PIPE,
    )  # fmt: skip
    journal = tmp_path / "outputs/sweep_results/small/journal.jsonl"

    def alive() -> None:
        assert driver.poll() is None, driver.communicate()

    wait_until(lambda: have_saved(journal, 1), "two checkpoints", alive=alive, known=lambda: tail(journal))
    places = {
        int(str(event["number"])): str(event["metrics"]["trial/raylet"])  # type: ignore[index]
        for event in read_jsonl(journal)[0]
        if event["event"] == "reported"
    }
    assert places[1] != places[2], "one trial on each node"
    reported = evaluations(journal)
    lost = min(reported, key=lambda number: len(reported[number]))  # it has the longest way to go
    raylets.stdin.write(places[lost] + "\n")
    raylets.stdin.flush()
    assert raylets.stdout.readline() == "killed\n"
    _, said = ended(driver)
    assert driver.returncode == 0, said
    records = {int(one.trial_id): one for one in SweepFolder.of(tmp_path / "outputs", "small").load().trials}
    assert {number: record.status for number, record in records.items()} == {1: "finished", 2: "finished"}
    assert all([row["iteration"] for row in record.history] == list(range(1, 17)) for record in records.values())
    other = 3 - lost
    assert {number: record.retries for number, record in records.items()} == {lost: 1, other: 0}, said
    reported = evaluations(journal)
    assert reported[other] == list(range(1, 17)), "the other node's trial never noticed"
    assert len(reported[lost]) <= 17, "at most the evaluation that was on its way is made again"
    ledger = read_jsonl(SweepFolder.of(tmp_path / "outputs", "small").ledger)[0]
    assert sorted(str(line["trial_id"]) for line in ledger if line["event"] == "trial") == ["1", "2"]


# What `docker run --init` is: it takes in a driver whose shell ended before it. Else Ray would wait for that to vanish.
INIT = """
import ctypes, os, signal, subprocess, sys
assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER
process = subprocess.Popen(sys.argv[1:])
signal.signal(signal.SIGTERM, lambda *_: process.terminate())
while os.wait()[0] != process.pid: pass
"""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture
def job_server() -> Iterator[str]:
    """A head with a job server; stops give a driver 120 s, as `python -m cluster start` sets it."""
    port = free_port()
    # Of its own: whoever calls ray.init on this machine would else join it. Short: sockets lie in it.
    folder = tempfile.mkdtemp(prefix="rj", dir="/tmp")
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", INIT, str(Path(sys.executable).with_name("ray"))),
            *("start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={free_port()}"),
            *(f"--dashboard-port={port}", f"--dashboard-agent-listen-port={free_port()}"),
            *("--num-cpus=2", "--object-store-memory=100000000", "--disable-usage-stats"),
        ],
        env=os.environ | OPEN | {"RAY_JOB_STOP_WAIT_TIME_S": "120", "RAY_TMPDIR": folder},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(LIMIT_S)
    shutil.rmtree(folder, ignore_errors=True)


def test_ray_job_stop_is_a_clean_stop_and_resume_repeats_nothing(tmp_path: Path, job_server: str) -> None:
    from ray.job_submission import JobStatus, JobSubmissionClient

    folder = tmp_path / "job"
    folder.mkdir()
    tracking = f"wandb: disabled, output_dir: {tmp_path / 'outputs'}"
    write_tiny_grid(folder / "small.yaml", epochs=40, tracking=tracking)
    journal = tmp_path / "outputs/sweep_results/small/journal.jsonl"
    clients: list[JobSubmissionClient] = []

    def connected() -> bool:
        try:
            clients.append(JobSubmissionClient(job_server))
            clients[0].list_jobs()
        except (RuntimeError, ConnectionError):
            clients.clear()
        return bool(clients)

    wait_until(connected, "the job server answers")
    client = clients[0]

    def submit(*arguments: str) -> str:
        entrypoint = " ".join([sys.executable, "-m", "tune_jobs", "run", "small.yaml", "--cpu-only", *arguments])
        environment = {
            "working_dir": str(folder),
            "env_vars": {name: OPEN[name] for name in ("OMP_NUM_THREADS", "PYTHONPATH")},
        }
        return str(client.submit_job(entrypoint=entrypoint, runtime_env=environment))

    def is_over(job: str) -> bool:
        return bool(client.get_job_status(job).is_terminal())

    def alive(job: str) -> None:
        assert not is_over(job), client.get_job_logs(job)

    def known(job: str) -> str:
        return f"{client.get_job_status(job)}\n{tail(journal)}\n{client.get_job_logs(job)}"

    began = time.monotonic()
    first = submit()
    wait_until(
        lambda: have_saved(journal, 1),
        "two checkpoints",
        alive=lambda: alive(first),
        known=lambda: known(first),
        every_s=0.5,
    )
    asked = time.monotonic()
    client.stop_job(first)
    wait_until(lambda: "--resume" in client.get_job_logs(first) or is_over(first), "its last words", every_s=0.5)
    assert time.monotonic() - asked < stretched(30, quiet_s=30, took_s=asked - began), known(first)
    wait_until(lambda: is_over(first), "the job ends", known=lambda: known(first), every_s=0.5)
    said = client.get_job_logs(first)
    assert client.get_job_status(first) == JobStatus.STOPPED
    # Its last words: a driver that its supervisor had to kill would not have come to them.
    assert "resume with: python -m tune_jobs run small.yaml --cpu-only --resume" in said, known(first)
    assert "asked to stop: trials save a checkpoint at their next step and end" in said
    before = evaluations(journal)
    assert (numbers(journal, "ended"), sorted(numbers(journal, "paused"))) == ([], [1, 2]), said

    second = submit("--resume")
    wait_until(lambda: is_over(second), "the second job ends", known=lambda: known(second), every_s=0.5)
    assert client.get_job_status(second) == JobStatus.SUCCEEDED, client.get_job_logs(second)
    after = evaluations(journal)
    assert after == {1: list(range(1, 41)), 2: list(range(1, 41))}, f"nothing twice, nothing left out; before: {before}"
    records = SweepFolder.of(tmp_path / "outputs", "small").load().trials
    assert [record.status for record in records] == ["finished", "finished"]
