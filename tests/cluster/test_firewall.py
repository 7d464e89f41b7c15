"""Every port that a cluster opens beyond loopback stands in the firewall line of the manual."""

import re
from collections.abc import Callable, Iterator

import pytest

from tests.cluster.machine import OUTER, ROOT, Machine, missing
from tests.waiting import wait_until

REASON = missing("ss")
AGENTS = {6379, 8265, 8090, 44217, 44227, 52365}


def closed_ports() -> set[int]:
    """The ports of the line `nft add rule ... tcp dport { ... } drop` in docs/cluster.md."""
    (listed,) = re.findall(r"nft add rule [^\n]* tcp dport \{([^}]*)\} drop", (ROOT / "docs/cluster.md").read_text())
    ends = [part.split("-") for part in listed.replace(" ", "").split(",")]
    return {port for end in ends for port in range(int(end[0]), int(end[-1]) + 1)}


pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.skipif(bool(REASON), reason=REASON)]
Head = Callable[[str, str], Machine]


@pytest.fixture
def start_head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """Starts the head of a cluster on a machine of its own, at an address and with simulated cards."""
    machine = Machine(tmp_path_factory.mktemp("m"))

    def start(ip: str, cards: str) -> Machine:
        assert machine.python("-m", "cluster", "token").returncode == 0
        arguments = ("start", "--head", "--ip", ip, "--state-dir", str(machine.home / "state"), "--simulate", cards)
        started = machine.python("-m", "cluster", *arguments)
        assert started.returncode == 0, started.stdout
        wait_until(lambda: listening(machine) >= AGENTS, "the agents of the head listen")
        return machine

    yield start
    machine.stop()


def listening(machine: Machine) -> set[int]:
    """The ports at which something listens, at whatever address."""
    sockets = machine.run("ss", "-Hltn").stdout.splitlines()
    return {int(line.split()[3].rpartition(":")[2]) for line in sockets}


def test_the_manual_names_every_open_port(start_head: Head) -> None:
    machine = start_head(OUTER.partition("/")[0], "1x24GiB,1x40GiB")
    opened = {int(address.rpartition(":")[2]) for address in machine.sockets_beyond_loopback()}
    assert opened >= {6379, 44217, 44227}
    assert opened - closed_ports() == set()


def test_nothing_of_a_cluster_on_one_machine_listens_beyond_loopback(start_head: Head) -> None:
    assert start_head("127.0.0.1", "2x24GiB").sockets_beyond_loopback() == []
