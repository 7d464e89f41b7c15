"""An embedded Ray leaves no secret open to others of the machine."""

from pathlib import Path

from cluster.tokens import token_problem
from tune_jobs.running.ray_session import own_token


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
