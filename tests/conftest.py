"""Settings that every test shares, and one Ray for the tests that ask for it."""

import gc
import logging
import os
import random
import shutil
import signal
import sys
import tempfile

import pytest
from hypothesis import HealthCheck, settings

from cluster.machines.loopback import SINGLE_MACHINE
from tests.rays import start_ray

os.environ[SINGLE_MACHINE] = "0"  # before Ray is imported: what tests start stays on the loopback

settings.register_profile(
    "house", derandomize=True, deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("house")

_SHARED = "ray_cluster"
_is_shared_up = False
_own_folder = ""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds `--random-order-seed`: what depends on the order of the tests shows."""
    parser.addoption("--random-order-seed", metavar="N", help="shuffles the files, and the tests of each file")


def pytest_configure(config: pytest.Config) -> None:
    """Gives each of several test processes a folder for Ray of its own, so that no cluster finds another one's.

    Signals that a closed terminal sends have their usual meaning again.
    """
    global _own_folder
    for number in (signal.SIGHUP, signal.SIGQUIT):  # ignored where `nohup` or a script in the background started us
        signal.signal(number, signal.SIG_DFL)
    if "PYTEST_XDIST_WORKER" in os.environ:
        _own_folder = os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="r", dir="/tmp")  # short: sockets lie in it


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Puts the tests that share a Ray last: a process has one, and tests with a Ray of their own end it again."""
    seed = config.getoption("--random-order-seed")
    if seed is not None:
        items.sort(
            key=lambda item: [random.Random(f"{seed} {name}").random() for name in (item.path.name, item.nodeid)]
        )
    items.sort(key=lambda item: _SHARED in getattr(item, "fixturenames", ()))


def pytest_collection_finish() -> None:
    """Leaves out of every later garbage collection what was imported; each would look at millions of objects."""
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Ends the shared Ray before a test that did not ask for it."""
    if _SHARED not in getattr(item, "fixturenames", ()):
        _end_shared_ray()


def pytest_sessionfinish() -> None:
    """Leaves nothing behind."""
    _end_shared_ray()
    if _own_folder:
        shutil.rmtree(_own_folder, ignore_errors=True)


@pytest.fixture(scope="module")
def ray_cluster() -> None:
    """Four logical cores and two simulated cards on one node of GPU model "simulated-24GiB".

    It stays for the files after this one, until a test comes that did not ask for it.
    """
    global _is_shared_up
    if not _is_shared_up:
        start_ray(
            num_cpus=4,
            num_gpus=2,
            labels={"gpu-model": "simulated-24GiB"},
            logging_level=logging.ERROR,
            object_store_memory=200 * 2**20,
            _node_ip_address="127.0.0.1",
        )
        _is_shared_up = True


def _end_shared_ray() -> None:
    global _is_shared_up
    if _is_shared_up:
        sys.modules["ray"].shutdown()
        _is_shared_up = False
