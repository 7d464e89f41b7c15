"""A driver whose job is gone must go too: it would hold its sweep's folder, and wait for a Ray that is no more.

`ray stop` (also inside `ray up --restart-only`) ends a job's shell and its supervisor, and leaves what they started.
`ray job stop` ends the shell at once too, but then the supervisor is still there: it has sent the driver a
signal already, gives it RAY_JOB_STOP_WAIT_TIME_S and kills it then, so nothing is to be done here (Ray 2.60,
job_supervisor.py).
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from cluster.machines.storage import is_submitted

GRACE_S = 20.0  # for a clean stop; the journal holds all that was reported anyway
_POLL_S = 1.0


def end_with_job(environment: Mapping[str, str]) -> None:
    """Watches, in a submitted job, for the end of the process that started this one."""
    if is_submitted(environment):
        shell = _process(os.getppid())
        supervisor = _process(shell[1]) if shell else None
        number = shell[1] if shell else 0
        is_kept = (lambda: _process(number) == supervisor) if supervisor else (lambda: False)
        threading.Thread(target=watch, kwargs={"is_kept": is_kept}, daemon=True).start()


def watch(
    parent: Callable[[], int] = os.getppid,
    is_kept: Callable[[], bool] = lambda: False,
    ask: Callable[[], None] = lambda: os.kill(os.getpid(), signal.SIGTERM),
    end: Callable[[], None] = lambda: os._exit(1),
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Waits until the parent is another one and nobody keeps this process, asks it to end, and ends it after GRACE_S.

    Args:
        parent: Returns the parent's number; it changes when the parent dies.
        is_kept: Whether the job's supervisor is still there, which ends this process by itself if it has to.
        ask: Asks for a clean end.
        end: Ends at once, also where the main thread waits for a lost cluster.
        sleep: Waits so many seconds.
    """
    first = parent()
    while parent() == first:
        sleep(_POLL_S)
    while is_kept():
        sleep(_POLL_S)
    ask()
    sleep(GRACE_S)
    end()


def _process(number: int) -> tuple[str, int] | None:
    """When a process started, so that its number is not mistaken for a later one's, and its parent; None where unknown.

    From /proc/NUMBER/stat (proc(5): parent is field 4, start time field 22); a name may hold spaces and brackets.
    """
    try:
        fields = Path(f"/proc/{number}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return fields[19], int(fields[1])
