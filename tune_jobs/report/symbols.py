"""Symbols of trial outcomes: each outcome has its own shape, so that no one has to distinguish colours."""

from collections.abc import Callable, Collection, Sequence

from tune_jobs.analysis.candidates import Scored
from tune_jobs.analysis.sweep_analysis import Analysis
from tune_jobs.config.language import tr
from tune_jobs.records.ledger import OUTCOMES, TrialOutcome
from tune_jobs.report.drawing import Cross, Dot, DrawnShape, Ink, Label, Polyline, Rectangle, text_width
from tune_jobs.report.formatting import outcome_text, trial_tip

_SYMBOL_SIZE = 13.0  # a smaller bar has no space for a symbol
_PALE = 0.6
Swatch = Callable[[float, float], Sequence[DrawnShape]]


def outcome_symbol(
    outcome: TrialOutcome, x: float, y: float, *, radius: float = 4.0, tip: str = "", trial: str = ""
) -> DrawnShape:
    """Draws a trial as a small shape.

    Dot: finished. Ring: stopped early. x: failed. Plus: out of memory. Square: refused. Triangle: still running.
    """
    if outcome == "finished":
        return Dot(x=x, y=y, radius=radius, ink=outcome, tip=tip, trial=trial)
    if outcome == "stopped":
        return Dot(x=x, y=y, radius=radius, ink=outcome, hollow=True, tip=tip, trial=trial)
    if outcome in ("failed", "oom"):
        upright = outcome == "oom"
        return Cross(x=x, y=y, radius=radius + upright * 0.8, ink=outcome, upright=upright, tip=tip, trial=trial)
    if outcome == "refused":
        return Rectangle(
            x=x - radius, y=y - radius, width=2 * radius, height=2 * radius, ink=outcome, tip=tip, trial=trial
        )
    tall = 1.2 * radius
    corners = ((x - radius, y - tall), (x + tall, y), (x - radius, y + tall), (x - radius, y - tall))
    return Polyline(points=corners, ink=outcome, width=1.8, tip=tip, trial=trial)


def outcome_bar(
    outcome: TrialOutcome,
    *,
    x: float,
    y: float,
    width: float,
    height: float,
    opacity: float = 1.0,
    tip: str = "",
    trial: str = "",
) -> list[DrawnShape]:
    """Draws a bar: pale if the trial was stopped or still runs, with a symbol if it failed or still runs."""
    pale = outcome in ("stopped", "running")
    shapes: list[DrawnShape] = [
        Rectangle(
            x=x,
            y=y,
            width=width,
            height=height,
            ink=outcome,
            outline="surface",
            radius=1.5,
            opacity=opacity * (_PALE if pale else 1.0),
            tip=tip,
            trial=trial,
        )
    ]
    if outcome in ("failed", "oom", "running") and min(width, height) >= _SYMBOL_SIZE * 0.75 and width >= _SYMBOL_SIZE:
        middle_x, middle_y = x + width / 2, y + height / 2
        if outcome == "running":
            shapes.append(outcome_symbol(outcome, middle_x, middle_y, radius=3.2, tip=tip, trial=trial))
        else:
            shapes.append(
                Cross(x=middle_x, y=middle_y, radius=3.5, ink="surface", upright=outcome == "oom", tip=tip, trial=trial)
            )
    return shapes


def trial_symbol(analysis: Analysis, one: Scored, x: float, y: float) -> DrawnShape:
    """Draws a trial with a score; the winner is a large dot."""
    trial = one.trial
    tip = trial_tip(analysis, trial, one.score)
    if is_winner(analysis, trial.trial_id):
        return Dot(x=x, y=y, radius=6.5, ink="accent", tip=tip, trial=trial.trial_id)
    return outcome_symbol(trial.status, x, y, tip=tip, trial=trial.trial_id)


def is_winner(analysis: Analysis, trial_id: str) -> bool:
    """Returns whether a trial is the winner."""
    return analysis.winner is not None and analysis.winner.trial.trial_id == trial_id


def legend(
    analysis: Analysis, width: float, outcomes: Collection[TrialOutcome], *, bars: bool = False
) -> tuple[list[DrawnShape], float]:
    """Returns the shapes of a legend and its height.

    Args:
        analysis: The analysis of the sweep.
        width: Width of the chart.
        outcomes: The outcomes that the chart shows.
        bars: Whether trials are bars.
    """
    entries: list[tuple[Swatch, str]] = []
    if analysis.winner is not None:
        entries.append((_winner_bar if bars else dot_swatch("accent", 6.0), tr("winner")))
    drawn = [outcome for outcome in OUTCOMES if outcome in outcomes]
    entries += [((bar_swatch if bars else symbol_swatch)(outcome), outcome_text(outcome)) for outcome in drawn]
    return lay_legend(entries, width)


def dot_swatch(ink: Ink, radius: float = 4.5) -> Swatch:
    """Returns a legend swatch: a dot of a colour."""
    return lambda x, y: [Dot(x=x, y=y, radius=radius, ink=ink)]


def symbol_swatch(outcome: TrialOutcome) -> Swatch:
    """Returns a legend swatch: a trial's symbol."""
    return lambda x, y: [outcome_symbol(outcome, x, y)]


def bar_swatch(outcome: TrialOutcome) -> Swatch:
    """Returns a legend swatch: a trial's bar."""
    return lambda x, y: outcome_bar(outcome, x=x - 7, y=y - 6, width=14.0, height=12.0)


def _winner_bar(x: float, y: float) -> list[DrawnShape]:
    return [Rectangle(x=x - 7, y=y - 6, width=14.0, height=12.0, ink="accent", radius=1.5)]


def lay_legend(entries: Sequence[tuple[Swatch, str]], width: float) -> tuple[list[DrawnShape], float]:
    """Arranges swatches with their texts in rows; returns the shapes and their height."""
    shapes: list[DrawnShape] = []
    x, y = 4.0, 8.0
    for swatch, text in entries:
        room = text_width(text) + 38.0
        if x + room > width and x > 4.0:
            x, y = 4.0, y + 20.0
        shapes += [*swatch(x + 6, y), Label(x=x + 19, y=y, text=text)]
        x += room
    return shapes, y + 18.0
