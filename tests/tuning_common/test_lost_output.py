"""A command whose reader or terminal is gone, or whose output fills the disk, goes on; Ctrl-C shows no traceback."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

from tests.waiting import ended

ROOT = Path(__file__).resolve().parents[2]
WRITER = """
import sys
from tuning_common import cli

def main(arguments):
    cli.outlast_readers()
    sys.stdin.readline()  # until the reader is gone
    for number in range(1000):
        cli.note(f"{number} " + "x" * 100)
        cli.emit("y" * 100)
    open(arguments[0], "w").write("whole")
    return 0

sys.exit(cli.run(main))
"""


def writer(folder: Path, output: "int | IO[bytes]") -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder / "done")],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=output,
    )


@pytest.mark.parametrize("encoding", ["ascii", "cp949"])
def test_hangul_ends_nothing_where_the_output_cannot_show_it(encoding: str) -> None:
    script = (
        "import sys; from tuning_common import cli; "
        "cli.outlast_readers() if sys.argv[1] == 'outlast' else None; "
        "sys.exit(cli.run(lambda _: cli.emit('요약 😀') or cli.emit_json({'이름': '😀'}) or 0))"
    )
    for how in ("outlast", "plain"):
        done = subprocess.run(
            [sys.executable, "-c", script, how],
            env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding},
            capture_output=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, b"")
        shown, _, document = done.stdout.decode(encoding).partition("\n")
        assert shown in (r"요약 \U0001f600", r"\uc694\uc57d \U0001f600")
        assert json.loads(document) == {"이름": "😀"}


def test_a_reader_that_is_gone_ends_nothing(tmp_path: Path) -> None:
    reader, writing = os.pipe()
    process = writer(tmp_path, writing)
    os.close(writing)
    os.close(reader)
    process.communicate("\n")
    assert (process.returncode, (tmp_path / "done").read_text()) == (0, "whole")


def test_a_terminal_that_is_gone_ends_nothing(tmp_path: Path) -> None:
    near, far = os.openpty()
    process = writer(tmp_path, far)
    os.close(far)
    os.close(near)
    process.communicate("\n")
    assert (process.returncode, (tmp_path / "done").read_text()) == (0, "whole")


def test_output_to_a_full_disk_ends_nothing(tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        process = writer(tmp_path, full)
    process.communicate("\n")
    assert (process.returncode, (tmp_path / "done").read_text()) == (0, "whole")


def test_output_that_somebody_reads_is_whole(tmp_path: Path) -> None:
    process = writer(tmp_path, subprocess.PIPE)
    out, err = process.communicate("\n")
    assert out == ("y" * 100 + "\n") * 1000
    assert err.splitlines() == [f"{number} " + "x" * 100 for number in range(1000)]


def test_ctrl_c_before_anything_runs_shows_no_traceback() -> None:
    waits = "import sys, time; from tuning_common import cli\n"
    waits += "def main(arguments): print('ready', flush=True); time.sleep(300)\nsys.exit(cli.run(main))"
    process = subprocess.Popen(
        [sys.executable, "-c", waits],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore Ctrl-C
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, err = ended(process)
    assert (process.returncode, err) == (130, "interrupted\n")
