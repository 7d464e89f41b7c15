"""Ray's files are their owner's: no other user of the machine enters, exchanges or redirects them."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.machines.ray_folder import ROOM_BYTES, own_address, private_ray, private_root, ray_folder, restore_umask
from tuning_common.errors import RequestError, WorkError

ROOT = Path(__file__).resolve().parents[2]
NEIGHBOUR = 12345  # a user id
EMBEDDED = """
import os, sys, ray
from pathlib import Path
from cluster.machines.inventory import this_machine
from tune_jobs.driver.ray_session import session

@ray.remote(num_cpus=1)
def masks():
    from cluster.machines.ray_folder import restore_umask
    before = os.umask(0o777)
    restore_umask()
    return f"{before:o} {os.umask(0o777):o}"

os.umask(0o027)
with session(this_machine(sys.argv[1]).inventory):
    context = ray.get_runtime_context()
    folder = Path(context.get_temp_dir())
    print("folder", folder)
    print("session", (folder / "session_latest").resolve())
    print("masks", ray.get(masks.remote()), f"{os.umask(0o022):o}")
"""


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder that everybody may use, as /tmp is; short, as sockets lie below it."""
    folder = Path(tempfile.mkdtemp(prefix="o", dir="/tmp"))
    folder.chmod(0o1777)
    for name in ("RAY_TMPDIR", "TUNE_JOBS_UMASK"):
        monkeypatch.setenv(name, str(folder))
    monkeypatch.delenv("TUNE_JOBS_UMASK")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_ray_starts_below_a_folder_of_mode_700_and_with_a_umask_of_its_own(temporary: Path) -> None:
    before = os.umask(0o022)
    try:
        with private_ray():
            assert os.environ["RAY_TMPDIR"] == str(temporary / f"ray-{os.geteuid()}")
            (temporary / "probe").write_text("")
            restore_umask()
            (temporary / "result").write_text("")
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
    assert (temporary / f"ray-{os.geteuid()}").stat().st_mode & 0o777 == 0o700
    assert [(temporary / name).stat().st_mode & 0o777 for name in ("probe", "result")] == [0o600, 0o644]
    assert private_root(os.environ) == temporary / f"ray-{os.geteuid()}", "the same in a process that Ray starts"


@pytest.mark.parametrize("mode", [0o777, 0o755])
def test_a_folder_that_a_neighbour_made_open_is_refused_with_the_remedy(temporary: Path, mode: int) -> None:
    (temporary / f"ray-{os.geteuid()}").mkdir()
    (temporary / f"ray-{os.geteuid()}").chmod(mode)
    with pytest.raises(RequestError, match=r"could run code as you\n.*export RAY_TMPDIR="), private_ray():
        pass


def test_a_full_disk_is_named_before_ray_starts(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.machines.ray_folder.free_bytes", lambda folder: ROOM_BYTES - 1)
    refusal = rf"{temporary}/ray-{os.geteuid()}: only 16.0 MiB are left for Ray's files; .* export RAY_TMPDIR=DIR"
    with pytest.raises(WorkError, match=refusal), private_ray():
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_an_address_that_a_neighbour_left_is_not_taken(temporary: Path) -> None:
    (temporary / "ray").mkdir()
    (temporary / "ray").chmod(0o777)
    address = temporary / "ray" / "ray_current_cluster"
    address.write_text("127.0.0.9:6379")
    assert own_address() == "127.0.0.9:6379"
    os.chown(address, NEIGHBOUR, NEIGHBOUR)
    assert own_address() is None
    with private_ray():
        ray_folder(os.environ).mkdir()
        (ray_folder(os.environ) / "ray_current_cluster").write_text("127.0.0.8:6379")
    assert own_address() == "127.0.0.8:6379"


@pytest.mark.ray
@pytest.mark.parametrize("cards", ["1x24GiB", "1x24GiB,1x40GiB"], ids=["one raylet", "two raylets"])
def test_an_embedded_ray_keeps_its_files_to_their_owner(temporary: Path, cards: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EMBEDDED, cards],
        cwd=ROOT,
        env=os.environ | {"RAY_AUTH_MODE": "token", "HOME": str(temporary)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    told = dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)
    own = temporary / f"ray-{os.geteuid()}"
    assert told["folder"] == str(own / "ray")
    assert own.stat().st_mode & 0o777 == 0o700
    assert told["masks"] == "77 27 27", "Ray's processes have 077, trials and the driver the person's own"
    files = [path for path in Path(told["session"]).rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if path.stat().st_mode & 0o077] == []


@pytest.mark.ray
def test_the_sockets_have_room_below_the_usual_folder() -> None:
    longest = "session_2026-11-30_12-00-00_123456_4194304/sockets/plasma_store.12"
    assert len(str(Path("/tmp/ray-4294967294/ray/raylet9") / longest)) <= 107  # of sockaddr_un on Linux
