"""Waiting for conditions. A limit only guards against waiting for ever: no test may depend on a quick machine."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

LIMIT_S = 300.0
_SHOWN = 6000  # characters of what is known, from its end


def wait_until(
    condition: Callable[[], object],
    what: str,
    *,
    alive: Callable[[], object] = lambda: None,
    known: Callable[[], str] = lambda: "",
    every_s: float = 0.1,
    limit_s: float = LIMIT_S,
) -> None:
    """Waits for a condition.

    Args:
        condition: True in the end.
        what: In words, for the failure.
        alive: Fails when it need not be waited for any longer, with the reason.
        known: What is known when the limit passes: logs, a journal, a status.
        every_s: Between two looks.
        limit_s: Generous.
    """
    ends = time.monotonic() + limit_s
    while not condition():
        alive()
        if time.monotonic() >= ends:
            load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
            raise AssertionError(f"not within {limit_s:g} s: {what} (load {load})\n{known()[-_SHOWN:]}")
        time.sleep(every_s)


def stretched(limit_s: float, *, quiet_s: float, took_s: float) -> float:
    """A limit of a quiet machine, as much longer as this one was slower at something like it a moment ago.

    Args:
        limit_s: Where nothing else runs; never less than that.
        quiet_s: What the other thing takes there.
        took_s: What it took now.
    """
    return limit_s * max(1.0, took_s / quiet_s)


def ended(process: "subprocess.Popen[str]", limit_s: float = LIMIT_S) -> tuple[str, str]:
    """Waits for a process and returns what it wrote to its pipes; one that does not end is killed, and the test fails.

    Returns:
        Standard output and standard error.
    """
    try:
        out, err = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"{process.args!r} has not ended in {limit_s:g} s:\n{out or ''}\n{err or ''}") from None
    return out or "", err or ""


def tail(path: Path, lines: int = 40) -> str:
    """The last lines of a file, for a failure."""
    if not path.exists():
        return f"{path} does not exist"
    return f"{path}:\n" + "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
