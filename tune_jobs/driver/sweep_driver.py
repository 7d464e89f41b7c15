"""Runs one sweep: passes events to its state and carries out the instructions. Decides nothing itself."""

import re
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from cluster.scheduling.broker_client import BrokerClient
from tune_jobs.driver import events
from tune_jobs.driver.callbacks import SweepCallback
from tune_jobs.driver.card_watch import CardWatch
from tune_jobs.driver.housekeeping import forget_checkpoints
from tune_jobs.driver.stop_signals import StopRequest
from tune_jobs.driver.storage_pause import StoragePause
from tune_jobs.driver.sweep_parts import Clocks
from tune_jobs.driver.sweep_state import SweepState
from tune_jobs.driver.wait_notices import WaitNotices
from tune_jobs.records.journal import Journal
from tune_jobs.records.ledger import SweepFolder
from tune_jobs.records.trial_spec import EVALUATION_KEY, STOP_FILE, FailureKind, TrialSpec
from tuning_common.errors import ProductError, WorkError
from tuning_common.files import write_text
from tuning_common.units import format_duration

WAIT_NOTICE_S = 30.0  # a trial that waits longer for its share is shown with the reason
SHOWN_WAITING = 4
WARM_S = 0.5  # an answer of the broker that takes longer costs the next trial a new process
IDLE_S = 0.2  # between two looks while no attempt runs
MOST_DEATHS = 5  # of Tune's controller, one after another, without a report of any trial

RunTuner = Callable[["SweepDriver"], None]
Kill = Callable[[Mapping[str, object]], None]


class SweepDriver:
    """The thin shell around a SweepState; what Tune's wrappers call (see tuner.AttemptHost).

    Args:
        state: Decides.
        journal: The state's.
        broker: Grants shares; open.
        folder: The sweep's results.
        callbacks: Ledger, view, metrics and W&B.
        notify: Shows a line.
        stop: Whether somebody asked to stop.
        clocks: Injected in tests.
        kill: Ends a process that hangs, given its location.
    """

    def __init__(
        self,
        state: SweepState,
        journal: Journal,
        broker: BrokerClient,
        folder: Path,
        *,
        callbacks: Sequence[SweepCallback] = (),
        notify: Callable[[str], None],
        stop: StopRequest,
        clocks: Clocks,
        kill: Kill,
    ) -> None:
        self.state, self._journal, self._broker, self._folder = state, journal, broker, folder
        self._callbacks, self._notify, self._stop, self._clocks, self._kill = callbacks, notify, stop, clocks, kill
        self._launches: deque[TrialSpec] = deque()
        self._cancelled: set[int] = set()
        self._ending: set[int] = set()
        self._notices = WaitNotices(WAIT_NOTICE_S)
        self._cards = CardWatch(clocks.elapsed_s())
        self._deaths = 0
        self._pause = StoragePause(folder, notify, clocks.elapsed_s)
        self._fatal: ProductError | None = None

    def run(self, run_tuner: RunTuner) -> None:
        """Runs until every trial has ended, until a stop was requested and no trial runs, or until it must end at once.

        Tune runs while there are attempts. Where its controller dies, another one continues from the journal.

        Args:
            run_tuner: Runs attempts until none is left and none can be launched.

        Raises:
            WorkError: When Tune fails again and again without any progress, or the storage is in trouble for too long.
        """
        self.tick()
        while not (self.state.is_over or (self.state.stopping and self.state.is_idle) or self.must_end()):
            if not self._launches or self._pause.is_on:
                time.sleep(IDLE_S)
                self.tick()
                for callback in self._callbacks:
                    callback.update()
                continue
            try:
                run_tuner(self)
            except Exception as error:
                self._tuner_died(error)
            self.tick()
        if self._fatal is not None:  # raised within Tune, which may have taken it for the failure of a trial
            raise self._fatal
        for callback in self._callbacks:
            callback.run_ended()

    def _tuner_died(self, error: Exception) -> None:
        if self._fatal is not None:
            raise self._fatal
        is_memory = type(error).__name__ == "OutOfMemoryError" or "running low on memory" in str(error)
        kind: FailureKind | None = "host_memory" if is_memory else "worker_lost"
        if self._pause.begin(error):
            kind = None  # no fault of a trial
        else:
            self._deaths += 1
            if self._deaths >= MOST_DEATHS:
                raise WorkError(f"Ray Tune failed {self._deaths} times in a row: {_last_line(error)}") from error
        for known in (self._launches, self._cancelled, self._ending):  # of attempts that are gone
            known.clear()
        caused_by = self._trials_of(_process_ids(str(error)))
        self._apply(events.TunerDied(error=_last_line(error), kind=kind, caused_by=caused_by))

    def _trials_of(self, processes: Collection[int]) -> tuple[int, ...]:
        trials = self._journal.trials
        return tuple(one for one in self._journal.running if trials[one].attempts[-1].get("pid") in processes)

    # tuner.AttemptHost

    def has_launch(self) -> bool:
        """Returns whether an attempt can be launched now."""
        return bool(self._launches) and not self.must_end()

    def next_launch(self) -> TrialSpec | None:
        """Returns the attempt to launch next, None where there is none now."""
        return self._launches.popleft() if self.has_launch() else None

    def started(self, number: int) -> None:
        """Takes in that the process of an attempt runs."""
        with self._guarded():
            self._apply(events.AttemptStarted(number=number))

    def reported(self, number: int, result: Mapping[str, object]) -> bool:
        """Takes in a report and returns whether the attempt should end here."""
        if EVALUATION_KEY in result:
            self._deaths = 0
            self._pause.succeeded()
            self._sample_cards()
            result = {**result, **self._cards.take(number)}
        with self._guarded():
            self._apply(events.Reported(number=number, result=result))
        ends = number in self._ending
        self._ending.discard(number)
        return ends

    def saved(self, number: int, folder: Path) -> None:
        """Takes in that a checkpoint is complete in the sweep's storage."""
        with self._guarded():
            self._apply(events.CheckpointSaved(number=number, folder=folder))

    def ended(self, number: int, error: str | None) -> None:
        """Takes in that an attempt has ended; asks the broker at once, so that a warm process is used again."""
        if any(spec.number == number for spec in self._launches):  # Tune may report the end of a lost process twice
            return
        with self._guarded():
            self._cancelled.discard(number)
            self._apply(events.AttemptEnded(number=number, error=error))
            self._poll(WARM_S)

    def tick(self) -> None:
        """Passes on what the broker decided and what the time brings."""
        with self._guarded():
            if self._stop.requested and not self.state.stopping:
                self._apply(events.StopRequested())
            self._poll()
            self._sample_cards()
            self._apply(events.TimePassed())
            self._show_waiting()

    def take_cancelled(self) -> Collection[int]:
        """Returns trials whose launched attempts should end before Ray starts them; each once."""
        cancelled, self._cancelled = self._cancelled, set()
        return cancelled

    def must_end(self) -> bool:
        """Returns whether every attempt should end at once."""
        return self._stop.forced or self._fatal is not None

    # Inside

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Keeps an error of ours: Tune would hide it in one of its own."""
        try:
            yield
        except ProductError as error:
            self._fatal = error
            raise

    def _sample_cards(self) -> None:
        uses = {_number(name): use for name, use in self._broker.card_uses().items()}
        self._cards.sample(uses, self._clocks.elapsed_s())

    def _poll(self, wait_s: float = 0.0) -> None:
        decisions = self._broker.poll(wait_s)
        happened: list[events.Event] = [
            events.Allocated(number=_number(one.name), alternative=one.alternative, nodes=one.nodes)
            for one in decisions.allocations
        ]
        happened += [events.PauseRequested(number=_number(one.name), reason=one.reason) for one in decisions.pauses]
        happened += [events.Unplaceable(number=_number(one.name), reason=one.reason) for one in decisions.refusals]
        if happened:
            self._apply(*happened)

    def _show_waiting(self) -> None:
        now_s = self._clocks.elapsed_s()
        self._notices.update(self.state.stalled_in_queue(SHOWN_WAITING), now_s)
        for number, waited_s in self._notices.due(now_s).items():
            reason = f"for {format_duration(waited_s)}: {self._broker.waiting_reason(self.state.request_name(number))}"
            self._apply(events.StillWaiting(number=number, reason=reason))

    def _apply(self, *happened: events.Event) -> None:
        for instruction in self.state.handle(*happened):
            self._execute(instruction)

    def _execute(self, instruction: events.Instruction) -> None:
        name_of = self.state.request_name
        match instruction:
            case events.Submit(request=request):
                self._broker.submit(request)
            case events.Withdraw(number=number):
                self._broker.withdraw(name_of(number))
            case events.ConfirmStart(number=number):
                self._broker.started(name_of(number))
            case events.ReturnAllocation(number=number, reason=reason):
                self._broker.not_placed(name_of(number), reason)
            case events.Release(number=number):
                self._broker.ended(name_of(number))
            case events.Launch(spec=spec):
                self._launches.append(spec)
            case events.EndAttempt(number=number):
                self._ending.add(number)
            case events.CancelLaunch(number=number):
                self._cancel_launch(number)
            case events.KillProcess(number=number):
                self._kill(self._journal.trials[number].attempts[-1])
            case events.CloseTrial(number=number):
                for callback in self._callbacks:
                    callback.trial_closed(number)
            case events.ForgetCheckpoints(folder=folder):
                forget_checkpoints(folder, SweepFolder(self._folder))
            case events.AskToSave():
                write_text(self._folder / STOP_FILE, "the driver asks the trials to save and end\n")
            case events.Notify(text=text):
                self._notify(text)

    def _cancel_launch(self, number: int) -> None:
        """Ends a launch: one that Tune does not know yet ends here."""
        waiting = [spec for spec in self._launches if spec.number == number]
        for spec in waiting:
            self._launches.remove(spec)
        if waiting:
            self._apply(events.AttemptEnded(number=number))
        else:
            self._cancelled.add(number)


def _number(name: str) -> int:
    return int(name.rpartition("/")[2])


def _process_ids(text: str) -> tuple[int, ...]:
    """Finds the processes that an error of Ray names.

    >>> _process_ids("where the task (actor ID: 1a, name=ImplicitFunc, pid=8154, memory used=2.31GB) was running")
    (8154,)
    """
    return tuple(int(found) for found in re.findall(r"\bpid=(\d+)", text))


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).split("\n") if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"[:500]
