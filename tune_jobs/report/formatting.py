"""Text formats of scores, costs and trials, shared by all charts of a report."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from tune_jobs.analysis.sweep_analysis import Analysis, describe_settings
from tune_jobs.config.language import duration_text, tr
from tune_jobs.config.parameters import show_value
from tune_jobs.records.ledger import TrialOutcome, TrialRecord
from tune_jobs.records.progress import status_text
from tune_jobs.report.axes import Plot
from tune_jobs.report.drawing import Drawing

NARROW = 420.0  # drawings below this width are for a phone


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart of a report, or the reason why there is none.

    Attributes:
        key: Short name, for links.
        title: The question that the chart answers.
        note: How to read it, in one or two sentences.
        draw: Returns the drawing for a width; None if there is nothing to draw.
        wide: Whether it takes the whole width of a page.
        reason: Why there is nothing to draw.
    """

    key: str
    title: str
    note: str = ""
    draw: Callable[[float], Drawing] | None = None
    wide: bool = False
    reason: str = ""


def outcome_text(outcome: TrialOutcome) -> str:
    """Formats how a trial ended.

    >>> outcome_text("oom"), outcome_text("running")
    ('out of memory', 'not over')
    """
    if outcome == "oom":
        return tr("out of memory")
    return tr("not over") if outcome == "running" else status_text(outcome)


def plain_value(value: object) -> str:
    """Formats a setting briefly: for a path to a model, the name of its folder or experiment.

    >>> plain_value("/data/models/my-t5"), plain_value("gogamza/kobart-base-v2"), plain_value(1e-4)
    ('my-t5', 'gogamza/kobart-base-v2', '1e-4')
    >>> plain_value("/work/outputs/experiments/wide_t5_lr1e-04/models/best_model")
    'wide_t5_lr1e-04'
    """
    text = show_value(value).removesuffix("/models/best_model")
    is_path = isinstance(value, str) and text.startswith(("/", "./", "../", "~"))
    return text.rstrip("/").rsplit("/", 1)[-1] if is_path else text


def metric_name(metric: str) -> str:
    """Formats the name of a metric.

    >>> metric_name("eval/rouge_combined_f1"), metric_name("eval/loss")
    ('ROUGE combined F1', 'loss')
    """
    tail = metric.split("/", 1)[-1]
    if not tail.startswith("rouge"):
        return tr("loss") if tail == "loss" else tail.replace("_", " ")
    name = tail.removeprefix("rouge").removesuffix("_f1").strip("_")
    return f"ROUGE{'-' if name in ('1', '2', 'L') else ' '}{name} F1"


def show_score(score: float, metric: str) -> str:
    """Formats a score: ROUGE points with two decimals, other metrics with four digits.

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
    """Returns the tooltip of a trial."""
    lines = [trial.name]
    if score is not None:
        lines.append(f"{metric_name(analysis.sweep.metric)} {show_score(score, analysis.sweep.metric)}")
    settings = describe_settings(trial.sampled, analysis.parameters)
    ran = outcome_text(trial.status)
    if trial.wall_s:
        ran = tr("{end} after {time}", end=ran, time=duration_text(trial.wall_s))
    return "\n".join([*lines, *([settings] if settings else []), ran])


def inner_plot(
    width: float, height: float, left: float, bottom: float = 46.0, top: float = 10.0, right: float = 14.0
) -> Plot:
    """Returns the plot area of a drawing; left, bottom, top and right are its margins."""
    return Plot(left=left, top=top, right=width - right, bottom=height - bottom)


def sentence(text: str) -> str:
    """Starts a text with a capital letter.

    >>> sentence("loss against learning rate"), sentence("")
    ('Loss against learning rate', '')
    """
    return text[:1].upper() + text[1:]


def amount(value: float) -> str:
    """Formats a positive number with three digits, and a large one without an exponent.

    >>> amount(0.0538), amount(3.789), amount(12345.6)
    ('0.0538', '3.79', '12,346')
    """
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def gpu_time(gpu_s: float) -> str:
    """Formats share times seconds in a fitting unit.

    >>> gpu_time(13640.0), gpu_time(240.0), gpu_time(19.4), gpu_time(3600.0)
    ('3.79 GPU-hours', '4 GPU-minutes', '19.4 GPU-seconds', '1 GPU-hour')
    """
    if gpu_s >= 3600:
        shown = amount(gpu_s / 3600)
        return tr("1 GPU-hour") if shown == "1" else tr("{shown} GPU-hours", shown=shown)
    if gpu_s >= 60:
        shown = amount(gpu_s / 60)
        return tr("1 GPU-minute") if shown == "1" else tr("{shown} GPU-minutes", shown=shown)
    shown = amount(gpu_s)
    return tr("1 GPU-second") if shown == "1" else tr("{shown} GPU-seconds", shown=shown)


def show_moment(unix_s: float) -> str:
    """Returns a moment in the zone of this machine, as terminal and week show it."""
    return f"{datetime.fromtimestamp(unix_s).astimezone():%Y-%m-%d %H:%M %Z}"


def percent(part: float) -> str:
    """Formats a fraction as percent; a small positive one is not shown as 0%.

    >>> percent(0.256), percent(0.004), percent(0.0)
    ('26%', '<1%', '0%')
    """
    return "<1%" if 0 < part < 0.005 else f"{part:.0%}"


def trials_text(count: int) -> str:
    """Formats a number of trials.

    >>> trials_text(1), trials_text(12)
    ('1 trial', '12 trials')
    """
    return tr("1 trial") if count == 1 else tr("{count:,} trials", count=count)
