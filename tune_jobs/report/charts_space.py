"""Charts of the search space: score against one parameter, two parameters, all parameters."""

import dataclasses
import statistics
from collections.abc import Sequence

from tune_jobs.analysis.candidates import Scored
from tune_jobs.analysis.sweep_analysis import Analysis
from tune_jobs.config.language import tr
from tune_jobs.config.parameters import Parameter, show_value, to_number
from tune_jobs.report.axes import (
    Axis,
    Plot,
    draw_x_axis,
    draw_y_axis,
    padded,
    parameter_axis,
)
from tune_jobs.report.drawing import Canvas, Drawing, Label, Polyline, Rectangle, ramp, shorten, text_width
from tune_jobs.report.formatting import NARROW, goodness, inner_plot, metric_name, show_score, trial_tip, trials_text
from tune_jobs.report.symbols import is_winner, trial_symbol

MOST_LINES = 300  # parallel coordinates of more trials are a grey area
MOST_DOTS = 600
_FEW = 0.25  # a larger part of trials beyond the axis is a group of its own, not outliers
_REACH = 3.0  # times the distance from the best score to the median
_LEAST_OF_A_MEDIAN = 3
_EVERYWHERE = 0.8  # good trials that cover this part of an axis do not narrow it


def thinned(scored: Sequence[Scored], most: int) -> Sequence[Scored]:
    """Returns at most `most` trials: the best ones for a third of them, then every n-th of the others."""
    if len(scored) <= most:
        return scored
    best = most // 3
    step = (len(scored) - best) / (most - best)
    return [*scored[:best], *(scored[best + int(i * step)] for i in range(most - best))]


def score_axis(analysis: Analysis, start: float, end: float) -> tuple[Axis, int]:
    """Returns an axis for scores and how many poor trials lie beyond its end.

    Diverged trials would compress the rest of the chart. If a few trials have less than half of the best score (or a
    loss 50 % above the best) and are six times as far from it as the median, the axis ends half way to them. Trials
    beyond its end are drawn at the edge.
    """
    scores = [one.score for one in analysis.scored]
    best, worst = (max(scores), min(scores)) if analysis.maximize else (min(scores), max(scores))
    reach = _REACH * abs(best - statistics.median(scores))
    outside = sum(1 for score in scores if abs(best - score) > reach)
    diverged = abs(best - worst) > max(2 * reach, abs(best) / 2)
    if diverged and reach > 0 and outside <= _FEW * len(scores):
        worst = best - reach if analysis.maximize else best + reach
    low, high = min(best, worst), max(best, worst)
    beyond = sum(1 for score in scores if not low <= score <= high)
    low, high = padded(low, high, 0.08)
    return Axis(low=low, high=high, start=start, end=end), beyond


def place_score(axis: Axis, score: float) -> float:
    """Returns the position of a score; a score beyond the axis is placed at its edge."""
    return axis.at(min(max(score, axis.low), axis.high))


def draw_slice(analysis: Analysis, parameter: Parameter, width: float) -> Drawing:
    """Draws each trial's score against one parameter."""
    canvas = Canvas(width=width, height=300.0)
    plot = inner_plot(width, canvas.height, left=48.0, top=26.0 if score_axis(analysis, 1.0, 0.0)[1] else 10.0)
    axis, beyond = score_axis(analysis, plot.bottom, plot.top)
    draw_y_axis(canvas, plot, axis.ticks())
    across, ticks = parameter_axis(parameter, plot.left, plot.right)
    is_listed = parameter.scale == "category"
    draw_x_axis(canvas, plot, ticks, parameter.name, grid=not is_listed, categories=is_listed)
    shown = [one for one in analysis.scored if parameter.name in one.trial.sampled]
    if parameter.scale == "category":
        _add_medians(canvas, analysis, parameter, axis, across, shown)
    for one in reversed(thinned(shown, MOST_DOTS)):  # the best on top
        x = across.at(parameter.position(one.trial.sampled[parameter.name]))
        if parameter.scale == "category":
            x += _jitter(one.trial.trial_id) * min(18.0, plot.width / len(parameter.values) * 0.3)
        canvas.add(trial_symbol(analysis, one, x, place_score(axis, one.score)))
    if beyond:
        message = (
            tr("{trials} beyond the bottom, drawn at its edge")
            if analysis.maximize
            else tr("{trials} beyond the top, drawn at its edge")
        )
        text = message.format(trials=trials_text(beyond))
        canvas.add(Label(x=plot.right, y=8.0, text=text, anchor="end", size=11.0))
    name = metric_name(analysis.sweep.metric)
    return canvas.finish(
        tr(
            "{name} of {trials} against {parameter}.",
            name=name,
            trials=trials_text(len(shown)),
            parameter=parameter.name,
        )
    )


def draw_heat_map(analysis: Analysis, across: Parameter, up: Parameter, width: float) -> Drawing:
    """Draws the best score in each cell of two parameters, and how many trials it comes from."""
    columns, rows = _cells(across, 6 if width >= NARROW else 4), _cells(up, 5)
    left = min(max(text_width(text) for _, text in rows) + 16.0, width * 0.3)
    canvas = Canvas(width=width, height=300.0)
    plot = inner_plot(width, canvas.height, left=left, top=26.0)
    metric = analysis.sweep.metric
    cells: dict[tuple[int, int], list[Scored]] = {}
    for one in analysis.scored:
        if across.name in one.trial.sampled and up.name in one.trial.sampled:
            key = (_cell_of(across, columns, one), _cell_of(up, rows, one))
            cells.setdefault(key, []).append(one)
    cell_width, cell_height = plot.width / len(columns), plot.height / len(rows)
    for i in range(len(columns)):
        for j in range(len(rows)):
            x, y = plot.left + i * cell_width, plot.bottom - (j + 1) * cell_height
            inside = cells.get((i, j), [])
            _add_cell(canvas, analysis, inside, Plot(left=x, top=y, right=x + cell_width, bottom=y + cell_height))
    for j, (_, text) in enumerate(rows):
        shown = shorten(text, left - 12.0)
        y = plot.bottom - (j + 0.5) * cell_height
        canvas.add(Label(x=plot.left - 8, y=y, text=shown, anchor="end"))
    ticks = [(plot.left + (i + 0.5) * cell_width, text) for i, (_, text) in enumerate(columns)]
    draw_x_axis(canvas, plot, ticks, across.name, grid=False, categories=across.scale == "category")
    canvas.add(Label(x=2.0, y=10.0, text=up.name, ink="ink"))
    best = max(cells.values(), key=lambda cell: goodness(analysis, cell[0].score), default=[])
    text = tr("Best {metric} by {one} and {other}.", metric=metric_name(metric), one=across.name, other=up.name)
    if best:
        text += " " + tr("Best cell: {score}.", score=show_score(best[0].score, metric))
    return canvas.finish(text)


def draw_parallel(analysis: Analysis, important: Sequence[str], width: float) -> Drawing:
    """Draws each trial as a line through its settings to its score; better trials are darker and on top.

    Args:
        analysis: The analysis of the sweep.
        important: Parameter names, the most important first; they are kept if there is no space for all.
        width: Width of the drawing.
    """
    narrow = width < NARROW
    canvas = Canvas(width=width, height=340.0)
    ranks = {name: rank for rank, name in enumerate(important)}
    kept = sorted(analysis.parameters, key=lambda one: ranks.get(one.name, len(ranks)))[: 4 if narrow else 9]
    parameters = [one for one in analysis.parameters if one in kept]
    plot = Plot(left=40.0, top=44.0, right=width - 48.0, bottom=canvas.height - 16.0)
    gap = plot.width / len(parameters)
    xs = [plot.left + gap * i for i in range(len(parameters) + 1)]
    crowded = any(text_width(one.name) > gap - 12 for one in parameters)  # then titles alternate between two heights
    room = (2 if crowded else 1) * gap - 12
    score, _ = score_axis(analysis, plot.bottom, plot.top)
    axes = [parameter_axis(parameter, plot.bottom, plot.top) for parameter in parameters]
    complete = [one for one in analysis.scored if all(p.name in one.trial.sampled for p in parameters)]
    drawn = thinned(complete, MOST_LINES)
    for one in reversed(drawn):
        settings = one.trial.sampled
        ends = [axis.at(p.position(settings[p.name])) for p, (axis, _) in zip(parameters, axes, strict=True)]
        points = tuple(zip(xs, [*ends, place_score(score, one.score)], strict=True))
        part = goodness(analysis, one.score)
        won = is_winner(analysis, one.trial.trial_id)
        canvas.add(
            Polyline(
                points=points,
                ink="accent" if won else f"ramp{2 + round(part * 6)}",  # the palest steps are invisible as lines
                width=3.0 if won else 1.5,
                opacity=1.0 if won else 0.45 + 0.45 * part,
                tip=trial_tip(analysis, one.trial, one.score),
                trial=one.trial.trial_id,
            )
        )
    for i, (parameter, (_, ticks)) in enumerate(zip(parameters, axes, strict=True)):
        high = crowded and i % 2 == 1
        _add_upright(canvas, plot, xs[i], parameter.name, ticks, room=room, tick_room=gap - 12, high_title=high)
    high = crowded and len(parameters) % 2 == 1
    _add_upright(
        canvas, plot, xs[-1], tr("score"), score.ticks(), bold=True, room=room, tick_room=42.0, high_title=high
    )
    return canvas.finish(tr("Settings of {trials} and the score that each led to.", trials=trials_text(len(drawn))))


def heat_map_pair(parameters: Sequence[Parameter], important: Sequence[str]) -> tuple[Parameter, Parameter] | None:
    """Selects the two parameters of the heat map: the two most important ones, else the first two.

    Returns:
        The parameter with more values first, as the x axis has more space; None if fewer than two were searched.
    """
    if len(parameters) < 2:
        return None
    ranks = {name: rank for rank, name in enumerate(important)}
    chosen = sorted(parameters, key=lambda one: ranks.get(one.name, len(ranks)))[:2]
    chosen.sort(key=lambda one: len(one.values) if one.scale == "category" else 99, reverse=True)
    return chosen[0], chosen[1]


def medians(parameter: Parameter, shown: Sequence[Scored]) -> list[tuple[float, float, int]]:
    """Returns (position, median, trials) of each value that has enough trials for a median."""
    found = []
    for value in parameter.values if parameter.scale == "category" else ():
        position = parameter.position(value)
        scores = [
            one.score
            for one in shown
            if parameter.name in one.trial.sampled and parameter.position(one.trial.sampled[parameter.name]) == position
        ]
        if len(scores) >= _LEAST_OF_A_MEDIAN:
            found.append((position, statistics.median(scores), len(scores)))
    return found


def _add_medians(
    canvas: Canvas, analysis: Analysis, parameter: Parameter, axis: Axis, across: Axis, shown: Sequence[Scored]
) -> None:
    for position, median, count in medians(parameter, shown):
        x, y = across.at(position), place_score(axis, median)
        tip = tr("median of {count}: {score}", count=count, score=show_score(median, analysis.sweep.metric))
        canvas.add(Polyline(points=((x - 24, y), (x + 24, y)), ink="muted", width=2.0, tip=tip))


def _jitter(name: str) -> float:
    """Returns a number from -1 to 1 that depends on the name alone, so that reports are reproducible."""
    return (sum(ord(character) * (i + 7) for i, character in enumerate(name)) * 37 % 101) / 50.0 - 1.0


def _cells(parameter: Parameter, most: int) -> list[tuple[float, str]]:
    """Divides an axis; returns the upper end of each cell (0 to 1) and its text."""
    if parameter.scale == "category":
        count = len(parameter.values)
        return [((i + 0.5) / max(count - 1, 1), show_value(value)) for i, value in enumerate(parameter.values)]
    cells = []
    for i in range(most):
        middle = parameter.low + (parameter.high - parameter.low) * (i + 0.5) / most
        if parameter.scale == "log":
            middle = parameter.low * (parameter.high / parameter.low) ** ((i + 0.5) / most)
        cells.append(((i + 1) / most, show_value(float(f"{middle:.1e}"))))
    return cells


def _cell_of(parameter: Parameter, cells: Sequence[tuple[float, str]], one: Scored) -> int:
    position = parameter.position(one.trial.sampled[parameter.name])
    return next((i for i, (end, _) in enumerate(cells) if position <= end), len(cells) - 1)


def _add_cell(canvas: Canvas, analysis: Analysis, inside: Sequence[Scored], cell: Plot) -> None:
    frame = Rectangle(
        x=cell.left + 1, y=cell.top + 1, width=cell.width - 2, height=cell.height - 2, ink="band", radius=3.0
    )
    if not inside:
        canvas.add(dataclasses.replace(frame, tip=tr("no trial")))
        return
    best = inside[0]
    step = ramp(goodness(analysis, best.score))
    best_tip = tr("best: {trial}", trial=trial_tip(analysis, best.trial, best.score))
    tip = f"{trials_text(len(inside))}\n{best_tip}"
    canvas.add(dataclasses.replace(frame, ink=f"ramp{step}", tip=tip, trial=best.trial.trial_id))
    x, y = (cell.left + cell.right) / 2, (cell.top + cell.bottom) / 2
    room = cell.height >= 36
    text = show_score(best.score, analysis.sweep.metric)
    canvas.add(Label(x=x, y=y - (7 if room else 0), text=text, ink=f"on_ramp{step}", anchor="middle", bold=True))
    if room:
        canvas.add(
            Label(
                x=x, y=y + 9, text=tr("of {count}", count=len(inside)), ink=f"on_ramp{step}", anchor="middle", size=10.5
            )
        )


def _add_upright(
    canvas: Canvas,
    plot: Plot,
    x: float,
    title: str,
    ticks: Sequence[tuple[float, str]],
    *,
    bold: bool = False,
    room: float,
    tick_room: float,
    high_title: bool = False,
) -> None:
    canvas.add(Polyline(points=((x, plot.top - 6), (x, plot.bottom + 6)), ink="muted"))
    y = plot.top - (32 if high_title else 16)
    at_edge = x + text_width(title) / 2 > canvas.width
    anchor, title_x = ("end", canvas.width - 2) if at_edge else ("start", 2.0) if x < 60 else ("middle", x)
    canvas.add(Label(x=title_x, y=y, text=shorten(title, room), anchor=anchor, ink="ink", bold=bold))  # type: ignore[arg-type]
    for tick_y, text in ticks:
        shown = shorten(text, tick_room)
        canvas.add(Label(x=x + 5, y=tick_y, text=shown, size=11.0, ink="ink", halo=True))


def best_box(parameter: Parameter, best: Sequence[Scored]) -> str:
    """Returns the range or values of a parameter that the best trials have; empty if they cover all of it.

    >>> rates = Parameter(name="learning_rate", scale="log", values=(1e-5, 1e-3), low=1e-5, high=1e-3)
    >>> best_box(rates, [])
    ''
    """
    values = [one.trial.sampled[parameter.name] for one in best if parameter.name in one.trial.sampled]
    if not values:
        return ""
    numbers = [number for number in map(to_number, values) if number is not None]
    positions = [parameter.position(value) for value in values]
    if parameter.scale == "category" or len(numbers) < len(values):
        kept = dict.fromkeys(show_value(value) for value in values)
        return tr(" or ").join(kept) if len(kept) < len(parameter.values) else ""
    if max(positions) - min(positions) > _EVERYWHERE:
        return ""
    return tr("{low} to {high}", low=show_value(min(numbers)), high=show_value(max(numbers)))
