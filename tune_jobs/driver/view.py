"""The live view of a sweep: a few lines that redraw themselves in a terminal, plain log lines anywhere else."""

import shutil
import sys
from typing import Protocol, TextIO

from tune_jobs.records.progress import ENDED, SweepProgress, TrialProgress
from tuning_common.cli import table, visible
from tuning_common.units import format_duration

REDRAW_S = 0.5
SUMMARY_S = 30.0  # between two summary lines in a log
_SHOWN_TRIALS = 12  # more would push the summary off a small terminal


class View(Protocol):
    """Shows a sweep's progress to whoever watches."""

    @property
    def interval_s(self) -> float:
        """Seconds between two refreshes."""
        ...

    def event(self, text: str) -> None:
        """Shows a line, once."""
        ...

    def refresh(self, progress: SweepProgress) -> None:
        """Shows the present state."""
        ...

    def close(self, progress: SweepProgress) -> None:
        """Shows the final state."""
        ...


def summary_line(progress: SweepProgress) -> str:
    """Returns in one line how far a sweep is.

    >>> from tune_jobs.records.progress import SweepFrame, TrialProgress
    >>> frame = SweepFrame(sweep="a", metric="m", goal="maximize", total=3, longest=2, slots=1)
    >>> trial = TrialProgress(number=1, name="x", status="running", iteration=1, last=7.25, best=7.25, run_s=10.0)
    >>> summary_line(SweepProgress(frame=frame, trials={1: trial}, now_s=10.0))
    '0 of 3 trials ended, 1 running, 2 waiting | best 7.250 (trial 1) | 10 s, at most 50 s left'
    """
    return " | ".join(_summary_parts(progress))


def _summary_parts(progress: SweepProgress) -> list[str]:
    ended = [f"{progress.count(*ENDED)} of {progress.frame.total} trials ended"]
    for status in ("stopped", "failed", "refused", "running", "paused", "waiting"):
        if count := progress.count(status):
            ended.append(f"{count} {'stopped early' if status == 'stopped' else status}")
    best = progress.best()
    parts = [", ".join(ended)]
    if best is not None:
        parts.append(f"best {best.best:.3f} (trial {best.number})")
    left_s = progress.left_s()
    spent = format_duration(progress.now_s - progress.frame.started_s)
    is_over = progress.count(*ENDED) == progress.frame.total
    parts.append(spent if left_s is None or is_over else f"{spent}, at most {format_duration(left_s)} left")
    return parts


def screen(progress: SweepProgress) -> str:
    """Lays out the whole view: a title, the trials that matter now, and the summary line."""
    mark = "   [simulated cards]" if progress.frame.simulated else ""
    title = f"sweep {progress.frame.sweep}   {progress.frame.metric} ({progress.frame.goal}){mark}"
    trials = sorted(progress.trials.values(), key=_interest)[:_SHOWN_TRIALS]
    rows = [_row(trial, progress.frame.longest) for trial in sorted(trials, key=lambda trial: trial.number)]
    body = table(["trial", "status", "evaluations", "rung", "last", "best", "GPUs", "note"], rows) if rows else ""
    hidden = len(progress.trials) - len(trials)
    more = f"... and {hidden} more" if hidden else ""
    counts, *rest = _summary_parts(progress)  # two lines: the time left must not be cut off at 80 columns
    cut = "\n".join(progress.frame.cut_texts)
    return "\n".join(part for part in (title, cut, body, more, counts, " | ".join(rest)) if part)


class TerminalView:
    """Redraws the screen in place; events scroll above it."""

    interval_s = REDRAW_S

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._drawn_lines = 0

    def event(self, text: str) -> None:
        """Prints a line above the screen."""
        self._erase()
        self._stream.write(visible(text) + "\n")
        self._stream.flush()

    def refresh(self, progress: SweepProgress) -> None:
        """Redraws."""
        width = shutil.get_terminal_size().columns
        lines = [line[: width - 1] for line in visible(screen(progress)).split("\n")]
        self._erase()
        self._stream.write("\n".join(lines) + "\n")
        self._stream.flush()
        self._drawn_lines = len(lines)

    def close(self, progress: SweepProgress) -> None:
        """Draws the final state and leaves it standing."""
        self.refresh(progress)
        self._drawn_lines = 0

    def _erase(self) -> None:
        if self._drawn_lines:
            self._stream.write(f"\x1b[{self._drawn_lines}F\x1b[J")  # up to the first drawn line, clear below
        self._drawn_lines = 0


class LogView:
    """Writes one line an event and a summary line now and then: for log files, pipes and `ray job logs`."""

    def __init__(self, stream: TextIO, interval_s: float = SUMMARY_S) -> None:
        self._stream, self.interval_s = stream, interval_s

    def event(self, text: str) -> None:
        """Writes a line."""
        self._stream.write(visible(text) + "\n")
        self._stream.flush()

    def refresh(self, progress: SweepProgress) -> None:
        """Writes the summary line."""
        self.event(summary_line(progress))

    def close(self, progress: SweepProgress) -> None:
        """Writes the final table."""
        self.event(screen(progress))


def view_for(stream: TextIO | None = None) -> View:
    """Chooses the redrawing view for a terminal and log lines for everything else; standard error where None."""
    stream = stream or sys.stderr
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
