"""An embedded Ray leaves no secret open to others of the machine; SIGTERM ends a sweep cleanly."""

import os
import signal
from pathlib import Path

from cluster.tokens import token_problem
from tune_jobs.running.ray_session import clean_stop, own_token


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


def test_the_first_sigterm_asks_and_no_later_one_ends_the_process() -> None:
    def own(number: int, frame: object) -> None:
        raise AssertionError("this would end the process before it says how to go on")

    asked: list[str] = []
    before = signal.signal(signal.SIGTERM, own)
    try:
        with clean_stop(lambda: asked.append("outer")):
            with clean_stop(lambda: asked.append("inner")):
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked == ["inner"]
        signal.signal(signal.SIGTERM, own)
        with clean_stop(lambda: asked.append("never")):
            pass
        assert signal.getsignal(signal.SIGTERM) is own, "nobody asked: all is as it was"
    finally:
        signal.signal(signal.SIGTERM, before)
