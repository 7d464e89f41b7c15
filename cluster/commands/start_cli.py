"""python -m cluster start: this machine becomes the head of a cluster, or joins one."""

import argparse
import ipaddress
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster.machines.loopback import LOOPBACK, SINGLE_MACHINE
from cluster.machines.ray_folder import private_ray, private_root
from cluster.machines.raylets import GCS_PORT, HeadOptions, Start, raylet_starts
from cluster.machines.tokens import token_problem
from tuning_common import cli
from tuning_common.errors import Problems, RequestError, WorkError
from tuning_common.files import private_folder

_START_S = 180.0
_ELSEWHERE = "192.0.2.1"  # reserved for documentation: a route is looked up, nothing is sent


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description = "Starts one raylet for each GPU model of this machine. Every machine needs the same token."
    parser.epilog = "example: python -m cluster start --address 10.0.0.1:6379"
    role = parser.add_mutually_exclusive_group(required=True)
    role.add_argument("--head", action="store_true", help="this machine keeps the cluster's state")
    role.add_argument("--address", metavar="IP[:PORT]", help="the head, for a machine that joins")
    parser.add_argument(
        "--ip", help="address of this machine in the cluster's network; the one towards the head by default"
    )
    parser.add_argument(
        "--state-dir",
        type=Path,
        metavar="DIR",
        help="head: a folder that survives, so that a new head finds its trials",
    )
    parser.add_argument("--autoscaling-config", metavar="FILE", help="head: given by `ray up`")
    parser.add_argument("--spill-dir", type=Path, metavar="DIR", help="where objects go that do not fit into memory")
    parser.add_argument(
        "--storage",
        type=Path,
        metavar="DIR",
        help="the folder that all machines share, at the same path; results of submitted sweeps go there",
    )
    parser.add_argument("--simulate", metavar="CARDS", help="simulated cards, for example 2x24GiB,1x80GiB")
    parser.add_argument(
        "--no-token", action="store_true", help="allow everyone who can reach this machine to run code on it"
    )
    parser.add_argument("--dry-run", action="store_true", help="show the commands and start nothing")
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Starts the raylets, one after another.

    Raises:
        RequestError: When the arguments do not fit together or there is no safe token.
        WorkError: When a raylet does not start.
    """
    _refuse(chosen)
    starts = _starts(chosen)
    for start in starts:
        cli.emit(start.shell())
        if not chosen.dry_run:
            _start(start, chosen)
    return 0


def own_ip(towards: str) -> str:
    """Returns the address from which this machine reaches another; nothing is sent.

    Raises:
        RequestError: When no route leads there.

    >>> own_ip("127.0.0.1")
    '127.0.0.1'
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((towards, 9))
        except OSError as error:
            raise RequestError(
                f"no route to {towards} ({error.strerror}); give this machine's address with --ip"
            ) from None
        return str(probe.getsockname()[0])


def _refuse(chosen: argparse.Namespace) -> None:
    problems = Problems()
    if chosen.head and chosen.state_dir is None:
        problems.add("--head needs --state-dir: a folder on a disk that survives the machine's restart")
    if chosen.address:
        for name in ("state_dir", "autoscaling_config"):
            if getattr(chosen, name) is not None:
                problems.add(f"--{name.replace('_', '-')} is the head's; leave it out with --address")
        host, port = _host_and_port(chosen.address)
        if not _is_address(host) or not (port.isdecimal() and 0 < int(port) < 2**16):
            problems.add(f"--address must be the head's IP[:PORT], but is {chosen.address!r}")
    if chosen.ip is not None and not _is_address(chosen.ip):
        problems.add(f"--ip must be an IPv4 address, but is {chosen.ip!r}")
    if chosen.storage is not None and not chosen.storage.expanduser().is_dir():
        problems.add(f"--storage {chosen.storage}: no such folder on this machine; is it mounted?")
    if not chosen.no_token:
        problem = token_problem(os.environ, Path.home())
        if problem is not None:
            problems.add(problem)
    problems.raise_if_any("python -m cluster start")


def _starts(chosen: argparse.Namespace) -> Sequence[Start]:
    from cluster.machines.inventory import this_machine

    survey = this_machine(chosen.simulate)
    for problem in survey.problems:
        cli.note(problem)
    head, address = None, None
    if chosen.head:
        config = chosen.autoscaling_config
        head = HeadOptions(
            state_dir=str(chosen.state_dir.expanduser().absolute()),
            autoscaling_config=None if config is None else str(Path(config).expanduser().absolute()),
        )
    else:
        address = ":".join(_host_and_port(chosen.address))
    ip = chosen.ip or own_ip(_ELSEWHERE if chosen.head else _host_and_port(chosen.address)[0])
    if ip == LOOPBACK and len(survey.inventory.nodes) > 1:
        models = ", ".join(pool.model for pool in survey.inventory.pools)
        raise RequestError(
            f"--ip {LOOPBACK}: this machine has cards of several models ({models}), which need a raylet each, and Ray"
            " starts one on the loopback; give the machine's address, or run sweeps without a cluster"
        )
    return raylet_starts(
        survey.inventory.nodes,
        ip=ip,
        head=head,
        head_address=address,
        spill_dir=None if chosen.spill_dir is None else str(_inner(chosen.spill_dir)),
        token=not chosen.no_token,
        temporary=str(private_root(os.environ)),
        storage=None if chosen.storage is None else str(chosen.storage.expanduser().absolute()),
    )


def _start(start: Start, chosen: argparse.Namespace) -> None:
    for folder in (chosen.state_dir, chosen.spill_dir):
        if folder is not None:  # submitted jobs' environments are part of the state: keys among them
            private_folder(folder.expanduser())
    if chosen.spill_dir is not None:
        _inner(chosen.spill_dir).mkdir(exist_ok=True)
    ray = Path(sys.executable).with_name("ray")
    if not ray.exists():
        raise WorkError(f"{ray} is missing; pip install -r requirements.txt")
    try:
        with private_ray():
            done = subprocess.run(
                [str(ray), *start.arguments],
                env={**_outside(os.environ), **start.environment, "PATH": _path(ray.parent)},
                timeout=_START_S,
                stdin=subprocess.DEVNULL,
                check=False,
            )
    except subprocess.TimeoutExpired:
        raise WorkError(f"no answer in {_START_S:g} s: {start.shell()}; is the head reachable from here?") from None
    if done.returncode:
        raise WorkError(f"exit code {done.returncode}: {start.shell()}")


def _inner(spill_dir: Path) -> Path:
    """Returns the folder that Ray spills to: Ray opens it to everybody (mode 777), so it lies in a private one."""
    return spill_dir.expanduser().absolute() / "ray"


def _outside(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment without the variable that binds Ray to the loopback; `start` sets it if needed."""
    return {name: value for name, value in environment.items() if name != SINGLE_MACHINE}


def _path(programs: Path) -> str:
    """Returns a PATH on which this environment's `python` comes first, because jobs run `python`."""
    return os.pathsep.join([str(programs), os.environ.get("PATH", os.defpath)])


def _host_and_port(text: str) -> tuple[str, str]:
    host, colon, port = text.partition(":")
    return host, port if colon else str(GCS_PORT)


def _is_address(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True
