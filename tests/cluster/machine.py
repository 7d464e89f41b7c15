"""A machine for one test file: network, processes and Ray's folder of its own, so that fixed ports may be used.

Everything in it ends with it. Needs root (or the rights of one) and iproute2's and util-linux' programs.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cluster.machines.ray_folder import private_root
from tests.waiting import LIMIT_S, wait_until

ROOT = Path(__file__).resolve().parents[2]
OUTER = "192.0.2.77/24"
UNSHARE = ("unshare", "-n", "-p", "-m", "--fork", "--kill-child", "--mount-proc")


def missing(*programs: str) -> str:
    """Says why machines cannot be made here; empty where they can."""
    absent = [name for name in ("unshare", "nsenter", "ip", *programs) if shutil.which(name, path=_path()) is None]
    if absent:
        return f"needs {', '.join(absent)} (Debian: util-linux iproute2 openssh-server rsync)"
    tried = subprocess.run([*UNSHARE, "ip", "link", "set", "lo", "up"], capture_output=True, text=True)
    return "" if tried.returncode == 0 else f"needs root for name spaces: {tried.stderr.strip()}"


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


class Machine:
    """One machine.

    Args:
        folder: For its home and Ray's files; the path must be short, as sockets lie below it.
    """

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.home.mkdir(parents=True)
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "WANDB_", "TUNE_"))
        } | {
            "PATH": f"{Path(sys.executable).parent}:{_path()}",
            "HOME": str(self.home),
            "OMP_NUM_THREADS": "1",
            "RAY_AUTH_MODE": "token",
        }
        ready = folder / "ready"  # the first process stays a shell: it must take in what others leave behind
        # An outer address and a way to it, as on any machine that is not alone: Ray would listen there.
        inside = "ip link set lo up; ip link add out0 type veth peer name out1; ip link set out1 up; "
        inside += f"ip addr add {OUTER} dev out0; ip link set out0 up; ip route add default dev out0; "
        private = private_root({})
        inside += f"mkdir -p -m 700 {private}; mount -t tmpfs -o mode=700 tmpfs {private}; "
        inside += "mkdir -p /tmp/ray; mount -t tmpfs tmpfs /tmp/ray; "  # of a plain `ray start`
        inside += f"touch {ready}; while :; do sleep 1; done"
        self._process = subprocess.Popen([*UNSHARE, "bash", "-ec", inside], env=self.environment)
        wait_until(ready.exists, "the machine starts")
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        self._pid = children.split()[0]

    def start(self, command: Sequence[str], *, cwd: Path = ROOT, **environment: str) -> "subprocess.Popen[str]":
        """Starts a command on the machine."""
        return subprocess.Popen(
            ["nsenter", "-t", self._pid, "-n", "-p", "-m", f"--wdns={cwd}", *command],
            env=self.environment | environment,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(
        self, *command: str, cwd: Path = ROOT, timeout_s: float = LIMIT_S, **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        """Runs a command on the machine; its standard output and error come together."""
        process = self.start(command, cwd=cwd, **environment)
        try:
            out, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            out, _ = process.communicate()
            raise AssertionError(f"{command} has not ended in {timeout_s:g} s: {out}") from None
        return subprocess.CompletedProcess(command, process.returncode, out, "")

    def sockets_beyond_loopback(self) -> list[str]:
        """Lists the addresses at which something listens for other machines."""
        local = [line.split()[3] for line in self.run("ss", "-Hltn").stdout.split("\n") if line]
        hosts = {address: address.rpartition(":")[0].strip("[]").removeprefix("::ffff:") for address in local}
        return [address for address, host in hosts.items() if host not in ("127.0.0.1", "::1")]

    def python(self, *arguments: str, **options: object) -> "subprocess.CompletedProcess[str]":
        """Runs this environment's Python on the machine."""
        return self.run(sys.executable, *arguments, **options)  # type: ignore[arg-type]

    def stop(self) -> None:
        """Ends everything on the machine."""
        self._process.kill()
        self._process.wait()
