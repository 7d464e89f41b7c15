"""A cluster that others started, without labels of ours and with a head that runs no trials, runs a sweep by shares.

As KubeRay starts it: plain `ray start`, the token in the environment.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.machine import OUTER, Machine, missing
from tuning_common.files import read_jsonl

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing())]
IP = OUTER.partition("/")[0]
SWEEP = """
name: plain
method: grid
parameters:
  learning_rate: {values: [1e-3, 1e-2, 3e-2]}
  batch_size: {value: 8}
  num_epochs: {value: 2}
  max_train_samples: {value: 32}
  max_eval_samples: {value: 4}
  decoder_max_len: {value: 16}
  encoder_max_len: {value: 64}
  tiny_hidden_size: {value: 16}
  tiny_layers: {value: 1}
  tiny_vocab_size: {value: 400}
early_terminate: {type: none}
resources: {cpus_per_trial: 0.5, share: 0.5}
tracking: {wandb: disabled}
"""


@pytest.fixture
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    made = Machine(tmp_path_factory.mktemp("m"))
    made.environment["RAY_AUTH_TOKEN"] = "a" * 64
    yield made
    made.stop()


def test_a_plain_cluster_runs_a_sweep_by_shares(machine: Machine, tmp_path: Path) -> None:
    here = ["ray", "start", f"--node-ip-address={IP}"]
    head = ["--head", "--port=6379", "--num-cpus=0", "--include-dashboard=false"]
    for start in (head, [f"--address={IP}:6379", "--num-cpus=4", "--num-gpus=2"]):
        started = machine.run(*here, *start)
        assert started.returncode == 0, started.stdout
    (tmp_path / "plain.yaml").write_text(SWEEP)
    output = tmp_path / "outputs"
    command = ["-m", "tune_jobs", "run", str(tmp_path / "plain.yaml"), "--output", str(output)]
    done = machine.python(*command, RAY_ADDRESS="auto")
    assert done.returncode == 0, done.stdout
    assert "2 x simulated-24GiB (simulated)" in done.stdout
    assert "they are simulated with 24.0 GiB each" in done.stdout
    folder = output / "sweep_results" / "plain"
    trials = [row for row in read_jsonl(folder / "all_results.jsonl")[0] if row.get("status") == "finished"]
    assert len(trials) == 3
    checked = machine.python("-m", "cluster", "check", "--address", f"{IP}:6379", "--format", "json")
    assert [one["status"] for one in json.loads(checked.stdout)["checks"] if one["name"] == "token"] == ["ok"]
    status = json.loads(machine.python("-m", "tune_jobs", "team", "--format", "json", RAY_ADDRESS="auto").stdout)
    assert (status["capacity_gpus"], status["free_gpus"], status["held"], status["waiting"]) == (2, 2, [], [])
