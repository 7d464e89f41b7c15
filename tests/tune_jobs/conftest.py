"""One embedded Ray for all tests of this folder that need one."""

import logging
from collections.abc import Iterator

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the tests that share a Ray last: a process has one, and tests with a Ray of their own end it again."""
    items.sort(key=lambda item: "ray_cluster" in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Four logical cores and two logical cards on one node of GPU model "simulated-24GiB"."""
    ray = pytest.importorskip("ray")
    ray.init(
        num_cpus=4,
        num_gpus=2,
        labels={"gpu-model": "simulated-24GiB"},
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=200 * 2**20,
        _node_ip_address="127.0.0.1",
    )
    yield
    ray.shutdown()
