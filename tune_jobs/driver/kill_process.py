"""Ends a process of a trial that hangs, on whichever node it runs."""

import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import ray


def kill_process(attempt: Mapping[str, object]) -> None:
    """Sends SIGKILL to the process of an attempt by a task that is pinned to its node; does not wait for it.

    A process that is stopped (SIGSTOP) or hangs in a system call answers no message, so Ray cannot end it.

    Args:
        attempt: `raylet` and `pid` as its process reported them; without these nothing is done.
    """
    if "raylet" not in attempt or "pid" not in attempt:
        return
    task = ray.remote(num_cpus=0, max_retries=0)(_kill)
    task.options(label_selector={"ray.io/node-id": str(attempt["raylet"])}).remote(int(str(attempt["pid"])))


def _kill(pid: int) -> None:
    """Kills a process if it is a worker of Ray: its number may belong to another one by now."""
    with suppress(OSError):
        title = Path(f"/proc/{pid}/cmdline").read_bytes()
        if title.startswith(b"ray::"):
            os.kill(pid, signal.SIGKILL)
