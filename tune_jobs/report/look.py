"""What all charts of a report share: how scores and trials are written, and which ink an outcome has."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from common.units import format_duration
from tune_jobs.analysis.candidates import Scored
from tune_jobs.analysis.sweep_analysis import Analysis, describe_settings
from tune_jobs.records.ledger import OUTCOMES, TrialOutcome, TrialRecord
from tune_jobs.report.axes import Plot
from tune_jobs.report.drawing import Cross, Dot, Drawing, Label, Shape, text_width

OUTCOME_TEXT: dict[TrialOutcome, str] = {
    "finished": "finished",
    "stopped": "stopped early",
    "failed": "failed",
    "oom": "out of memory",
    "refused": "refused",
    "running": "not over",
}
NARROW = 420.0  # drawings below this width are for a phone


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart of a report, or the reason why there is none.

    Attributes:
        key: Short name, for links.
        title: What it answers.
        note: How to read it, in one or two sentences.
        draw: Makes the drawing for a width; None where there is nothing to draw.
        wide: Whether it takes the whole width of a page.
        reason: Why there is nothing to draw.
    """

    key: str
    title: str
    note: str = ""
    draw: Callable[[float], Drawing] | None = None
    wide: bool = False
    reason: str = ""


def metric_name(metric: str) -> str:
    """Writes a metric for people.

    >>> metric_name("eval/rouge_combined_f1"), metric_name("eval/loss")
    ('ROUGE combined F1', 'loss')
    """
    tail = metric.split("/", 1)[-1]
    if not tail.startswith("rouge"):
        return tail.replace("_", " ")
    name = tail.removeprefix("rouge").removesuffix("_f1").strip("_")
    return f"ROUGE{'-' if name in ('1', '2', 'L') else ' '}{name} F1"


def show_score(score: float, metric: str) -> str:
    """Writes a score with the digits that mean something: ROUGE points have two decimals.

    >>> show_score(29.5501, "eval/rouge1_f1"), show_score(2.34567, "eval/loss")
    ('29.55', '2.346')
    """
    return f"{score:.2f}" if "rouge" in metric else f"{score:.4g}"


def goodness(analysis: Analysis, score: float) -> float:
    """Returns 0 for the poorest score of the sweep and 1 for the best."""
    scores = [one.score for one in analysis.scored]
    low, high = min(scores), max(scores)
    part = (score - low) / (high - low) if high > low else 1.0
    return part if analysis.maximize else 1 - part


def trial_tip(analysis: Analysis, trial: TrialRecord, score: float | None = None) -> str:
    """What a person sees when pointing at a trial."""
    lines = [trial.name]
    if score is not None:
        lines.append(f"{metric_name(analysis.sweep.metric)} {show_score(score, analysis.sweep.metric)}")
    settings = describe_settings(trial.sampled, analysis.parameters)
    ran = f"{OUTCOME_TEXT[trial.status]} after {format_duration(trial.wall_s)}" if trial.wall_s else trial.status
    return "\n".join([*lines, *([settings] if settings else []), ran])


def mark(analysis: Analysis, one: Scored, x: float, y: float, *, radius: float = 4.0) -> Shape:
    """Draws a trial as a dot: filled when it ran to its end, a ring when it was stopped, a cross when it failed."""
    trial = one.trial
    tip = trial_tip(analysis, trial, one.score)
    winner = analysis.winner
    if winner is not None and trial.trial_id == winner.trial.trial_id:
        return Dot(x=x, y=y, radius=radius + 2.5, ink="accent", tip=tip, trial=trial.trial_id)
    if trial.status in ("failed", "oom", "refused"):
        return Cross(x=x, y=y, radius=radius, ink=trial.status, tip=tip, trial=trial.trial_id)
    hollow = trial.status != "finished"
    return Dot(x=x, y=y, radius=radius, ink=trial.status, hollow=hollow, tip=tip, trial=trial.trial_id)


def legend(analysis: Analysis, width: float) -> tuple[list[Shape], float]:
    """Says which ink is which outcome; returns the shapes and the height that they take."""
    entries: list[tuple[str, str]] = [("accent", "winner")] if analysis.winner else []
    entries += [(outcome, OUTCOME_TEXT[outcome]) for outcome in OUTCOMES if analysis.count(outcome)]
    return lay_legend(entries, width)


def lay_legend(entries: Sequence[tuple[str, str]], width: float) -> tuple[list[Shape], float]:
    """Lays out (ink, text) pairs in as many lines as they need; returns the shapes and the height that they take."""
    shapes: list[Shape] = []
    x, y = 4.0, 8.0
    for ink, text in entries:
        room = text_width(text) + 34.0
        if x + room > width and x > 4.0:
            x, y = 4.0, y + 20.0
        shapes += [Dot(x=x + 3, y=y, radius=4.5, ink=ink), Label(x=x + 14, y=y, text=text)]
        x += room
    return shapes, y + 18.0


def inner_plot(width: float, height: float, left: float, bottom: float = 46.0, top: float = 10.0) -> Plot:
    """The room for data inside a drawing."""
    return Plot(left=left, top=top, right=width - 14.0, bottom=height - bottom)


def trials_text(count: int) -> str:
    """Writes a number of trials.

    >>> trials_text(1), trials_text(12)
    ('1 trial', '12 trials')
    """
    return f"{count} trial" if count == 1 else f"{count:,} trials"
