"""Which charts a report has, in which order, and what is said where there is nothing to draw."""

import dataclasses
from collections.abc import Sequence
from functools import partial

from tune_jobs.analysis.importance import Importances
from tune_jobs.analysis.sweep_analysis import Analysis
from tune_jobs.report.charts_memory import draw_memory, memory_points, memory_ratios
from tune_jobs.report.charts_space import MOST_DOTS, MOST_LINES, draw_heat_map, draw_parallel, draw_slice, heat_map_pair
from tune_jobs.report.charts_timeline import draw_cost, draw_timeline
from tune_jobs.report.charts_trials import MOST_CURVES, draw_curves, draw_importance, draw_leaders, find_curves
from tune_jobs.report.look import Chart, metric_name, trials_text

_MOST_SLICES = 6
_NO_SCORE = "no trial has a score"


def find_charts(analysis: Analysis, importances: Importances) -> list[Chart]:
    """Returns the charts of a report; those that cannot be drawn come last and say why."""
    found = [
        _leaders(analysis),
        _importance(importances),
        *_slices(analysis),
        _heat_map(analysis, importances),
        _parallel(analysis, importances),
        _curves(analysis),
        _memory(analysis),
        _cost(analysis),
        _timeline(analysis),
    ]
    drawn = [chart for chart in found if chart.draw is not None]
    return [*arrange(drawn), *(chart for chart in found if chart.draw is None)]


def arrange(charts: Sequence[Chart]) -> list[Chart]:
    """Widens a chart that would stand alone beside an empty half.

    >>> a, b = Chart(key="a", title=""), Chart(key="b", title="", wide=True)
    >>> [chart.wide for chart in arrange([a, a, a, b, a, a])]
    [False, False, True, True, False, False]
    """
    arranged: list[Chart] = []
    halves = 0
    for i, chart in enumerate(charts):
        alone = not chart.wide and halves % 2 == 0 and (i + 1 == len(charts) or charts[i + 1].wide)
        halves = 0 if chart.wide or alone else halves + 1
        arranged.append(dataclasses.replace(chart, wide=chart.wide or alone))
    return arranged


def _leaders(analysis: Analysis) -> Chart:
    title = "How far apart are the best?"
    if not analysis.candidates:
        return Chart(key="leaders", title=title, reason=_NO_SCORE)
    note = "Large dot: the best. " + (
        "Whoever stands in the shaded band is tied with it."
        if analysis.noise.band
        else _sentence(f"{analysis.noise.source}.")
    )
    return Chart(key="leaders", title=title, note=note, draw=partial(draw_leaders, analysis))


def _importance(found: Importances) -> Chart:
    title = "Which parameter made the difference?"
    if found.reason:
        return Chart(key="importance", title=title, reason=found.reason)
    note = (
        f"Optuna's PED-ANOVA over {trials_text(found.trials)}. Black line: 90% of resampled sweeps."
        " Dashed: what shuffled scores reach; a grey bar is not above chance."
    )
    return Chart(key="importance", title=title, note=note, draw=partial(draw_importance, found))


def _slices(analysis: Analysis) -> list[Chart]:
    name = metric_name(analysis.sweep.metric)
    if not analysis.parameters or not analysis.scored:
        reason = "no parameter was searched" if analysis.scored else _NO_SCORE
        return [Chart(key="slice", title=f"{name} against the parameters", reason=reason)]
    marks = "Filled: ran to its end. Ring: stopped early, with its best until then. Large: the winner."
    sample = " The best and a sample of the others are drawn." if len(analysis.scored) > MOST_DOTS else ""
    charts = []
    for i, parameter in enumerate(analysis.parameters[:_MOST_SLICES]):
        line = "Line: median of the trials with this value." if parameter.scale == "category" else ""
        charts.append(
            Chart(
                key=f"slice-{parameter.name}",
                title=f"{name} against {parameter.name.replace('_', ' ')}",
                note=marks + sample if i == 0 else line,
                draw=partial(draw_slice, analysis, parameter),
            )
        )
    return charts


def _heat_map(analysis: Analysis, importances: Importances) -> Chart:
    pair = heat_map_pair(analysis.parameters, [one.name for one in importances.parameters])
    if pair is None or not analysis.scored:
        reason = "fewer than two parameters were searched" if analysis.scored else _NO_SCORE
        return Chart(key="heat-map", title="Two parameters together", reason=reason)
    across, up = pair
    title = f"{across.name.replace('_', ' ')} and {up.name.replace('_', ' ')} together".capitalize()
    note = "Best score in each cell, and of how many trials."
    return Chart(key="heat-map", title=title, note=note, draw=partial(draw_heat_map, analysis, across, up))


def _parallel(analysis: Analysis, importances: Importances) -> Chart:
    title = "All parameters at once"
    if len(analysis.scored) < 2 or len(analysis.parameters) < 2:
        reason = "this needs two parameters and two trials with a score"
        return Chart(key="parallel", title=title, reason=reason, wide=True)
    cut = " The best and a sample of the others are drawn." if len(analysis.scored) > MOST_LINES else ""
    draw = partial(draw_parallel, analysis, [one.name for one in importances.parameters])
    note = f"Each line is a trial, from its settings to its score; the winner is thick.{cut}"
    return Chart(key="parallel", title=title, note=note, draw=draw, wide=True)


def _curves(analysis: Analysis) -> Chart:
    title = "Learning curves"
    x_name, curves = find_curves(analysis)
    if not curves:
        return Chart(key="curves", title=title, reason="no evaluation was recorded", wide=True)
    if all(len(curve.points) == 1 for curve in curves):
        return Chart(key="curves", title=title, reason="every trial was evaluated once", wide=True)
    cut = " The best and a sample of the others are drawn." if len(curves) > MOST_CURVES else ""
    rule = f" Early stopping: {analysis.sweep.stopping}." if analysis.sweep.stopping else ""
    note = f"{metric_name(analysis.sweep.metric)} over {x_name}. A ring: stopped there.{rule}{cut}"
    return Chart(key="curves", title=title, note=note, draw=partial(draw_curves, analysis), wide=True)


def _memory(analysis: Analysis) -> Chart:
    points = memory_points(analysis.ledger.trials)
    if not points:
        return Chart(key="memory", title="Memory, estimated and measured", reason="no trial has a memory estimate")
    draw = partial(draw_memory, points)
    ratios = memory_ratios(points)
    if not ratios:
        why = "the cards are logical" if analysis.sweep.simulated else "no device reported it"
        note = f"Device memory was not measured: {why}. Pale: the calibrated margin."
        return Chart(key="memory", title="Memory, estimated", note=note, draw=draw)
    over = sum(1 for point in points if point.measured is not None and point.measured > point.upper)
    note = (
        f"Measured ÷ estimate: median {ratios[len(ratios) // 2]:.2f}, from {ratios[0]:.2f} to {ratios[-1]:.2f}."
        f" Pale: the calibrated margin; {over or 'no'} {'trial' if over == 1 else 'trials'} beyond it."
    )
    return Chart(key="memory", title="Memory, estimated and measured", note=note, draw=draw)


def _cost(analysis: Analysis) -> Chart:
    cost = analysis.cost
    title = "Where did the GPU time go?" if cost.on_gpus else "Where did the time go?"
    if not sum(cost.gpu_s.values() if cost.on_gpus else cost.trial_s.values()):
        return Chart(key="cost", title=title, reason="no trial has run")
    note = "Share of a card times seconds." if cost.on_gpus else "Seconds in which trials ran; no GPU was held."
    if cost.on_gpus and analysis.sweep.simulated:
        note += " The cards are logical: what they would have been held, not what a GPU would need."
    return Chart(key="cost", title=title, note=note, draw=partial(draw_cost, analysis))


def _timeline(analysis: Analysis) -> Chart:
    ran = any(t.started_at is not None and t.ended_at is not None for t in analysis.ledger.trials)
    title = "What ran where" + (" (simulated cards)" if analysis.sweep.simulated else "")
    if not ran:
        return Chart(key="timeline", title=title, reason="no trial has run", wide=True)
    note = "One band for each card; the height of a trial is its share."
    if not any(trial.card for trial in analysis.ledger.trials):
        note = "One band for each machine; trials side by side share its cores."
    return Chart(key="timeline", title=title, note=note, draw=partial(draw_timeline, analysis), wide=True)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
