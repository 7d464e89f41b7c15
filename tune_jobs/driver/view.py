"""The live view of a sweep with rich: redrawn in place in a terminal, plain log lines anywhere else."""

import io
import sys
from typing import Protocol, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tune_jobs.analysis.further_trials import further_gain
from tune_jobs.config.language import duration_text, tr
from tune_jobs.records.progress import ENDED, SweepProgress, TrialProgress, TrialStatus, status_text
from tuning_common.cli import visible

REDRAW_S = 0.5
SUMMARY_S = 30.0  # between two summary lines in a log
_LOG_COLUMNS = 120
_SHOWN_TRIALS = 12  # more would push the summary off a small terminal
_SHOWN_BEST = 3  # shown in any case
_STYLES: dict[TrialStatus, str] = {"running": "cyan", "finished": "green", "failed": "red", "refused": "red"}


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
    return " | ".join(part for part in (*_summary_parts(progress), _gain_text(progress)) if part)


def _summary_parts(progress: SweepProgress) -> list[str]:
    ended = [tr("{count} of {total} trials ended", count=progress.count(*ENDED), total=progress.frame.total)]
    shown: tuple[TrialStatus, ...] = ("stopped", "failed", "refused", "running", "paused", "waiting")
    ended += [
        tr("{count} {end}", count=count, end=status_text(status))
        for status in shown
        if (count := progress.count(status))
    ]
    best = progress.best()
    parts = [", ".join(ended)]
    if best is not None:
        parts.append(tr("best {score:.3f} (trial {number})", score=best.best, number=best.number))
    left_s = progress.left_s()
    spent = duration_text(progress.now_s - progress.frame.started_s)
    if left_s is not None and progress.count(*ENDED) < progress.frame.total:
        spent = tr("{spent}, at most {left} left", spent=spent, left=duration_text(left_s))
    return [*parts, spent]


def _gain_text(progress: SweepProgress) -> str:
    """Returns what half as many further trials would add to a random search; empty for other methods."""
    ended = [one for one in progress.trials.values() if one.status in ("finished", "stopped")]
    scores = [one.best for one in ended if one.best is not None]
    gain = further_gain(scores, len(scores) // 2, progress.frame.goal) if progress.frame.is_random else None
    return "" if gain is None else gain.text


def layout(progress: SweepProgress) -> Group:
    """Lays out the whole view: a title, the trials that matter now, and the summary line."""
    frame = progress.frame
    simulated = f"   [{tr('simulated cards')}]" if frame.simulated else ""
    goal = tr("maximize") if frame.goal == "maximize" else tr("minimize")
    lines = [f"{tr('sweep')} {frame.sweep}   {frame.metric} ({goal}){simulated}", *frame.cut_texts]
    parts: list[Text | Table] = [Text(visible(line)) for line in lines]
    trials = _shown(progress)
    if trials:
        parts.append(_table(trials, progress))
    if hidden := len(progress.trials) - len(trials):
        parts.append(Text(tr("... and {count} more", count=hidden)))
    counts, *rest = _summary_parts(progress)  # two lines: the time left must not be cut off at 80 columns
    parts += [Text(counts), Text(" | ".join(rest), style="bold")]
    return Group(*parts, *(Text(gain) for gain in [_gain_text(progress)] if gain))


def _shown(progress: SweepProgress) -> list[TrialProgress]:
    """Returns the best trials and those that changed last, by number."""
    sign = -1.0 if progress.frame.goal == "maximize" else 1.0
    scored = [(sign * trial.best, number) for number, trial in progress.trials.items() if trial.best is not None]
    best = [number for _, number in sorted(scored)[:_SHOWN_BEST]]
    others = sorted((trial for number, trial in progress.trials.items() if number not in best), key=_interest)
    shown = [*best, *(trial.number for trial in others)][:_SHOWN_TRIALS]
    return [progress.trials[number] for number in sorted(shown)]


def _table(trials: list[TrialProgress], progress: SweepProgress) -> Table:
    best = progress.best()
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for name, justify in (
        (tr("trial"), "right"),
        (tr("status"), "left"),
        (tr("evals"), "right"),
        (tr("rung"), "right"),
    ):
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for name in (tr("last"), tr("best"), "GPUs"):
        table.add_column(name, justify="right", no_wrap=True)
    note = Text(tr("settings or reason"), no_wrap=True, overflow="ellipsis")
    table.add_column(note)  # the only column that shrinks
    for trial in trials:
        row = [Text(visible(cell), no_wrap=True, overflow="ellipsis") for cell in _row(trial, progress.frame.longest)]
        row[1].stylize(_STYLES.get(trial.status, "dim"))
        table.add_row(*row, style="bold" if trial is best else "")
    return table


def screen(progress: SweepProgress, columns: int = _LOG_COLUMNS) -> str:
    """Returns the whole view as plain text of at most so many columns."""
    stream = io.StringIO()
    Console(file=stream, width=columns, color_system=None, force_jupyter=False).print(layout(progress))
    return "\n".join(line.rstrip() for line in stream.getvalue().rstrip().split("\n"))


class TerminalView:
    """Redraws the screen in place; events scroll above it."""

    interval_s = REDRAW_S

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream, force_terminal=True, force_jupyter=False, highlight=False)
        self._live: Live | None = None  # one for each phase

    def event(self, text: str) -> None:
        """Prints a line above the screen."""
        self._console.print(Text(visible(text)), soft_wrap=True)

    def refresh(self, progress: SweepProgress) -> None:
        """Redraws."""
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
            self._live.start()
            self._console.show_cursor(True)  # rich hides it, and a driver that dies would leave it hidden
        self._live.update(layout(progress), refresh=True)

    def close(self, progress: SweepProgress) -> None:
        """Draws the final state and leaves it standing."""
        self.refresh(progress)
        if self._live is not None:
            self._live.stop()
        self._live = None


class LogView:
    """Writes one line an event and a summary line now and then: for log files, pipes and `ray job logs`."""

    interval_s = SUMMARY_S

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

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


def _row(trial: TrialProgress, longest: int) -> list[str]:
    return [
        str(trial.number),
        status_text(trial.status),
        f"{trial.iteration}/{longest}",
        "-" if trial.rung is None else str(trial.rung),
        "-" if trial.last is None else f"{trial.last:.3f}",
        "-" if trial.best is None else f"{trial.best:.3f}",
        f"{trial.share:g}" if trial.share else "-",
        "; ".join(part for part in (trial.settings, "" if trial.status == "stopped" else trial.reason) if part)
        or trial.name,
    ]
