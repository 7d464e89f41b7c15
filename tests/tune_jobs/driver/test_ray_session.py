"""An embedded Ray leaves no secret open to others of the machine."""

import argparse
import json
import sys
from pathlib import Path

import pytest

from cluster.machines.hardware import Inventory
from cluster.machines.tokens import token_problem
from tests.cluster.machine import Machine, missing
from tests.waiting import ended, wait_until
from tune_jobs.commands import run_cli
from tune_jobs.driver import ray_session
from tune_jobs.driver.ray_session import own_token
from tuning_common.errors import RequestError, WorkError

REASON = missing("ss")


def test_the_token_of_an_embedded_ray_is_its_owners_only(tmp_path: Path) -> None:
    own_token({}, tmp_path)
    path = tmp_path / ".ray" / "auth_token"
    assert token_problem({}, tmp_path) is None
    before = path.read_text()
    own_token({}, tmp_path)
    assert path.read_text() == before
    own_token({"RAY_AUTH_TOKEN": "x"}, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_home_that_cannot_be_written_stops_no_sweep(tmp_path: Path) -> None:
    (tmp_path / ".ray").write_text("a file where the folder would be")
    own_token({}, tmp_path)


def test_a_ray_that_does_not_start_ends_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray raises a plain Exception where a loaded machine is slower than its waits."""

    def start(*_: object, **__: object) -> None:
        raise Exception("The current node timed out during startup. This could happen\nbecause ...")

    monkeypatch.setattr(ray_session, "_start", start)
    with (
        pytest.raises(WorkError, match=r"Ray did not start here: The current node timed out during startup"),
        ray_session.session(Inventory(nodes=(), simulated=True)),
    ):
        pass


def test_a_dashboard_is_refused_where_a_cluster_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")
    parser = argparse.ArgumentParser()
    run_cli.add_arguments(parser)
    with pytest.raises(RequestError, match=r"RAY_ADDRESS names a cluster; it has a dashboard already"):
        run_cli.run(parser.parse_args(["small.yaml", "--dashboard"]))


SESSION = """
import json, sys, time, pathlib, urllib.error, urllib.request
from cluster.machines.loopback import prefer_loopback
prefer_loopback()
from cluster.machines.hardware import parse_simulated
from cluster.machines.tokens import token_path
from tune_jobs.driver.ray_session import session
import ray
def status(url, **headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
shown = []
with session(parse_simulated(sys.argv[1]), shown.append):
    @ray.remote(num_cpus=0)
    def where(): return ray.util.get_node_ip_address()
    url, token = shown[0].split()[2], token_path({}, pathlib.Path.home()).read_text()
    nodes = url + "/nodes?view=summary"
    pages = [status(url + "/"), status(nodes), status(nodes, Authorization="Bearer " + token)]
    told = {"address": ray.get(where.remote()), "shown": shown, "pages": pages, "secret": token in shown[0]}
    pathlib.Path(sys.argv[2] + ".new").write_text(json.dumps(told))
    pathlib.Path(sys.argv[2] + ".new").rename(sys.argv[2])
    while pathlib.Path(sys.argv[2]).exists(): time.sleep(0.1)
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.skipif(bool(REASON), reason=REASON)
@pytest.mark.parametrize("cards", ["1x24GiB", "1x24GiB,1x40GiB"])
def test_an_embedded_ray_and_its_dashboard_are_for_its_own_machine_and_its_owner_only(
    cards: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    machine = Machine(tmp_path_factory.mktemp("m"))
    try:
        told = machine.home / "told"
        driver = machine.start([sys.executable, "-c", SESSION, cards, str(told)])

        def runs() -> None:
            assert driver.poll() is None, driver.communicate()[0]

        wait_until(told.exists, "Ray has run something", alive=runs)
        assert machine.sockets_beyond_loopback() == []
        found = json.loads(told.read_text())
        assert found["address"] == "127.0.0.1", "as in the sweep's record of its cards"
        assert found["pages"] == [200, 401, 200], "the page, its data without a token, its data with the token"
        (line,) = found["shown"]
        assert line.startswith("Ray's dashboard: http://127.0.0.1:8265 (it asks for the token: what `cat ")
        assert not found["secret"]
        told.unlink()
        output, _ = ended(driver)
        assert driver.returncode == 0, output
    finally:
        machine.stop()
