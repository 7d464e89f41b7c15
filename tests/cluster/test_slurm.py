"""The recipe for Slurm: each call, by stubs; and a sweep on two "nodes", by a srun that runs them on this machine."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.machine import OUTER, Machine, missing
from tests.waiting import wait_until
from tuning_common.files import read_jsonl

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "cluster" / "slurm" / "tune.sbatch"
NAMES = "#!/bin/bash\nprintf '%s\\n' ${3//,/ }\n"  # scontrol show hostnames a,b
STUBS = {
    "scontrol": NAMES,
    "srun": 'trap "echo srun TERM >> calls; exit" TERM\narguments="$*"\n'
    'echo "srun ${arguments%% bash -c *} ${arguments##* node }" >> calls\n[ -z "$HEAD_FAILS" ] || exit 1\n'
    "while :; do sleep 0.1; done\n",
    "python": 'echo "python $*" >> calls\ncase "$*" in\n'
    '  "-m cluster token") [ ! -e "$RAY_AUTH_TOKEN_PATH" ] && touch "$RAY_AUTH_TOKEN_PATH";;\n'
    '  "-c "*) [ -z "$HEAD_FAILS" ];;\n'
    '  *) until [ "$(grep -c "^srun --" calls)" = "$STEPS" ]; do sleep 0.1; done\n'
    '     echo "address $RAY_ADDRESS" >> calls; [ -z "$WAITS" ] && exit 3\n'
    '     trap "echo saved >> calls; exit 4" TERM; while :; do sleep 0.1; done;;\nesac\n',
}


def start(folder: Path, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
    """Starts the recipe as Slurm's batch shell does, with stubs in place of Slurm's programs and Python."""
    programs = folder / "bin"
    programs.mkdir()
    for name, text in STUBS.items():
        (programs / name).write_text(text if text.startswith("#!") else f"#!/bin/bash\n{text}")
        (programs / name).chmod(0o755)
    slurm = {"SLURM_JOB_ID": "4321", "SLURM_JOB_NODELIST": "a,b,c", "SLURM_CPUS_PER_TASK": "16", "HEAD_IP": "10.0.0.7"}
    slurm["STEPS"] = "2"  # calls of srun for which the driver waits, as they run beside it
    (folder / ".ray").mkdir()
    (folder / ".ray" / "slurm-4321").touch()  # the job was killed and queued again
    inherited = {"PATH": f"{programs}:/usr/bin:/bin", "HOME": str(folder)}
    return subprocess.Popen(
        ["bash", str(RECIPE), *arguments],
        cwd=folder, env=inherited | slurm | environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def calls(folder: Path) -> list[str]:
    path = folder / "calls"
    return path.read_text().splitlines() if path.exists() else []


def sruns(folder: Path) -> list[str]:
    return sorted(call for call in calls(folder) if call.startswith("srun --"))


def test_shellcheck_finds_nothing() -> None:
    program = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([program, RECIPE], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_a_job_starts_ray_runs_the_sweep_and_ends_all_with_its_exit_code(tmp_path: Path) -> None:
    job = start(tmp_path, "my sweep.yaml", "--resume")
    out, _ = job.communicate(timeout=300)
    assert job.returncode == 3, out
    head, others = sruns(tmp_path)
    port = 20000 + 321 * 10
    assert head.startswith(f"srun --nodes=1 --ntasks=1 --nodelist=a --head --port={port} ")
    assert f"--ray-client-server-port={port + 1} --dashboard-port={port + 2} --dashboard-host=127.0.0.1" in head
    assert others == f"srun --nodes=2 --ntasks=2 --exclude=a --address=10.0.0.7:{port}"
    made = calls(tmp_path)
    assert made[0] == "python -m cluster token"
    assert made.index("python -m tune_jobs run my sweep.yaml --resume") < made.index(f"address 10.0.0.7:{port}")
    assert made[-2:] == ["srun TERM", "srun TERM"]
    assert not (tmp_path / ".ray" / "slurm-4321").exists()


def test_a_job_on_one_node_has_no_other_step(tmp_path: Path) -> None:
    start(tmp_path, "s.yaml", SLURM_JOB_NODELIST="a", STEPS="1").communicate(timeout=300)
    assert len(sruns(tmp_path)) == 1


def test_near_the_time_limit_the_sweep_is_asked_to_save(tmp_path: Path) -> None:
    job = start(tmp_path, "s.yaml", WAITS="1")
    wait_until(lambda: any(one.startswith("address") for one in calls(tmp_path)), "the driver starts")
    job.send_signal(signal.SIGTERM)
    assert job.communicate(timeout=300)[0] == ""
    assert job.returncode == 4
    assert "saved" in calls(tmp_path)
    assert calls(tmp_path)[-2:] == ["srun TERM", "srun TERM"]


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "told"),
    [
        ([], {}, 2, "no sweep file"),
        (["s.yaml"], {"HEAD_IP": "127.0.1.1"}, 2, "a has the address '127.0.1.1' for itself"),
        (["s.yaml"], {"HEAD_FAILS": "1"}, 1, "the head of Ray has ended"),
    ],
)
def test_what_cannot_work_ends_with_the_reason(
    tmp_path: Path, arguments: list[str], environment: dict[str, str], code: int, told: str
) -> None:
    job = start(tmp_path, *arguments, **environment)
    assert told in job.communicate(timeout=300)[0]
    assert job.returncode == code
    assert not (tmp_path / ".ray" / "slurm-4321").exists() or code == 2


SRUN = """#!/bin/bash
# Runs a step's tasks on this machine: one for each of --ntasks, each with the variables of a node.
while [[ "$1" == --* ]]; do
  case "$1" in --ntasks=*) tasks="${1#*=}";; esac
  shift
done
for ((task = 0; task < tasks; task++)); do
  SLURM_PROCID=$task SLURM_CPUS_ON_NODE=2 SLURM_GPUS_ON_NODE=1 "$@" &
done
trap 'kill $(jobs -p); wait; exit' TERM
wait
"""
SWEEP = """
name: nodes
method: grid
parameters:
  learning_rate: {values: [1e-3, 1e-2]}
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
resources: {cpus_per_trial: 0.5, share: 1.0}
tracking: {wandb: disabled}
"""


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path / "m")
    yield made
    made.stop()


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.skipif(bool(missing()), reason=missing())
def test_a_sweep_uses_both_nodes_of_a_job_and_leaves_nothing_behind(machine: Machine, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {"scontrol": NAMES, "srun": SRUN}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    (tmp_path / "s.yaml").write_text(SWEEP)
    done = machine.run(
        "bash", str(RECIPE), str(tmp_path / "s.yaml"), "--output", str(tmp_path / "outputs"),
        PATH=f"{programs}:{machine.environment['PATH']}", SLURM_JOB_ID="77", SLURM_JOB_NODELIST="a,b",
        SLURM_CPUS_PER_TASK="2", SLURM_MEM_PER_NODE="4096", HEAD_IP=OUTER.partition("/")[0], PYTHONPATH=os.fspath(ROOT),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "2 x simulated-24GiB (simulated)" in done.stdout
    rows = read_jsonl(tmp_path / "outputs" / "sweep_results" / "nodes" / "all_results.jsonl")[0]
    assert [row["status"] for row in rows if "status" in row] == ["finished", "finished"]
    wait_until(lambda: "ray" not in machine.run("ps", "-eo", "comm=").stdout, "what Ray started has ended")
    assert list((machine.home / ".ray").iterdir()) == []
    assert not list(Path("/tmp").glob("ray-??????/ray"))
