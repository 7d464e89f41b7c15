"""Selects and orders the charts of a report, and gives a reason for each chart that cannot be drawn."""

import dataclasses
from collections.abc import Sequence
from functools import partial

from tune_jobs.analysis.importance import Importances
from tune_jobs.analysis.sweep_analysis import Analysis
from tune_jobs.config.language import tr
from tune_jobs.report.charts_lineage import (
    draw_lineage,
    draw_schedule,
    has_lineage,
    moved_parameters,
    shown_trials,
)
from tune_jobs.report.charts_memory import draw_memory, memory_points, memory_ratios
from tune_jobs.report.charts_space import (
    MOST_DOTS,
    MOST_LINES,
    draw_heat_map,
    draw_parallel,
    draw_slice,
    heat_map_pair,
    medians,
)
from tune_jobs.report.charts_timeline import draw_cost, draw_timeline
from tune_jobs.report.charts_trials import MOST_CURVES, draw_curves, draw_importance, draw_leaders, find_curves
from tune_jobs.report.formatting import Chart, metric_name, sentence, trials_text

_MOST_SLICES = 6
_LEAST_SPAN_S = 1.0  # a shorter span is only the time between two starts


def find_charts(analysis: Analysis, importances: Importances) -> list[Chart]:
    """Returns the charts of a report; those that cannot be drawn come last and have a reason."""
    found = [
        _leaders(analysis),
        _importance(importances),
        *_slices(analysis),
        _heat_map(analysis, importances),
        _parallel(analysis, importances),
        _curves(analysis),
        *_lineage(analysis),
        _memory(analysis),
        _cost(analysis),
        _timeline(analysis),
    ]
    drawn = [chart for chart in found if chart.draw is not None]
    return [*arrange(drawn), *(chart for chart in found if chart.draw is None)]


def arrange(charts: Sequence[Chart]) -> list[Chart]:
    """Widens each chart that would otherwise have an empty half beside it.

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
    title = tr("How far apart are the best?")
    if len(analysis.candidates) < 2:
        reason = tr("one configuration has a score") if analysis.candidates else tr("no trial has a score")
        return Chart(key="leaders", title=title, reason=reason)
    note = tr("Large dot: the best.") + " "
    note += (
        tr("Configurations in the shaded band are tied with it.")
        if analysis.noise.band
        else sentence(f"{analysis.noise.source}.")
    )
    if any(len(one.trials) > 1 for one in analysis.candidates):
        note += " " + tr("A line with small dots: the single runs of one configuration.")
    return Chart(key="leaders", title=title, note=note, draw=partial(draw_leaders, analysis))


def _importance(found: Importances) -> Chart:
    title = tr("Which parameter made the difference?")
    if found.reason:
        return Chart(key="importance", title=title, reason=found.reason)
    note = tr(
        "Optuna's PED-ANOVA over {trials}. Thin line: 90% of resampled sweeps."
        " Dashed: what shuffled scores reach; a grey bar is not above chance.",
        trials=trials_text(found.trials),
    )
    return Chart(key="importance", title=title, note=note, draw=partial(draw_importance, found))


def _slices(analysis: Analysis) -> list[Chart]:
    name = sentence(metric_name(analysis.sweep.metric))
    if not analysis.parameters or not analysis.scored:
        reason = why_no_parameters(analysis) if analysis.scored else tr("no trial has a score")
        return [Chart(key="slice", title=tr("{name} against the parameters", name=name), reason=reason)]
    symbols = describe_symbols(analysis)
    sample = _sample(len(analysis.scored), MOST_DOTS)
    charts = []
    for i, parameter in enumerate(analysis.parameters[:_MOST_SLICES]):
        has_medians = medians(parameter, analysis.scored)
        line = tr("Line: median of the trials with this value.") if has_medians else ""
        charts.append(
            Chart(
                key=f"slice-{parameter.name}",
                title=tr("{name} against {parameter}", name=name, parameter=parameter.name.replace("_", " ")),
                note=" ".join(part for part in (symbols + sample if i == 0 else "", line) if part),
                draw=partial(draw_slice, analysis, parameter),
            )
        )
    return charts


def _heat_map(analysis: Analysis, importances: Importances) -> Chart:
    pair = heat_map_pair(analysis.parameters, [one.name for one in importances.parameters])
    if pair is None or not analysis.scored:
        reason = why_no_parameters(analysis) if analysis.scored else tr("no trial has a score")
        return Chart(key="heat-map", title=tr("Two parameters together"), reason=reason)
    across, up = pair
    names = (one.name.replace("_", " ") for one in pair)
    title = sentence(tr("{one} and {other} together", one=next(names), other=next(names)))
    note = tr("Best score in each cell, and of how many trials.")
    if any(one.scale != "category" for one in pair):
        note += " " + tr("Ranges are cut into cells; the number beside one is its middle.")
    return Chart(key="heat-map", title=title, note=note, draw=partial(draw_heat_map, analysis, across, up))


def _parallel(analysis: Analysis, importances: Importances) -> Chart:
    title = tr("All parameters at once")
    if len(analysis.scored) < 2 or len(analysis.parameters) < 2:
        one_trial = tr("one trial has a score") if analysis.scored else tr("no trial has a score")
        reason = one_trial if len(analysis.scored) < 2 else why_no_parameters(analysis)
        return Chart(key="parallel", title=title, reason=reason, wide=True)
    cut = _sample(len(analysis.scored), MOST_LINES)
    draw = partial(draw_parallel, analysis, [one.name for one in importances.parameters])
    note = tr("Each line is a trial, from its settings to its score; the winner is thick.") + cut
    return Chart(key="parallel", title=title, note=note, draw=draw, wide=True)


def _curves(analysis: Analysis) -> Chart:
    title = tr("Learning curves")
    x_name, curves = find_curves(analysis)
    if not curves:
        return Chart(key="curves", title=title, reason=tr("no evaluation was recorded"), wide=True)
    if all(len(curve.points) == 1 for curve in curves):
        return Chart(key="curves", title=title, reason=tr("every trial was evaluated once"), wide=True)
    parts = [tr("{metric} over {x_name}.", metric=sentence(metric_name(analysis.sweep.metric)), x_name=x_name)]
    parts += [] if analysis.maximize else [tr("Lower is better.")]
    parts += [tr("A ring: stopped there.")] if analysis.count("stopped") else []
    if analysis.sweep.stopping not in ("", "none"):
        parts.append(tr("Early stopping: {rule}.", rule=analysis.sweep.stopping))
    note = " ".join(parts) + _sample(len(curves), MOST_CURVES)
    return Chart(key="curves", title=title, note=note, draw=partial(draw_curves, analysis), wide=True)


def _lineage(analysis: Analysis) -> list[Chart]:
    """Returns the charts of a population; empty for other methods."""
    title = tr("Who took whose weights")
    if not has_lineage(analysis):
        reason = tr("no trial went on with another's weights")
        return [Chart(key="lineage", title=title, reason=reason)] if analysis.sweep.method == "pbt" else []
    few = len(shown_trials(analysis)) < len(analysis.ledger.trials)
    note = tr(
        "One row for each trial, the best on top. An arrow: after this evaluation a trial went on with"
        " another's weights and with changed values. Thick: how the winner's weights came about."
    )
    note += " " + tr("The best trials are drawn, and those that the winner's weights came from.") if few else ""
    charts = [Chart(key="lineage", title=title, note=note, draw=partial(draw_lineage, analysis), wide=True)]
    for i, parameter in enumerate(moved_parameters(analysis)[:_MOST_SLICES]):
        charts.append(
            Chart(
                key=f"schedule-{parameter.name}",
                title=tr("{name} over the training", name=sentence(parameter.name.replace("_", " "))),
                note=tr("Thick: the values with which the winner's weights were trained.") if i == 0 else "",
                draw=partial(draw_schedule, analysis, parameter),
            )
        )
    return charts


def _memory(analysis: Analysis) -> Chart:
    points, title = memory_points(analysis.ledger.trials), tr("Memory, estimated and measured")
    if not points:
        return Chart(key="memory", title=title, reason=tr("no trial has a memory estimate"))
    draw = partial(draw_memory, points)
    ratios = memory_ratios(points)
    if not ratios:
        why = tr("the cards are simulated") if analysis.sweep.simulated else tr("no device reported it")
        note = tr("Device memory was not measured: {why}. Pale: the calibrated margin.", why=why)
        return Chart(key="memory", title=tr("Memory, estimated"), note=note, draw=draw)
    over = sum(1 for point in points if point.measured is not None and point.measured > point.upper)
    note = tr(
        "Measured ÷ estimate: median {median:.2f}, from {low:.2f} to {high:.2f}."
        " Pale: the calibrated margin; {over} beyond it.",
        median=ratios[len(ratios) // 2],
        low=ratios[0],
        high=ratios[-1],
        over=trials_text(over) if over else tr("no trials"),
    )
    return Chart(key="memory", title=title, note=note, draw=draw)


def _cost(analysis: Analysis) -> Chart:
    cost = analysis.cost
    title = tr("Where did the GPU time go?") if cost.on_gpus else tr("Where did the time go?")
    if not sum(cost.gpu_s.values() if cost.on_gpus else cost.trial_s.values()):
        return Chart(key="cost", title=title, reason=tr("no trial has run"))
    note = tr("Seconds in which trials ran; no GPU was held.")
    if cost.on_gpus:
        note = tr("Share of a card times seconds.")
    if cost.on_gpus and analysis.sweep.simulated:
        note += " " + tr("The cards are simulated: what they would have been held, not what a GPU would need.")
    return Chart(key="cost", title=title, note=note, draw=partial(draw_cost, analysis))


def _timeline(analysis: Analysis) -> Chart:
    ran = [t for t in analysis.ledger.trials if t.started_at is not None and t.ended_at is not None]
    title = tr("What ran where (simulated cards)") if analysis.sweep.simulated else tr("What ran where")
    if not ran:
        return Chart(key="timeline", title=title, reason=tr("no trial has run"), wide=True)
    if analysis.cost.span_s < _LEAST_SPAN_S and all(trial.status == "running" for trial in ran):
        return Chart(key="timeline", title=title, reason=tr("no trial has reported since its start"), wide=True)
    note = tr("One band for each card; the height of a trial is its share.")
    if not analysis.sweep.cards and not any(trial.card for trial in analysis.ledger.trials):
        note = tr("One band for each machine; trials side by side share its cores.")
    return Chart(key="timeline", title=title, note=note, draw=partial(draw_timeline, analysis), wide=True)


def _sample(count: int, most: int) -> str:
    return " " + tr("The best and a sample of the others are drawn.") if count > most else ""


def why_no_parameters(analysis: Analysis) -> str:
    """Returns the reason why there are fewer than two parameters to draw."""
    if len(analysis.ledger.trials) == 1:
        return tr("one trial has run, so no parameter has two values")
    if len(analysis.parameters) == 1:
        return tr("only {name} took more than one value", name=analysis.parameters[0].name)
    return tr("no parameter took more than one value")


def describe_symbols(analysis: Analysis) -> str:
    """Returns the meaning of the symbols that occur in a chart of trials."""
    present = {one.trial.status for one in analysis.scored}
    meanings = {
        "finished": tr("Filled: ran to its end."),
        "stopped": tr("Ring: stopped early, with its best until then."),
        "failed": tr("x: failed."),
        "oom": tr("Plus: out of memory."),
        "running": tr("Triangle: not over."),
    }
    return " ".join([*(text for outcome, text in meanings.items() if outcome in present), tr("Large: the winner.")])
