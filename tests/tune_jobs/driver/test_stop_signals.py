"""Signals end a sweep cleanly; a second SIGINT ends it at once."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from tune_jobs.driver import stop_signals
from tune_jobs.driver.stop_signals import STOPS, StopRequest, stop_on_signals, without_terminal_signals


@pytest.fixture(autouse=True)
def _signals_as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in STOPS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def flags(stop: StopRequest) -> tuple[bool, bool, bool]:
    return stop.requested, stop.forced, stop.hurried


def test_the_first_sigterm_asks_and_no_later_one_ends_the_process() -> None:
    def own(number: int, frame: object) -> None:
        raise AssertionError("this would end the process before it shows how to go on")

    signal.signal(signal.SIGTERM, own)
    outer, inner = StopRequest(), StopRequest()
    with stop_on_signals(outer):
        with stop_on_signals(inner):
            send(signal.SIGTERM)
            send(signal.SIGTERM)
        send(signal.SIGTERM)
    send(signal.SIGTERM)
    assert (flags(outer), flags(inner)) == ((False, False, False), (True, False, True))


def test_where_nobody_asked_all_is_as_it_was() -> None:
    before = [signal.getsignal(number) for number in STOPS]
    with stop_on_signals(StopRequest()):
        pass
    assert [signal.getsignal(number) for number in STOPS] == before


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT])
def test_a_closed_terminal_and_its_quit_key_ask_for_a_clean_stop(number: int) -> None:
    stop = StopRequest()
    with stop_on_signals(stop):
        send(number)
        send(number)
    send(number)  # the driver writes its report, and no traceback
    assert flags(stop) == (True, False, False)


def test_a_signal_that_nohup_ignores_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop = StopRequest()
    with stop_on_signals(stop):
        send(signal.SIGHUP)
    assert flags(stop) == (False, False, False)


def test_each_interrupt_shows_what_the_next_one_does(capfd: pytest.CaptureFixture[str]) -> None:
    stop = StopRequest()
    with stop_on_signals(stop):
        send(signal.SIGINT)
        assert "stopping; press Ctrl-C again to end at once without saving" in capfd.readouterr().err
        send(signal.SIGINT)
    shown = capfd.readouterr().err
    assert "ending at once: the steps since the last checkpoints are repeated by --resume" in shown
    assert "press Ctrl-C again to leave without a report" in shown


def test_processes_that_are_started_meanwhile_survive_the_terminal() -> None:
    with without_terminal_signals():
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        for number in (signal.SIGHUP, signal.SIGQUIT):
            child.send_signal(number)
    child.communicate(b"\n")
    assert child.returncode == 0
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL


def test_a_second_interrupt_ends_the_trials_at_once_and_a_third_the_driver() -> None:
    stop = StopRequest()
    with stop_on_signals(stop):
        send(signal.SIGINT)
        assert flags(stop) == (True, False, False)
        send(signal.SIGINT)
        assert flags(stop) == (True, True, False)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_trials_that_do_not_save_in_time_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop_signals, "SAVE_S", 0.01)
    stop, forced = StopRequest(), threading.Event()
    monkeypatch.setattr(stop, "force", forced.set)
    with stop_on_signals(stop):
        send(signal.SIGTERM)
        assert forced.wait(30.0)


def test_outside_of_the_main_thread_nothing_is_changed() -> None:
    found: list[bool] = []
    before = signal.getsignal(signal.SIGTERM)

    def enter() -> None:
        with stop_on_signals(StopRequest()):
            found.append(signal.getsignal(signal.SIGTERM) is before)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [True]
