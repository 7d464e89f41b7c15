"""The live view of a sweep: a few lines that redraw themselves in a terminal, plain log lines anywhere else."""

import shutil
import sys
import time
from collections.abc import Callable
from typing import Protocol, TextIO

from common.cli import table
from common.units import format_duration
from tune_jobs.records.progress import ENDED, SweepProgress, TrialProgress

REDRAW_S = 0.5
_SHOWN_TRIALS = 12  # more would push the summary off a small terminal


class View(Protocol):
    """Shows a sweep's progress to whoever watches."""

    def event(self, text: str) -> None:
        """Says that something happened, once."""
        ...

    def refresh(self, progress: SweepProgress) -> None:
        """Shows the present state, as often as suits the view."""
        ...

    def close(self, progress: SweepProgress) -> None:
        """Shows the final state."""
        ...


def summary_line(progress: SweepProgress, now_s: float) -> str:
    """Says in one line how far a sweep is.

    >>> state = SweepProgress(sweep="a", metric="m", goal="maximize", total=3, longest=2, slots=1, started_s=0.0)
    >>> state.started(1, "x", now_s=0.0)
    >>> state.reported(1, iteration=1, value=7.25, rung=1, now_s=10.0)
    >>> summary_line(state, 10.0)
    '0 of 3 trials ended, 1 running, 2 waiting | best 7.250 (trial 1) | 10 s, at most 50 s left'
    """
    return " | ".join(_summary_parts(progress, now_s))


def _summary_parts(progress: SweepProgress, now_s: float) -> list[str]:
    ended = [f"{progress.count(*ENDED)} of {progress.total} trials ended"]
    for status in ("stopped", "failed", "refused", "running", "paused", "waiting"):
        if count := progress.count(status):
            ended.append(f"{count} {'stopped early' if status == 'stopped' else status}")
    best = progress.best()
    parts = [", ".join(ended)]
    if best is not None:
        parts.append(f"best {best.best:.3f} (trial {best.number})")
    left_s = progress.left_s(now_s)
    spent = format_duration(now_s - progress.started_s)
    is_over = progress.count(*ENDED) == progress.total
    parts.append(spent if left_s is None or is_over else f"{spent}, at most {format_duration(left_s)} left")
    return parts


def screen(progress: SweepProgress, now_s: float) -> str:
    """Lays out the whole view: a title, the trials that matter now, and the summary line."""
    mark = "   [simulated cards]" if progress.simulated else ""
    title = f"sweep {progress.sweep}   {progress.metric} ({progress.goal}){mark}"
    trials = sorted(progress.trials.values(), key=_interest)[:_SHOWN_TRIALS]
    rows = [_row(trial, progress.longest) for trial in sorted(trials, key=lambda trial: trial.number)]
    body = table(["trial", "status", "evaluations", "rung", "last", "best", "GPUs", "note"], rows) if rows else ""
    hidden = len(progress.trials) - len(trials)
    more = f"... and {hidden} more" if hidden else ""
    counts, *rest = _summary_parts(progress, now_s)  # two lines: the time left must not be cut off at 80 columns
    return "\n".join(part for part in (title, body, more, counts, " | ".join(rest)) if part)


class TerminalView:
    """Redraws the screen in place; events scroll above it."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._drawn_lines = 0
        self._drawn_at_s = -REDRAW_S

    def event(self, text: str) -> None:
        """Prints a line above the screen."""
        self._erase()
        self._stream.write(text + "\n")
        self._stream.flush()
        self._drawn_at_s = -REDRAW_S

    def refresh(self, progress: SweepProgress) -> None:
        """Redraws, at most twice a second."""
        if self._clock() - self._drawn_at_s >= REDRAW_S:
            self._draw(progress)

    def close(self, progress: SweepProgress) -> None:
        """Draws the final state and leaves it standing."""
        self._draw(progress)
        self._drawn_lines = 0

    def _draw(self, progress: SweepProgress) -> None:
        width = shutil.get_terminal_size().columns
        lines = [line[: width - 1] for line in screen(progress, self._clock()).split("\n")]
        self._erase()
        self._stream.write("\n".join(lines) + "\n")
        self._stream.flush()
        self._drawn_lines = len(lines)
        self._drawn_at_s = self._clock()

    def _erase(self) -> None:
        if self._drawn_lines:
            self._stream.write(f"\x1b[{self._drawn_lines}F\x1b[J")  # up to the first drawn line, clear below
        self._drawn_lines = 0


class LogView:
    """Writes one line an event and a summary line now and then: for log files, pipes and `ray job logs`."""

    def __init__(self, stream: TextIO, every_s: float = 30.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._every_s, self._clock = stream, every_s, clock
        self._said_at_s = clock()

    def event(self, text: str) -> None:
        """Writes a line."""
        self._stream.write(text + "\n")
        self._stream.flush()

    def refresh(self, progress: SweepProgress) -> None:
        """Writes the summary line when none was written for a while."""
        if self._clock() - self._said_at_s >= self._every_s:
            self._said_at_s = self._clock()
            self.event(summary_line(progress, self._clock()))

    def close(self, progress: SweepProgress) -> None:
        """Writes the final table."""
        self.event(screen(progress, self._clock()))


def view_for(stream: TextIO = sys.stderr) -> View:
    """Chooses the redrawing view for a terminal and log lines for everything else."""
    return TerminalView(stream) if stream.isatty() else LogView(stream)


def _interest(trial: TrialProgress) -> tuple[int, int]:
    order = {"running": 0, "failed": 1, "refused": 1, "paused": 2, "waiting": 2, "interrupted": 2}
    return order.get(trial.status, 3), -trial.number


def _row(trial: TrialProgress, longest: int) -> list[object]:
    return [
        trial.number,
        trial.status,
        f"{trial.iteration}/{longest}",
        "-" if trial.rung is None else str(trial.rung),
        "-" if trial.last is None else f"{trial.last:.3f}",
        "-" if trial.best is None else f"{trial.best:.3f}",
        f"{trial.share:g}" if trial.share else "-",
        trial.reason or trial.name,
    ]
