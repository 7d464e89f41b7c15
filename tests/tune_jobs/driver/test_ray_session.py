"""An embedded Ray leaves no secret open to others of the machine."""

import sys
from pathlib import Path

import pytest

from cluster.machines.tokens import token_problem
from tests.cluster.machine import Machine, missing
from tests.waiting import ended, wait_until
from tune_jobs.driver.ray_session import own_token

REASON = missing("ss")


def test_the_token_of_an_embedded_ray_is_its_owners_only(tmp_path: Path) -> None:
    own_token({}, tmp_path)
    path = tmp_path / ".ray" / "auth_token"
    assert token_problem(path) is None
    before = path.read_text()
    own_token({}, tmp_path)
    assert path.read_text() == before
    own_token({"RAY_AUTH_TOKEN": "x"}, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_home_that_cannot_be_written_stops_no_sweep(tmp_path: Path) -> None:
    (tmp_path / ".ray").write_text("a file where the folder would be")
    own_token({}, tmp_path)


SESSION = """
import sys, time, pathlib
from cluster.machines.loopback import prefer_loopback
prefer_loopback()
from cluster.machines.hardware import parse_simulated
from tune_jobs.driver.ray_session import session
import ray
with session(parse_simulated(sys.argv[1])):
    @ray.remote(num_cpus=0)
    def where(): return ray.util.get_node_ip_address()
    pathlib.Path(sys.argv[2]).write_text(ray.get(where.remote()))
    while pathlib.Path(sys.argv[2]).exists(): time.sleep(0.1)
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.skipif(bool(REASON), reason=REASON)
@pytest.mark.parametrize("cards", ["1x24GiB", "1x24GiB,1x40GiB"])
def test_an_embedded_ray_listens_to_its_own_machine_only_and_bears_its_address(
    cards: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    machine = Machine(tmp_path_factory.mktemp("m"))
    try:
        address = machine.home / "address"
        driver = machine.start([sys.executable, "-c", SESSION, cards, str(address)])

        def runs() -> None:
            assert driver.poll() is None, driver.communicate()[0]

        wait_until(lambda: address.exists() and address.read_text(), "Ray has run something", alive=runs)
        assert machine.sockets_beyond_loopback() == []
        assert address.read_text() == "127.0.0.1", "as in the sweep's record of its cards"
        address.unlink()
        output, _ = ended(driver)
        assert driver.returncode == 0, output
    finally:
        machine.stop()
