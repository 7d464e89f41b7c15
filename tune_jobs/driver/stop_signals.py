"""Signals that ask the driver to stop: trials save first; a second Ctrl-C ends them at once."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SAVE_S = 60.0  # for the trials to save; then they are ended


class StopRequest:
    """Whether somebody asked the driver to stop, and how urgently. Set by signal handlers, so it only sets flags.

    Attributes:
        requested: Trials should save and end.
        forced: Everything should end at once.
        hurried: A job server or a batch system asked, and waits for the process to end.
    """

    def __init__(self) -> None:
        self.requested = False
        self.forced = False
        self.hurried = False

    def request(self) -> None:
        """Asks for a clean stop."""
        self.requested = True

    def force(self) -> None:
        """Asks for an end at once."""
        self.requested = self.forced = True


@contextmanager
def stop_on_signals(stop: StopRequest) -> Iterator[None]:
    """Turns SIGINT (Ctrl-C) and SIGTERM (`ray job stop`, a batch system) into a clean stop of at most SAVE_S seconds.

    Must be entered after Ray was started, as Ray's own handler of SIGTERM ends the process at once. A later SIGTERM
    changes nothing: the processes of a job are signalled together and by their supervisor. A second SIGINT ends the
    trials at once, a third one interrupts the driver itself. Does nothing outside of the main thread.

    Args:
        stop: Is set.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    timers: list[threading.Timer] = []

    def request(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and stop.forced:
            raise KeyboardInterrupt
        if number == signal.SIGINT and stop.requested:
            stop.force()
            return
        if not stop.requested:
            stop.request()
            stop.hurried = number == signal.SIGTERM
            timers.append(threading.Timer(SAVE_S, stop.force))
            timers[0].daemon = True
            timers[0].start()
            if number == signal.SIGINT and sys.stderr is not None and sys.stderr.isatty():
                sys.stderr.write("\nstopping; press Ctrl-C again to end at once without saving\n")

    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # Ray's jobs start with it blocked
    earlier = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()
        signal.signal(signal.SIGINT, earlier[signal.SIGINT])
        # Once asked, the driver ends by itself: no later SIGTERM may keep it from writing how to resume.
        if not stop.requested and signal.getsignal(signal.SIGTERM) is request:  # else a stop within this one was asked
            signal.signal(signal.SIGTERM, earlier[signal.SIGTERM])
