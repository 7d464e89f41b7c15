"""Charts of trials: the best configurations, parameter importances and learning curves."""

from collections.abc import Sequence
from dataclasses import dataclass

from tune_jobs.analysis.candidates import Scored
from tune_jobs.analysis.importance import Importances
from tune_jobs.analysis.sweep_analysis import Analysis
from tune_jobs.config.language import tr
from tune_jobs.records.ledger import TrialRecord
from tune_jobs.report.axes import Axis, draw_x_axis, draw_y_axis, padded
from tune_jobs.report.charts_space import place_score, score_axis, thinned
from tune_jobs.report.drawing import Canvas, Dot, Drawing, DrawnShape, Label, Polyline, Rectangle, shorten, text_width
from tune_jobs.report.formatting import NARROW, inner_plot, metric_name, plain_value, show_score, trial_tip, trials_text
from tune_jobs.report.symbols import is_winner, legend, outcome_symbol, trial_symbol

MOST_CURVES = 200
_LEADERS = 10
_X_AXES = ("train/epoch", "train/global_step", "iteration")  # the first that every evaluation has


def draw_leaders(analysis: Analysis, width: float) -> Drawing:
    """Draws the best configurations with the band in which they count as tied."""
    leaders = analysis.candidates[:_LEADERS]
    metric = analysis.sweep.metric
    above = width < NARROW  # on a phone, labels are above their rows to leave space for the rows
    room = width - 4.0 if above else width * 0.5
    names = [_short_name(f"{i}. ", one.best.trial, analysis, room) for i, one in enumerate(leaders, start=1)]
    left = 8.0 if above else max(text_width(name) for name in names) + 22.0
    row = 36.0 if above else min(max(200.0 / len(leaders), 24.0), 40.0)
    canvas = Canvas(width=width, height=68.0 + row * len(leaders))
    plot = inner_plot(width, canvas.height, left=left, top=22.0)
    best = leaders[0]
    scores = [one.score for candidate in leaders for one in candidate.trials] + [one.score for one in leaders]
    band = analysis.band
    edge = best.score - (band or 0.0) if analysis.maximize else best.score + (band or 0.0)
    low, high = padded(min([*scores, edge]), max([*scores, edge]))
    axis = Axis(low=low, high=high, start=plot.left, end=plot.right)
    if band:
        x1, x2 = sorted((axis.at(edge), axis.at(best.score)))
        canvas.add(
            Rectangle(x=x1, y=plot.top, width=x2 - x1, height=plot.height, ink="band", tip=analysis.noise.source)
        )
        text = tr("tie: within {band}", band=show_score(band, metric))
        x = min(max((x1 + x2) / 2, plot.left + text_width(text) / 2), plot.right - text_width(text) / 2)
        canvas.add(Label(x=x, y=plot.top - 10, text=text, anchor="middle"))
    draw_x_axis(canvas, plot, axis.ticks(4 if width < NARROW else 6), metric_name(metric))
    for i, candidate in enumerate(leaders):
        y = plot.top + (i + (0.75 if above else 0.5)) * row
        label_y = y - 17.0 if above else y
        canvas.add(Label(x=0.0, y=label_y, text=names[i], ink="ink" if i == 0 else "muted", bold=i == 0, halo=above))
        if len(candidate.trials) > 1:
            ends = [axis.at(one.score) for one in candidate.trials]
            canvas.add(Polyline(points=((min(ends), y), (max(ends), y)), ink="muted", width=2.0))
            canvas.extend(Dot(x=end, y=y, radius=2.5, ink="muted") for end in ends)
        canvas.add(
            trial_symbol(
                analysis, Scored(trial=candidate.best.trial, score=candidate.score), axis.at(candidate.score), y
            )
        )
    return canvas.finish(
        tr("The best {count} configurations by {metric}.", count=len(leaders), metric=metric_name(metric))
    )


def draw_importance(found: Importances, width: float) -> Drawing:
    """Draws importances with their intervals and with the importance that shuffled scores reach."""
    rows = found.parameters[:12]
    left = min(max(text_width(one.name) for one in rows) + 16.0, width * 0.42)
    canvas = Canvas(width=width, height=62.0 + 34.0 * max(len(rows), 2))
    plot = inner_plot(width, canvas.height, left=left, right=22.0)
    axis = Axis(low=0.0, high=1.0, start=plot.left, end=plot.right)
    ticks = [(axis.at(part / 4), f"{part * 25}%") for part in ((0, 2, 4) if width < NARROW else range(5))]
    draw_x_axis(canvas, plot, ticks, tr("importance"))
    height = plot.height / len(rows)
    for i, one in enumerate(rows):
        y = plot.top + (i + 0.5) * height
        tip = tr(
            "{name}: {part:.0%}\n90% of resampled sweeps: {low:.0%} to {high:.0%}\nshuffled scores reach {chance:.0%}",
            name=one.name,
            part=one.part,
            low=one.low,
            high=one.high,
            chance=one.chance,
        )
        ink = "accent" if one.stands_out else "stopped"
        canvas.add(
            Label(x=plot.left - 8, y=y, text=shorten(one.name, left - 12), anchor="end", ink="ink"),
            Rectangle(
                x=plot.left, y=y - 8, width=axis.at(one.part) - plot.left, height=16, ink=ink, radius=2.0, tip=tip
            ),
            Polyline(points=((axis.at(one.low), y), (axis.at(one.high), y)), ink="surface", width=4.5),
            Polyline(points=((axis.at(one.low), y), (axis.at(one.high), y)), ink="ink", width=1.5),
            *(
                Polyline(points=((axis.at(end), y - 4), (axis.at(end), y + 4)), ink="ink")
                for end in (one.low, one.high)
            ),
            Polyline(points=((axis.at(one.chance), y - 13), (axis.at(one.chance), y + 13)), ink="failed", dashed=True),
        )
    return canvas.finish(tr("Importance: {parts}.", parts=", ".join(f"{one.name} {one.part:.0%}" for one in rows)))


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The evaluations of a trial as (x, score)."""

    one: Scored
    points: tuple[tuple[float, float], ...]


def find_curves(analysis: Analysis) -> tuple[str, list[Curve]]:
    """Returns the name of the x axis and a curve for each trial with an evaluation, the best first.

    The x axis is epochs if every evaluation has them, because trials with different batch sizes make different
    numbers of steps from the same data.
    """
    metric = analysis.sweep.metric
    rows = {one.trial.trial_id: [r for r in one.trial.history if r.get(metric) is not None] for one in analysis.scored}
    every = [row for trial_rows in rows.values() for row in trial_rows]
    name = next((name for name in _X_AXES if every and all(row.get(name) is not None for row in every)), "")
    curves = []
    for one in analysis.scored:
        points = []
        for number, row in enumerate(rows[one.trial.trial_id], start=1):
            x, y = row.get(name) if name else float(number), row[metric]
            if x is not None and y is not None:
                points.append((x, y))
        if points:
            curves.append(Curve(one=one, points=tuple(points)))
    names = {"train/epoch": tr("epochs"), "train/global_step": tr("optimizer steps")}
    return names.get(name, tr("evaluations")), curves


def draw_curves(analysis: Analysis, width: float) -> Drawing:
    """Draws the score over training; a ring at the end of a curve means that the trial was stopped."""
    x_name, every = find_curves(analysis)
    keep = {one.trial.trial_id for one in thinned([curve.one for curve in every], MOST_CURVES)}
    curves = [curve for curve in every if curve.one.trial.trial_id in keep]
    keys, top = legend(analysis, width, {curve.one.trial.status for curve in curves})
    canvas = Canvas(width=width, height=top + (380.0 if width >= NARROW else 290.0))
    canvas.extend(keys)
    plot = inner_plot(width, canvas.height, left=48.0, top=top + 22.0)
    longest = max(x for curve in curves for x, _ in curve.points)
    across = Axis(low=0.0, high=longest, start=plot.left, end=plot.right - 8)
    ys = [y for curve in curves for _, y in curve.points]
    best, _ = score_axis(analysis, plot.bottom, plot.top)
    low, high = padded(min(ys), max(ys), 0.04)
    low, high = (min(low, best.low), best.high) if analysis.maximize else (best.low, min(high, best.high * 1.5))
    axis = Axis(low=low, high=high, start=plot.bottom, end=plot.top)
    draw_y_axis(canvas, plot, axis.ticks())
    whole = all(x == int(x) for curve in curves for x, _ in curve.points)
    draw_x_axis(canvas, plot, across.ticks(whole=whole), x_name, grid=False)
    free_from = 0.0
    for x in map(across.at, _rungs(analysis, curves)):
        canvas.add(Polyline(points=((x, plot.top), (x, plot.bottom)), ink="muted", dashed=True))
        if x >= free_from:
            canvas.add(Label(x=x, y=plot.top - 10, text=tr("rung"), anchor="middle", size=11.0))
            free_from = x + 34.0
    for curve in reversed(curves):
        canvas.extend(_curve_shapes(analysis, curve, across, axis))
    stopped = sum(1 for curve in curves if curve.one.trial.status == "stopped")
    return canvas.finish(
        tr(
            "{metric} over {x_name} of {trials}, {stopped} stopped early.",
            metric=metric_name(analysis.sweep.metric),
            x_name=x_name,
            trials=trials_text(len(curves)),
            stopped=stopped,
        )
    )


def _curve_shapes(analysis: Analysis, curve: Curve, across: Axis, axis: Axis) -> list[DrawnShape]:
    trial = curve.one.trial
    won = is_winner(analysis, trial.trial_id)
    points = tuple((across.at(x), place_score(axis, y)) for x, y in curve.points)
    tip = trial_tip(analysis, trial, curve.one.score)
    ink = "accent" if won else trial.status
    opacity = 1.0 if won else 0.75 if trial.status == "finished" else 0.6
    width = 3.0 if won else 1.5
    x, y = points[-1]
    shapes: list[DrawnShape] = []
    if len(points) > 1:
        shapes.append(Polyline(points=points, ink=ink, width=width, opacity=opacity, tip=tip, trial=trial.trial_id))
    if won:
        shapes.append(Dot(x=x, y=y, radius=5.0, ink="accent", tip=tip, trial=trial.trial_id))
    if trial.status != "finished" or (len(points) == 1 and not won):
        shapes.append(outcome_symbol(trial.status, x, y, radius=3.5, tip=tip, trial=trial.trial_id))
    return shapes


def _rungs(analysis: Analysis, curves: Sequence[Curve]) -> list[float]:
    """Returns the x of each rung; a rung whose x differs between trials is left out."""
    found: dict[float, set[float]] = {}
    end = max(x for curve in curves for x, _ in curve.points)
    names = [name for name in _X_AXES if all(name in row for c in curves for row in c.one.trial.history)]
    for curve in curves:
        for row in curve.one.trial.history:
            rung, x = row.get("rung"), row.get(names[0]) if names else None
            if rung is not None and x is not None:
                found.setdefault(rung, set()).add(round(x, 3))
    return [next(iter(xs)) for _, xs in sorted(found.items()) if len(xs) == 1 and max(xs) < end]


def _short_name(number: str, trial: TrialRecord, analysis: Analysis, room: float) -> str:
    """Describes a trial by as many settings as fit, the most important first; without settings, by its name."""
    short = {"learning_rate": "lr", "batch_size": "bs", "model": ""}
    known = [one for one in analysis.parameters if one.name in trial.sampled]
    parts = [
        f"{short.get(one.name, one.name)} {plain_value(trial.sampled[one.name])}".strip()
        for one in sorted(known, key=lambda one: one.name not in short)
    ]
    text = number + (shorten(parts[0], room - text_width(number)) if parts else trial.name)
    for part in parts[1:]:
        if text_width(f"{text}, {part}") > room:
            break
        text = f"{text}, {part}"
    return shorten(text, room)
