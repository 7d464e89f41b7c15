"""Ends a process of a trial whose raylet is gone.

Ray's workers ask with kill(pid, 0) whether their raylet lives (Ray 2.60, core_worker.cc). In a container whose PID 1
reaps nobody a killed raylet stays as a zombie, which answers as if it lived: its workers would train for ever.
"""

import functools
import os
import threading
import time
from collections.abc import Callable

_POLL_S = 1.0


@functools.cache  # a process serves one trial after another
def end_with_raylet() -> None:
    """Watches for the end of the process that started this one."""
    threading.Thread(target=watch, daemon=True).start()


def watch(
    parent: Callable[[], int] = os.getppid,
    end: Callable[[], None] = lambda: os._exit(1),
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Waits until the parent is another one, then ends this process at once.

    Args:
        parent: Returns the parent's number; it changes when the parent dies, also where it stays as a zombie.
        end: Ends the process.
        sleep: Waits so many seconds.
    """
    first = parent()
    while parent() == first:
        sleep(_POLL_S)
    end()
