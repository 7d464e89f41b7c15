"""Two processes that share a run, without torchrun's own start: forked from one that has imported torch already."""

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from dialsum.ranks import MEETING_FILE

LIMIT_S = 300
_FORKED = multiprocessing.get_context("forkserver")
_FORKED.set_forkserver_preload(["dialsum.trainer"])


def run_together(folder: Path, work: Callable[..., None], *arguments: object, is_cut: bool = False) -> None:
    """Calls a function in two processes that stand in a folder.

    Args:
        folder: The folder.
        work: A function of a module.
        arguments: What it is called with.
        is_cut: Whether the first process ends early by itself; then the second one is ended.
    """
    both = [_FORKED.Process(target=_one, args=(rank, folder, work, arguments)) for rank in (0, 1)]
    try:
        for process in both:
            process.start()
        for process in both[:1] if is_cut else both:
            process.join(LIMIT_S)
            said = [(folder / f"rank_{rank}.txt").read_text(encoding="utf-8")[-4000:] for rank in (0, 1)]
            assert process.exitcode == 0, said
    finally:
        for process in both:
            process.kill()
            process.join()
        (folder / "meeting").unlink(missing_ok=True)


def _one(rank: int, folder: Path, work: Callable[..., None], arguments: tuple[object, ...]) -> None:
    os.chdir(folder)
    sys.stdout = sys.stderr = (folder / f"rank_{rank}.txt").open("w", encoding="utf-8", buffering=1)
    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0", MEETING_FILE: str(folder / "meeting"),
        "MASTER_ADDR": "127.0.0.1", "LOCAL_WORLD_SIZE": "1", "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip
    try:
        work(*arguments)
    except Exception:
        traceback.print_exc()
        sys.exit(1)
