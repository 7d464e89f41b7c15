"""A machine starts its raylets: no token, no start; wrong arguments are all named at once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.__main__ import main
from cluster.machines.tokens import make_token, token_path, token_problem
from tuning_common.errors import RequestError

ROOT = Path(__file__).resolve().parents[2]


def command(home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.run(
        [sys.executable, "-m", "cluster", *arguments],
        cwd=ROOT,
        env=environment | {"HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture
def home(tmp_path: Path) -> Path:
    make_token(token_path({}, tmp_path))
    return tmp_path


def test_a_token_is_long_random_and_its_owners_only(tmp_path: Path) -> None:
    first, second = tmp_path / "a" / "auth_token", tmp_path / "b" / "auth_token"
    make_token(first)
    make_token(second)
    assert first.stat().st_mode & 0o777 == 0o600
    assert first.parent.stat().st_mode & 0o777 == 0o700
    assert len(first.read_text()) == 64
    assert first.read_text() != second.read_text()
    assert token_problem({"RAY_AUTH_TOKEN_PATH": str(first)}, tmp_path) is None


def test_a_token_in_use_is_not_replaced(home: Path) -> None:
    before = token_path({}, home).read_text()
    with pytest.raises(RequestError, match="would lock out every machine"):
        make_token(token_path({}, home))
    assert token_path({}, home).read_text() == before


def test_the_command_for_a_token_may_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    path = token_path({}, tmp_path)
    assert main(["token"]) == 0
    first = path.read_text()
    assert main(["token"]) == 0
    assert path.read_text() == first
    assert f"{path} is there already and stays" in capsys.readouterr().out
    path.chmod(0o644)
    with pytest.raises(RequestError, match="others may read it"):
        main(["token"])


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
def test_a_token_that_others_can_reach_is_refused_with_the_remedy(home: Path, mode: int) -> None:
    path = token_path({}, home)
    path.chmod(mode)
    problem = token_problem({}, home)
    assert problem == f"{path}: others may read it (mode {mode:o}); chmod 600 {path}"


def test_a_token_that_anybody_would_guess_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.touch(0o600)
    path.write_text("secret\n")
    for environment in ({"RAY_AUTH_TOKEN_PATH": str(path)}, {"RAY_AUTH_TOKEN": "secret"}):
        problem = token_problem(environment, tmp_path)
        assert problem is not None
        assert "6 characters are too few" in problem
        assert "secret" not in problem


def test_a_token_in_the_environment_comes_before_any_file_as_in_ray(home: Path) -> None:
    token_path({}, home).chmod(0o644)
    assert token_problem({"RAY_AUTH_TOKEN": "a" * 64}, home) is None


def test_nothing_starts_without_a_token_unless_asked_for_by_name(tmp_path: Path) -> None:
    arguments = ("start", "--address", "127.0.0.1", "--simulate", "1x24GiB", "--dry-run")
    refused = command(tmp_path, *arguments)
    assert refused.returncode == 2
    assert "no token; make one with `python -m cluster token`" in refused.stderr
    assert command(tmp_path, "token").returncode == 0
    allowed = command(tmp_path, *arguments)
    assert allowed.returncode == 0, allowed.stderr
    assert allowed.stdout.startswith("RAY_AUTH_MODE=token ")
    assert token_path({}, tmp_path).read_text() not in allowed.stdout + allowed.stderr
    token_path({}, tmp_path).unlink()
    by_name = command(tmp_path, *arguments, "--no-token")
    assert by_name.returncode == 0
    assert by_name.stdout.startswith("RAY_AUTH_MODE=disabled ")


def test_every_problem_is_named_at_once(tmp_path: Path) -> None:
    refused = command(tmp_path, "start", "--address", "head:99999", "--ip", "x", "--state-dir", "s")
    assert refused.returncode == 2
    for part in ("--state-dir is the head's", "--address must be", "--ip must be", "no token"):
        assert part in refused.stderr
    assert "4 problems" in refused.stderr.split("\n")[0]


def test_a_head_without_a_place_for_its_state_is_refused(home: Path) -> None:
    refused = command(home, "start", "--head", "--ip", "10.0.0.1", "--dry-run")
    assert refused.returncode == 2
    assert "--head needs --state-dir" in refused.stderr


def test_a_machine_finds_its_own_address_towards_the_head(home: Path) -> None:
    shown = command(home, "start", "--address", "127.0.0.9:7000", "--simulate", "2x24GiB", "--dry-run")
    (line,) = shown.stdout.splitlines()
    assert " --address=127.0.0.9:7000 --node-ip-address=127.0.0.1 " in line


def test_a_machine_starts_a_raylet_for_each_gpu_model(home: Path) -> None:
    arguments = ("--address", "192.0.2.1:7000", "--ip", "192.0.2.2", "--simulate", "2x24GiB,1x80GiB", "--dry-run")
    lines = command(home, "start", *arguments).stdout.splitlines()
    assert len(lines) == 2
    assert all(" --address=192.0.2.1:7000 --node-ip-address=192.0.2.2 " in line for line in lines)
    assert "--num-gpus=2" in lines[0]
    assert "gpu-model=simulated-80GiB" in lines[1]


def test_the_head_gets_absolute_paths_because_the_raylets_work_elsewhere(home: Path) -> None:
    arguments = ("start", "--head", "--ip", "10.0.0.1", "--state-dir", "~/state", "--autoscaling-config", "~/a.yaml")
    shown = command(home, *arguments, "--dry-run")
    assert f"RAY_gcs_storage_path={home}/state" in shown.stdout
    assert f"--autoscaling-config={home}/a.yaml" in shown.stdout
    assert not (home / "state").exists()
