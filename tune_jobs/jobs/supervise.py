"""Restarts a sweep's driver when it dies, as long as the sweep makes progress; the sweep resumes from its journal."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Literal

from tune_jobs.config.result_paths import with_output_folder
from tune_jobs.config.sweep_file import load_sweep
from tune_jobs.driver.stop_signals import STOPS
from tune_jobs.records.command_line import driver_arguments
from tune_jobs.records.journal import FILE_NAME
from tune_jobs.records.sweep_lock import is_held
from tune_jobs.records.trial_spec import STOP_FILE
from tuning_common.cli import note
from tuning_common.errors import WorkError
from tuning_common.files import read_jsonl

FRUITLESS = 5  # consecutive drivers that die without progress
POLL_S = 1.0
PAUSE_S = 1.0  # after a driver that made progress
FRUITLESS_PAUSE_S = 5.0  # after one that made none; the next pauses double
Step = Literal["done", "stopped", "refused", "again", "give up"]


@dataclass(frozen=True, kw_only=True)
class DriverExit:
    """How a driver ended.

    Attributes:
        code: Its exit code; negative for the signal that ended it.
        begun: Whether it created a journal.
        progressed: Whether the sweep has new evaluations or ended trials.
        asked: Whether the user asked for the end.
    """

    code: int
    begun: bool = False
    progressed: bool = False
    asked: bool = False


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What the journals of a sweep hold.

    Attributes:
        journals: The inode of each: a new run has a new one.
        results: Journal, trial and evaluation of each evaluation, with 0 for the end of the trial.
    """

    journals: frozenset[int] = frozenset()
    results: frozenset[tuple[int, object, object]] = frozenset()

    def since(self, before: "Progress") -> tuple[bool, bool]:
        """Returns whether there are new journals, and new results."""
        return bool(self.journals - before.journals), bool(self.results - before.results)


def next_step(endings: Sequence[DriverExit]) -> Step:
    """Decides the next step after a driver's exit. Pure.

    Args:
        endings: The exits of all drivers so far, oldest first; at least one.

    >>> [next_step([one]) for one in (DriverExit(code=-9, progressed=True), DriverExit(code=2), DriverExit(code=0))]
    ['again', 'refused', 'done']
    >>> next_step([DriverExit(code=-9, progressed=True), *[DriverExit(code=1)] * FRUITLESS])
    'give up'
    """
    last = endings[-1]
    if last.code == 0:
        return "done"
    if last.asked:
        return "stopped"
    if last.code == 2:
        return "refused"
    if len(endings) >= FRUITLESS and not any(ending.progressed for ending in endings[-FRUITLESS:]):
        return "give up"
    return "again"


def pause_s(endings: Sequence[DriverExit]) -> float:
    """Returns the seconds to wait before the next driver. Pure.

    >>> [pause_s([DriverExit(code=1)] * count) for count in (1, 2, 3)], pause_s([DriverExit(code=1, progressed=True)])
    ([5.0, 10.0, 20.0], 1.0)
    """
    fruitless = 0
    while fruitless < len(endings) and not endings[-1 - fruitless].progressed:
        fruitless += 1
    return FRUITLESS_PAUSE_S * 2 ** (fruitless - 1) if fruitless else PAUSE_S


def read_progress(results: Path, sweeps: Sequence[str]) -> Progress:
    """Reads the journals of some sweeps; one that cannot be read holds nothing."""
    journals: set[int] = set()
    found: set[tuple[int, object, object]] = set()
    for path in [results / name / FILE_NAME for name in sweeps]:
        with suppress(OSError):
            journal = path.stat().st_ino
            journals.add(journal)
            for event in read_jsonl(path)[0]:
                if event.get("event") in ("reported", "ended"):
                    found.add((journal, event.get("number"), event.get("evaluation") or 0))
    return Progress(journals=frozenset(journals), results=frozenset(found))


def supervise(source: Path, output: Path | None, arguments: Sequence[str], count: int | None = None) -> int:
    """Runs `python -m tune_jobs` with the arguments until the sweep is over, is stopped, or makes no progress.

    Args:
        source: The sweep file.
        output: Result folder from the command line.
        arguments: Arguments of this process, including --supervise.
        count: Number of trials from the command line.

    Returns:
        The last driver's exit code.

    Raises:
        RequestError: When the sweep file cannot be read.
        WorkError: When the drivers die without progress.
    """
    sweep = with_output_folder(load_sweep(source, count), output, os.environ, Path.home())
    results = Path(sweep.tracking.output_dir) / "sweep_results"

    names = [sweep.name, *(phase.sweep.name for phase in sweep.phases)]
    if "--resume" in arguments:
        _wait_for_another(results, sweep.name)
    return keep_running(
        arguments,
        lambda: read_progress(results, names),
        lambda: any((results / name / STOP_FILE).exists() for name in names),
    )


def _wait_for_another(results: Path, sweep: str) -> None:
    """Waits for another driver of the sweep, which may outlive its job and its head and holds the folder's lock."""
    if not is_held(results / sweep):
        return
    note(f"another driver of {sweep} still runs; waiting until it has ended")
    while is_held(results / sweep):
        time.sleep(POLL_S)


def keep_running(
    arguments: Sequence[str], progress: Callable[[], Progress], stopped: Callable[[], bool] = lambda: False
) -> int:
    """See supervise.

    Args:
        arguments: See supervise.
        progress: Reads what the sweep has so far.
        stopped: Returns whether a person has left a stop file, which an ended driver leaves where it is.
    """
    endings: list[DriverExit] = []
    resume = "--resume" in arguments
    while True:
        ending = _run([sys.executable, "-m", "tune_jobs", *driver_arguments(arguments, resume=resume)], progress)
        if stopped() and ending.code > 0:
            ending = replace(ending, asked=True)
        endings.append(ending)
        resume = resume or ending.begun  # without a journal there is nothing to resume
        step = next_step(endings)
        if step == "give up":
            raise WorkError(
                f"the last {FRUITLESS} drivers ended (exit code {ending.code}) before the sweep got any further;"
                " the reason is above"
            )
        if step != "again":
            return ending.code if ending.code >= 0 else 1
        how = f"was ended by signal {-ending.code}" if ending.code < 0 else f"ended with exit code {ending.code}"
        goes_on = " and goes on where it was" if resume else ""
        note(f"the driver {how}; it starts again{goes_on}, in {pause_s(endings):.0f} s")
        time.sleep(pause_s(endings))


def _run(command: Sequence[str], progress: Callable[[], Progress]) -> DriverExit:
    before = progress()
    asked: list[int] = []
    pending: list[int] = []  # signals to forward; one may arrive before the driver has started
    process: subprocess.Popen[bytes] | None = None

    def forward() -> None:
        while process and pending:
            process.send_signal(pending.pop())

    def handle(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        if number != signal.SIGINT:  # Ctrl-C reaches the driver by itself, and a second one means more than the first
            pending.append(number)
            forward()

    taken = [number for number in STOPS if signal.getsignal(number) != signal.SIG_IGN]  # nohup ignores SIGHUP
    earlier = {number: signal.signal(number, handle) for number in taken}
    try:
        process = subprocess.Popen(command)
        forward()
        code = process.wait()
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
    begun, progressed = progress().since(before)
    return DriverExit(code=code, begun=begun, progressed=progressed, asked=bool(asked))
