"""Every port that a cluster opens beyond loopback stands in the firewall line of the manual."""

import re
import time

import pytest

from tests.cluster.machine import OUTER, ROOT, Machine, missing

REASON = missing("ss")


def closed_ports() -> set[int]:
    """The ports of the line `nft add rule ... tcp dport { ... } drop` in docs/cluster.md."""
    (listed,) = re.findall(r"nft add rule [^\n]* tcp dport \{([^}]*)\} drop", (ROOT / "docs/cluster.md").read_text())
    ends = [part.split("-") for part in listed.replace(" ", "").split(",")]
    return {port for end in ends for port in range(int(end[0]), int(end[-1]) + 1)}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.skipif(bool(REASON), reason=REASON)
def test_the_manual_names_every_open_port(tmp_path_factory: pytest.TempPathFactory) -> None:
    machine = Machine(tmp_path_factory.mktemp("m"))
    try:
        assert machine.python("-m", "cluster", "token").returncode == 0
        state = str(machine.home / "state")
        ip = OUTER.partition("/")[0]
        arguments = ("start", "--head", "--ip", ip, "--state-dir", state, "--simulate", "1x24GiB,1x40GiB")
        started = machine.python("-m", "cluster", *arguments)
        assert started.returncode == 0, started.stdout
        time.sleep(5)  # its agents open theirs after the start has returned
        opened = {int(address.rpartition(":")[2]) for address in machine.sockets_beyond_loopback()}
    finally:
        machine.stop()
    assert {6379, 44217, 44227} <= opened
    assert opened - closed_ports() == set()
