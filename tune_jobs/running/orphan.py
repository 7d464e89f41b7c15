"""A driver whose job is gone must go too: it would hold its sweep's folder, and wait for a Ray that is no more.

`ray stop` (also inside `ray up --restart-only`) ends a job's shell and its supervisor, and leaves what they started.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping

from cluster.storage import is_submitted

GRACE_S = 20.0  # for a clean stop; the journal holds all that was reported anyway
_POLL_S = 1.0


def end_with_job(environment: Mapping[str, str]) -> None:
    """Watches, in a submitted job, for the end of the process that started this one."""
    if is_submitted(environment):
        threading.Thread(target=watch, daemon=True).start()


def watch(
    parent: Callable[[], int] = os.getppid,
    ask: Callable[[], None] = lambda: os.kill(os.getpid(), signal.SIGTERM),
    end: Callable[[], None] = lambda: os._exit(1),
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Waits until the parent is another one, asks this process to end, and ends it after GRACE_S.

    Args:
        parent: Returns the parent's number; it changes when the parent dies.
        ask: Asks for a clean end.
        end: Ends at once, also where the main thread waits for a lost cluster.
        sleep: Waits so many seconds.
    """
    first = parent()
    while parent() == first:
        sleep(_POLL_S)
    ask()
    sleep(GRACE_S)
    end()
