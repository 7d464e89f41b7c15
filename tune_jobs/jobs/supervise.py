"""Restarts a sweep's driver when it dies, as long as the sweep makes progress; the sweep resumes from its journal."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Literal

from tune_jobs.config.result_paths import with_output_folder
from tune_jobs.config.sweep_file import load_sweep
from tune_jobs.records.command_line import driver_arguments
from tune_jobs.records.journal import FILE_NAME
from tune_jobs.records.sweep_lock import is_held
from tuning_common.cli import note
from tuning_common.errors import WorkError

FRUITLESS = 3  # consecutive drivers that die without a new record in the journal
POLL_S = 1.0
WAIT_S = 5.0  # pause after a driver without progress
Step = Literal["done", "stopped", "refused", "again", "give up"]


@dataclass(frozen=True, kw_only=True)
class DriverExit:
    """How a driver ended.

    Attributes:
        code: Its exit code; negative for the signal that ended it.
        progressed: Whether the sweep's journal grew while it ran.
        asked: Whether the user asked for the end.
    """

    code: int
    progressed: bool = False
    asked: bool = False


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

    def progress() -> tuple[float, int]:
        """Returns time and size of the sweep's latest journal; a staged sweep has one for each phase."""
        found = [path.stat() for path in results.glob(f"{sweep.name}*/**/{FILE_NAME}")]
        return max(((state.st_mtime, state.st_size) for state in found), default=(0.0, 0))

    if "--resume" in arguments:
        _wait_for_another(results, sweep.name)
    return keep_running(arguments, progress)


def _wait_for_another(results: Path, sweep: str) -> None:
    """Waits for another driver of the sweep, which may outlive its job and its head and holds the folder's lock."""
    if not is_held(results / sweep):
        return
    note(f"another driver of {sweep} still runs; waiting until it has ended")
    while is_held(results / sweep):
        time.sleep(POLL_S)


def keep_running(arguments: Sequence[str], progress: Callable[[], object]) -> int:
    """See supervise; the value that `progress` returns changes when a driver makes progress."""
    endings: list[DriverExit] = []
    resume = "--resume" in arguments
    while True:
        before = progress()
        ending = _run(
            [sys.executable, "-m", "tune_jobs", *driver_arguments(arguments, resume=resume)], progress, before
        )
        endings.append(ending)
        resume = resume or ending.progressed  # without a journal there is nothing to resume
        step = next_step(endings)
        if step == "give up":
            raise WorkError(
                f"the last {FRUITLESS} drivers ended (exit code {ending.code}) before the sweep got any further;"
                " the reason is above"
            )
        if step != "again":
            return ending.code if ending.code >= 0 else 1
        how = f"was ended by signal {-ending.code}" if ending.code < 0 else f"ended with exit code {ending.code}"
        note(f"the driver {how}; it starts again" + (" and goes on where it was" if resume else ""))
        if not ending.progressed:
            time.sleep(WAIT_S)


def _run(command: Sequence[str], progress: Callable[[], object], before: object) -> DriverExit:
    asked: list[int] = []
    pending: list[int] = []  # signals to forward; one may arrive before the driver has started
    process: subprocess.Popen[bytes] | None = None

    def forward() -> None:
        while process and pending:
            process.send_signal(pending.pop())

    def handle(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        if number == signal.SIGTERM:  # Ctrl-C reaches the driver by itself
            pending.append(number)
            forward()

    earlier = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        process = subprocess.Popen(command)
        forward()
        code = process.wait()
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
    return DriverExit(code=code, progressed=progress() != before, asked=bool(asked))
