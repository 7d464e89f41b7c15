"""Ends a driver whose embedded Ray has lost a raylet.

Ray's own processes do not come back, and Tune waits for ever for resources that are gone (Ray 2.60,
resource_updater.py). Another driver resumes the sweep with a new Ray.
"""

import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from tuning_common.cli import note

GRACE_S = 20.0  # for a clean stop; the main thread may be the one that waits for ever
_POLL_S = 2.0


@contextmanager
def end_without(
    nodes: Collection[str],
    alive: Callable[[], Collection[str]],
    ask: Callable[[], None] = lambda: os.kill(os.getpid(), signal.SIGTERM),
    end: Callable[[], None] = lambda: os._exit(1),
) -> Iterator[None]:
    """Watches nodes during the block; when one is lost, asks for a clean stop and ends the process after GRACE_S.

    Args:
        nodes: Ids of the nodes that must live.
        alive: Returns the ids of those that live.
        ask: Asks for a clean stop.
        end: Ends the process at once.
    """
    over = threading.Event()

    def watch() -> None:
        while set(nodes) <= set(alive()):
            if over.wait(_POLL_S):
                return
        if over.is_set():
            return
        note("Ray lost a raylet on this machine: the sweep stops, and --resume continues it with a new Ray")
        ask()
        if not over.wait(GRACE_S):
            end()

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()
