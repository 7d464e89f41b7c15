"""An address that leads nowhere, a wrong token, a cluster of another Ray: one message each, exit code 2, soon."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from cluster.machines.connection import check_head
from tests.cluster.machine import OUTER, ROOT, Machine, missing
from tuning_common.errors import RequestError

REASON = missing()
SWEEP = ROOT / "tune_jobs" / "sweeps" / "sample.yaml"
ADDRESS = f"{OUTER.partition('/')[0]}:6379"
HEAD = """
import sys, ray
ray.__version__ = sys.argv[1]
from ray.scripts.scripts import cli
cli(["start", "--head", "--port=6379", "--num-cpus=1", "--include-dashboard=false", "--node-ip-address=192.0.2.77"])
"""


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(50)
        yield listener.getsockname()[1]


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_port_where_nothing_listens_is_refused_at_once(closed_port: int) -> None:
    with pytest.raises(RequestError, match=f"no cluster answers at 127.0.0.1:{closed_port}: Connection refused"):
        check_head(f"127.0.0.1:{closed_port}")


def test_a_port_that_never_answers_is_given_up(silent_port: int) -> None:
    with pytest.raises(RequestError, match=f"no cluster answers at 127.0.0.1:{silent_port}: no answer in 0.5 s"):
        check_head(f"127.0.0.1:{silent_port}", answer_s=0.5)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("head", "'head' is not a cluster's address; write IP:PORT of its head, or auto"),
        ("ray://10.0.0.1:10001", "ray://10.0.0.1:10001: Ray's client protocol cannot run sweeps"),
    ],
)
def test_what_is_no_address_of_a_head_is_refused_with_what_would_be(address: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        check_head(address)


@pytest.mark.parametrize(
    "command",
    [
        ["cluster", "gpus"],
        ["cluster", "check"],
        ["tune_jobs", "team"],
        ["tune_jobs", "run", str(SWEEP)],
        ["tune_jobs", "check", str(SWEEP)],
    ],
    ids=" ".join,
)
def test_every_command_that_connects_ends_with_one_message(command: list[str], silent_port: int) -> None:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", *command],
        env=os.environ | {"RAY_ADDRESS": f"127.0.0.1:{silent_port}"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert f"no cluster answers at 127.0.0.1:{silent_port}: no answer in 8 s" in done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - began < 60, "Ray by itself takes two minutes"


@pytest.fixture
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    made = Machine(tmp_path_factory.mktemp("m"))
    tokens = made.home / ".ray"
    tokens.mkdir()
    (tokens / "auth_token").write_text("a" * 64)
    yield made
    made.stop()


def refused(machine: Machine, address: str, **environment: str) -> str:
    done = machine.python("-m", "cluster", "gpus", RAY_ADDRESS=address, **environment)
    assert done.returncode == 2, done.stdout
    assert "Traceback" not in done.stdout
    return str(done.stdout)


def started(machine: Machine, version: str) -> None:
    done = machine.python("-c", HEAD, version)
    assert done.returncode == 0, done.stdout


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.skipif(bool(REASON), reason=REASON)
def test_a_wrong_token_and_a_head_that_died_are_named(machine: Machine) -> None:
    import ray

    assert "no cluster of this user runs on this machine" in refused(machine, "auto")
    started(machine, ray.__version__)
    assert f"cannot connect to the cluster at {ADDRESS}: it refuses this process's token" in refused(
        machine, ADDRESS, RAY_AUTH_TOKEN="b" * 64
    )
    assert machine.python("-m", "cluster", "gpus", RAY_ADDRESS="auto").returncode == 0
    machine.run("bash", "-c", "kill -9 $(pgrep gcs_server)")
    assert f"no cluster answers at {ADDRESS}" in refused(machine, "auto")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.skipif(bool(REASON), reason=REASON)
def test_a_cluster_of_another_ray_is_named_with_both_versions(machine: Machine) -> None:
    started(machine, "2.59.1")
    said = refused(machine, ADDRESS)
    assert "Version mismatch: The cluster was started with: Ray: 2.59.1" in said
    assert "was started with: Ray: 2.60.0" in said
