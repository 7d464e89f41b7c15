"""Signals that ask the driver to stop: trials save first; a second Ctrl-C ends them at once."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SAVE_S = 60.0  # for the trials to save; then they are ended
OF_TERMINALS = (signal.SIGHUP, signal.SIGQUIT)  # the terminal was closed; Ctrl-\ was pressed
STOPS = (signal.SIGINT, signal.SIGTERM, *OF_TERMINALS)


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
    """Turns signals into a clean stop of at most SAVE_S seconds.

    SIGINT (Ctrl-C), SIGTERM (`ray job stop`, a batch system), SIGHUP (a closed terminal) and SIGQUIT (Ctrl-\\). SIGHUP
    and SIGQUIT stay ignored where they are: `nohup` did that.

    Must be entered after Ray was started, as Ray's own handler of SIGTERM ends the process at once. Later signals
    change nothing: the processes of a job are signalled together and by their supervisor. A second SIGINT ends the
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
            _show(
                "ending at once: the steps since the last checkpoints are repeated by --resume; press Ctrl-C again to"
                " leave without a report"
            )
            return
        if not stop.requested:
            stop.request()
            stop.hurried = number == signal.SIGTERM
            timers.append(threading.Timer(SAVE_S, stop.force))
            timers[0].daemon = True
            timers[0].start()
            if number == signal.SIGINT:
                _show("stopping; press Ctrl-C again to end at once without saving")

    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # Ray's jobs start with it blocked
    taken = [number for number in STOPS if number not in OF_TERMINALS or signal.getsignal(number) != signal.SIG_IGN]
    earlier = {number: signal.signal(number, request) for number in taken}
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()
        for number, handler in earlier.items():
            # Once asked, the driver ends by itself: no later signal may keep it from writing how to resume. Another
            # handler than `request` is there where a stop within this one was asked.
            keeps = number != signal.SIGINT and (stop.requested or signal.getsignal(number) is not request)
            if not keeps:
                signal.signal(number, handler)


@contextmanager
def without_terminal_signals() -> Iterator[None]:
    """Makes processes that are started in this block, and their children, ignore a closed terminal and Ctrl-\\.

    The terminal sends these to Ray's processes and the trials too, which must live to save. (Ray protects its processes
    from Ctrl-C only.) Does nothing outside of the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = {number: signal.signal(number, signal.SIG_IGN) for number in OF_TERMINALS}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _show(text: str) -> None:
    """Shows a line from within a signal handler: sys.stderr may be in the middle of a write."""
    with suppress(OSError):
        os.write(2, f"\n{text}\n".encode())
