"""Three machines on one: each a network, process and mount name space with an SSH server, joined by a bridge.

Run as a program inside `unshare -n -p -m`, so that everything ends with it: brings up the cluster of a `ray up` file,
uses it as a person would, takes it down, and writes what came of each step to a JSON file.
"""

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

ADDRESSES = ("10.0.0.1", "10.0.0.2", "10.0.0.3")  # those of ray_cluster.yaml
CARDS = ("1x24GiB", "1x24GiB,1x80GiB", "1x24GiB")  # simulated, of each machine
USER = "ubuntu"
UNSHARE = ("unshare", "-p", "-m", "--fork", "--kill-child", "--mount-proc")
RAYLETS = 4
JOURNAL = Path("/mnt/dialogue-summarizers/outputs/sweep_results/kept/journal.jsonl")
SWEEP = """
name: kept
method: grid
parameters:
  learning_rate: {values: [1e-3, 1e-2]}
  batch_size: {value: 8}
  num_epochs: {value: 20}
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
NODES = """
import json, ray, time
ray.init(address="auto", log_to_driver=False)
ends = time.monotonic() + 300
while sum(node["Alive"] for node in ray.nodes()) < RAYLETS and time.monotonic() < ends: time.sleep(0.5)
print("NODES " + json.dumps([[n["NodeManagerAddress"], n["Resources"].get("GPU"), n["Labels"].get("gpu-model")]
                             for n in ray.nodes() if n["Alive"]]))
"""
COUNTER = """
import ray, sys
ray.init(address="auto", namespace="kept", log_to_driver=False)
@ray.remote(num_cpus=0, max_restarts=-1)
class Counter:
    def __init__(self): self.value = 0
    def up(self): self.value += 1; return self.value
if sys.argv[1] == "make":
    where = {"scheduling_strategy": ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        [n for n in ray.nodes() if n["NodeManagerAddress"] != "10.0.0.1"][0]["NodeID"], soft=False)}
    actor = Counter.options(name="counter", lifetime="detached", **where).remote()
else:
    actor = ray.get_actor("counter")
print("COUNTER", ray.get(actor.up.remote(), timeout=300))
"""


class Steps:
    """Runs commands and keeps what they said."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment
        self.done: dict[str, dict[str, object]] = {}

    def run(self, name: str, command: str, *, timeout_s: float = 400) -> str:
        """Runs a shell command; its standard output and error come together."""
        began = time.monotonic()
        log = self.folder / f"{name}.log"
        with log.open("w") as stream:
            code = subprocess.run(
                ["timeout", str(timeout_s), "bash", "-c", command],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
            ).returncode
        output = log.read_text(encoding="utf-8", errors="replace")
        self.done[name] = {"code": code, "seconds": round(time.monotonic() - began, 1), "output": output}
        (self.folder / "steps.json").write_text(json.dumps(self.done, indent=1))
        return output


def plain(command: str) -> None:
    """Runs a command that must not fail."""
    subprocess.run(["bash", "-ec", command], check=True, stdin=subprocess.DEVNULL)


def be_user(path: Path, line: str) -> None:
    """Writes a file of users in which this process's user id has another name or home."""
    path.write_text(line + "\n" + Path("/etc/passwd").read_text(encoding="utf-8"), encoding="utf-8")


def make_hosts(folder: Path, python: str) -> None:
    """Starts the machines. A name space hides nothing of the disk; only homes and temporary folders are a machine's."""
    plain("mount -t tmpfs tmpfs /run; mkdir -p /run/sshd /run/netns; ip link set lo up")
    plain("mount -t tmpfs tmpfs /mnt; mkdir /mnt/dialogue-summarizers")  # the storage that all of them share
    plain("ip link add br0 type bridge; ip addr add 10.0.0.254/24 dev br0; ip link set br0 up")
    be_user(folder / "passwd", f"root:x:0:0::{folder}/home:/bin/bash")  # ssh asks this file for ~, not the environment
    plain(f"mount --bind {folder}/passwd /etc/passwd")
    keys = folder / "home" / ".ssh"
    keys.mkdir(mode=0o700, parents=True)
    plain(f"ssh-keygen -q -t ed25519 -N '' -f {keys}/id_ed25519; ssh-keygen -q -t ed25519 -N '' -f {folder}/host_key")
    for index, address in enumerate(ADDRESSES):
        host = folder / f"h{index}"
        (host / "home" / "dialogue-summarizers").mkdir(parents=True)
        # The environment is there already: the set-up commands find every pinned package in it, without a network.
        (host / "home" / "dialogue-summarizers" / ".venv").symlink_to(Path(python).parent.parent)
        (host / "home" / "cards").write_text(CARDS[index])
        be_user(host / "passwd", f"{USER}:x:0:0::{host}/home:/bin/bash")
        (host / "sshd_config").write_text(
            f"Port 22\nListenAddress {address}\nHostKey {folder}/host_key\n"
            f"AuthorizedKeysFile {keys}/id_ed25519.pub\nPermitRootLogin yes\nStrictModes no\nUsePAM no\nPidFile none\n"
            f"SetEnv RAY_TMPDIR={folder}/t PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1\n",
            encoding="utf-8",
        )
        plain(
            f"ip netns add h{index}; ip link add v{index} type veth peer name eth0 netns h{index}; "
            f"ip link set v{index} master br0 up; ip netns exec h{index} bash -ec "
            f"'ip link set lo up; ip addr add {address}/24 dev eth0; ip link set eth0 up'"
        )
        inside = (
            f"mount --bind {host}/passwd /etc/passwd; mkdir -p {folder}/t; "
            f"mount -t tmpfs -o mode=700 tmpfs {folder}/t; "
            f"mount -t tmpfs tmpfs /dev/shm; exec /usr/sbin/sshd -D -e -f {host}/sshd_config"
        )
        subprocess.Popen(
            ["ip", "netns", "exec", f"h{index}", *UNSHARE, "bash", "-ec", inside],
            stdin=subprocess.DEVNULL,
            stdout=(host / "sshd.log").open("w"),
            stderr=subprocess.STDOUT,
        )


def ssh(folder: Path, address: str, command: str) -> str:
    """Writes the command that runs another on one of the machines."""
    options = f"-i {folder}/home/.ssh/id_ed25519 -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -q"
    return f"ssh {options} {USER}@{address} {shlex.quote(command)}"


def use(steps: Steps, folder: Path, cluster: str) -> None:
    """Brings the cluster up, uses it, and takes it down."""
    ray = f"{Path(sys.executable).parent}/ray"
    for _ in range(500):
        if all("up" in steps.run("ssh", ssh(folder, address, "echo up")) for address in ADDRESSES):
            break
        time.sleep(0.2)
    steps.run("up", f"{ray} up -y --no-config-cache {cluster}")
    (folder / "h0" / "home" / "nodes.py").write_text(NODES.replace("RAYLETS", str(RAYLETS)))
    (folder / "h0" / "home" / "counter.py").write_text(COUNTER)
    execute = f"{ray} exec --no-config-cache {cluster}"
    steps.run("exec", f"{execute} 'python nodes.py'")  # it waits until all have come
    for index, address in enumerate(ADDRESSES):
        steps.run(f"token{index}", ssh(folder, address, "stat -c %a ~/.ray/auth_token"))
        steps.run(f"spill{index}", ssh(folder, address, "ps -ww -e -o args= | grep -c '[d]ialogue-summarizers/spill'"))
    steps.run("sockets", ssh(folder, ADDRESSES[0], "ss -Hltn | awk '{print $4}'"))
    for address, port in ((ADDRESSES[1], 8090), (ADDRESSES[1], 8091), (ADDRESSES[2], 8090)):
        steps.run(f"metrics {address}:{port}", f"curl -s http://{address}:{port}/metrics | grep -c '^ray_'")
    attach = shlex.quote(f"{ray} attach --no-config-cache {cluster}")
    # Typed once a second until a shell takes it: commands that come before that shell may read it, too.
    typed = "(for n in $(seq 300); do echo 'echo ATTACHED $(hostname -I); exit'; sleep 1; done)"
    steps.run("attach", f"{typed} | timeout 300 script -qec {attach} /dev/null")
    asked = "curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:8265/api/jobs/"
    steps.run("without token", ssh(folder, ADDRESSES[0], asked))
    bearer = '-H "Authorization: Bearer $(cat ~/.ray/auth_token)"'
    steps.run("with token", ssh(folder, ADDRESSES[0], asked.replace("curl", f"curl {bearer}", 1)))
    steps.run("counter", f"{execute} 'python counter.py make'")
    submitted = submit(folder, steps.environment)
    restart_head(steps, folder, f"{ray} up -y --no-config-cache --restart-only {cluster}")
    steps.run("counter again", f"{execute} 'python counter.py find'")
    finish(steps, submitted)
    steps.run("down", f"{ray} down -y {cluster}")
    steps.run("stop workers", workers_stop(folder))
    for index, address in enumerate(ADDRESSES):
        steps.run(f"left{index}", ssh(folder, address, "ps -e -o comm= | grep -cE 'raylet|gcs_server' || true"))


def submit(folder: Path, environment: dict[str, str]) -> "subprocess.Popen[str]":
    """Sends a sweep through an SSH tunnel, as from a laptop, and waits until the storage has two checkpoints."""
    options = f"-i {folder}/home/.ssh/id_ed25519 -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -q"
    tunnel = f"ssh {options} -N -L 8265:127.0.0.1:8265 {USER}@{ADDRESSES[0]}"
    subprocess.Popen(shlex.split(tunnel), stdin=subprocess.DEVNULL, env=environment)
    desk = folder / "desk"
    desk.mkdir()
    (desk / "kept.yaml").write_text(SWEEP)
    command = [sys.executable, "-m", "tune_jobs", "submit", "kept.yaml", "--member", "ann", "--supervise"]
    process = subprocess.Popen(
        command,
        cwd=desk,
        env=environment | {"PYTHONPATH": os.getcwd()},
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=(folder / "sweep.log").open("w"),
        stderr=subprocess.STDOUT,
    )
    for _ in range(4000):
        if JOURNAL.exists() and JOURNAL.read_text().count('"saved"') >= 2:
            break
        if process.poll() is not None:
            break
        time.sleep(0.1)
    return process


def finish(steps: Steps, submitted: "subprocess.Popen[str]") -> None:
    """Waits for the sweep and keeps what it said and left."""
    began = time.monotonic()
    try:
        code = submitted.wait(timeout=400)
    except subprocess.TimeoutExpired:
        submitted.kill()
        code = -1
    said = (steps.folder / "sweep.log").read_text()
    steps.done["sweep"] = {"code": code, "seconds": round(time.monotonic() - began, 1), "output": said}
    steps.run("journal", f"cat {JOURNAL}")
    steps.run("ledger", f"cat {JOURNAL.with_name('all_results.jsonl')}")


def restart_head(steps: Steps, folder: Path, up: str) -> None:
    """Kills the head, as a power cut would, and brings it up again."""
    kill = "kill -9 $(ps -e -o pid=,comm= | awk '/gcs_server|raylet/ {print $1}')"
    steps.run("kill head", ssh(folder, ADDRESSES[0], kill))
    steps.run("up again", up)


def workers_stop(folder: Path) -> str:
    """The line that ray_cluster.yaml gives for the workers, with this test's key."""
    return "; ".join(ssh(folder, address, 'bash -ic "ray stop"') for address in ADDRESSES[1:])


def main(folder: Path, cluster: str) -> None:
    """Does everything; `folder` is empty and its path short, as Ray's sockets lie below it."""
    make_hosts(folder, sys.executable)
    home = folder / "home"
    outside = {name: value for name, value in os.environ.items() if name != "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"}
    environment = {**outside, "HOME": str(home), "RAY_AUTH_MODE": "token", "RAY_TMPDIR": str(folder / "c")}
    plain(f"HOME={home} {sys.executable} -m cluster token")
    use(Steps(folder, environment), folder, cluster)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
