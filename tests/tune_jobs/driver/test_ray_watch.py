"""A driver ends when a raylet of its own Ray is lost, and never because the session is over."""

import threading

import pytest

from tune_jobs.driver import ray_watch
from tune_jobs.driver.ray_watch import end_without


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_watch, "_POLL_S", 0.01)
    monkeypatch.setattr(ray_watch, "GRACE_S", 0.01)


def test_a_lost_node_is_followed_by_a_stop_and_then_by_the_end() -> None:
    asked, ended = threading.Event(), threading.Event()
    alive = [["a", "b"], ["a", "b"], ["b"]]
    with end_without(["a", "b"], lambda: alive.pop(0), asked.set, ended.set):
        assert asked.wait(60)
        assert ended.wait(60)


def test_nodes_that_end_with_the_session_end_nothing() -> None:
    looked, closed, asked = threading.Event(), threading.Event(), threading.Event()

    def alive() -> list[str]:
        looked.set()
        closed.wait(60)  # the answer comes when the session is over already
        return []

    with end_without(["a"], alive, asked.set, asked.set):
        assert looked.wait(60)
    closed.set()
    assert not asked.wait(0.2)
