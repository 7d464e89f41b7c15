"""Passes trials to loggers of Ray Tune (TensorBoard, MLflow), each in its own thread: none blocks a trial."""

import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tune_jobs.driver.callbacks import SweepCallback
from tune_jobs.records.journal import Evaluation, Journal, TrialHistory
from tune_jobs.tracking.tune_loggers import LoggedTrial, Openers, OpenLogger

_WAITS_S = 30.0  # at the end of a sweep, for all loggers together
Call = Callable[[OpenLogger], None]


class TrialLoggers(SweepCallback):
    """Follows the journal.

    Args:
        journal: What is known of all trials.
        openers: Open the loggers.
        folder: Each trial has a folder of its name below it.
        notify: Shows a line.
        waits_s: How long `close` waits for slow loggers.
    """

    def __init__(
        self,
        journal: Journal,
        openers: Openers,
        folder: Path,
        notify: Callable[[str], None],
        waits_s: float = _WAITS_S,
    ) -> None:
        self._journal, self._folder, self._notify, self._waits_s = journal, folder, notify, waits_s
        self._queues = [_LoggerQueue(name, opener) for name, opener in openers.items()]
        self._open: dict[int, LoggedTrial] = {}
        self._over: set[int] = set()
        self._logged: dict[int, dict[int, Evaluation]] = {}

    def update(self) -> None:
        """Logs what is new in the journal."""
        for number, trial in self._journal.trials.items() if self._queues else ():
            if number not in self._over and (trial.starts or trial.status is not None):
                self._log(trial)
        for one in self._queues:
            if problem := one.take_problem():
                self._notify(
                    f"{one.name} is not complete: {problem}; the sweep goes on, and its own files are complete"
                )

    def close(self) -> None:
        """Ends the logs and waits a little for what is not written yet."""
        self.update()
        left = list(self._open.values())
        for one in self._queues:
            one.put("", lambda logger: logger.interrupt(left))
            one.end()
        until_s = time.monotonic() + self._waits_s
        for one in self._queues:
            one.thread.join(max(until_s - time.monotonic(), 0.0))
            if one.thread.is_alive():
                self._notify(
                    f"{one.name} is not complete: it was not ready in {self._waits_s:g} s; --resume completes it"
                )
        self.update()

    def _log(self, trial: TrialHistory) -> None:
        logged = self._logged.setdefault(trial.number, {})
        current = self._current(trial)
        for number, evaluation in sorted(trial.evaluations.items()):
            if logged.get(number) is not evaluation:  # also one that a resumed attempt repeated
                logged[number] = evaluation
                self._put(current, partial(_log_result, trial=current, evaluation=evaluation))
        if trial.status is not None:
            self._over.add(trial.number)
            del self._open[trial.number], self._logged[trial.number]
            failed = trial.status not in ("finished", "stopped")
            self._put(current, lambda logger: logger.callback.log_trial_end(current, failed=failed))

    def _current(self, trial: TrialHistory) -> LoggedTrial:
        if trial.number not in self._open:
            logged = LoggedTrial(spec=trial.spec, local_path=str(self._folder / trial.name))
            self._open[trial.number] = logged
            self._put(logged, lambda logger: logger.callback.log_trial_start(logged))
        self._open[trial.number].spec = trial.spec  # pbt changes it
        return self._open[trial.number]

    def _put(self, trial: LoggedTrial, call: Call) -> None:
        for one in self._queues:
            one.put(trial.name, call)


class _LoggerQueue:
    """Opens a logger and calls it, one call after another, in a thread of its own.

    A server that hangs, or a disk that is full, keeps this thread only.
    """

    def __init__(self, name: str, opener: Callable[[], OpenLogger]) -> None:
        self.name, self._opener = name, opener
        self._calls: queue.SimpleQueue[tuple[str, Call] | None] = queue.SimpleQueue()
        self._problem, self._is_shown = "", False
        self.thread = threading.Thread(target=self._work, name=name, daemon=True)
        self.thread.start()

    def put(self, trial: str, call: Call) -> None:
        """Calls later; not for a trial that an earlier driver logged to its end, nor after a failed call for it."""
        self._calls.put((trial, call))

    def end(self) -> None:
        """Lets the thread end after the calls so far."""
        self._calls.put(None)

    def take_problem(self) -> str:
        """Returns the first problem, one time."""
        shown = "" if self._is_shown else self._problem
        self._is_shown = self._is_shown or bool(shown)
        return shown

    def _work(self) -> None:
        try:
            logger = self._opener()
        except Exception as error:  # any: the sweep's own files are complete
            self._problem = _in_short(error)
            return
        ignored = set(logger.complete)
        while (next_one := self._calls.get()) is not None:
            trial, call = next_one
            try:
                if trial not in ignored:
                    call(logger)
            except Exception as error:  # its log stays unfinished, so that --resume writes it anew
                ignored.add(trial)
                self._problem = self._problem or _in_short(error)


def _log_result(logger: OpenLogger, trial: LoggedTrial, evaluation: Evaluation) -> None:
    logger.callback.log_trial_result(evaluation.number, trial, result_of(evaluation))


def result_of(evaluation: Evaluation) -> dict[str, object]:
    """Returns the numbers of an evaluation, as Tune reports them to loggers.

    >>> result_of(Evaluation(number=2, value=0.5, metrics={"eval/loss": 0.5, "trial/card": "0"}, run_s=1.0))
    {'eval/loss': 0.5, 'training_iteration': 2}
    """
    numbers = {
        name: value
        for name, value in evaluation.metrics.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and not name.startswith("trial/")
    }
    return {**numbers, "training_iteration": evaluation.number}


def _in_short(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
