"""Charts of a population (pbt): which trial copied which weights, and how values changed during training."""

from collections.abc import Mapping, Sequence

from tune_jobs.analysis.lineage import Copy, Leg, all_values, best_evaluation, copies_of, describe_copy, weight_history
from tune_jobs.analysis.sweep_analysis import Analysis
from tune_jobs.config.language import tr
from tune_jobs.config.parameters import Parameter, show_value
from tune_jobs.records.ledger import TrialRecord
from tune_jobs.report.axes import Axis, draw_x_axis, draw_y_axis, parameter_axis
from tune_jobs.report.drawing import Canvas, Drawing, DrawnShape, Label, Polyline, text_width
from tune_jobs.report.formatting import inner_plot, show_score, trial_tip, trials_text
from tune_jobs.report.symbols import is_winner, outcome_symbol

MOST_ROWS = 24
MOST_COPIES = 40
_ROW = 26.0


def has_lineage(analysis: Analysis) -> bool:
    """Returns whether any trial copied another trial's weights."""
    return any(trial.lineage for trial in analysis.ledger.trials)


def winner_path(analysis: Analysis) -> tuple[Leg, ...]:
    """Returns the training path of the winner's weights; empty without a winner or without an evaluation."""
    if analysis.winner is None:
        return ()
    trials = {trial.trial_id: trial for trial in analysis.ledger.trials}
    trial = trials[analysis.winner.trial.trial_id]
    evaluation = best_evaluation(trial, analysis.sweep.metric, analysis.sweep.goal)
    return weight_history(trial.trial_id, evaluation, trials) if evaluation is not None else ()


def moved_parameters(analysis: Analysis) -> list[Parameter]:
    """Returns the parameters whose values changed during the training."""
    return [
        one
        for one in analysis.parameters
        if any(
            len({repr(values.get(one.name)) for values in all_values(trial)}) > 1 for trial in analysis.ledger.trials
        )
    ]


def shown_trials(analysis: Analysis) -> list[TrialRecord]:
    """Returns the trials to draw: the best ones, and all that the winner's weights came from."""
    trials = {trial.trial_id: trial for trial in analysis.ledger.trials}
    needed = {leg.trial_id for leg in winner_path(analysis)}
    trial_ids = [one.trial.trial_id for one in analysis.scored]
    trial_ids += [trial_id for trial_id in trials if trial_id not in trial_ids]
    kept = [trial_id for trial_id in trial_ids if trial_id in needed]
    kept += [trial_id for trial_id in trial_ids if trial_id not in needed][: max(MOST_ROWS - len(kept), 0)]
    return [trials[trial_id] for trial_id in trial_ids if trial_id in kept]


def draw_lineage(analysis: Analysis, width: float) -> Drawing:
    """Draws a row for each trial and an arrow for each copy; the path of the winner's weights is thick."""
    trials = shown_trials(analysis)
    scores = {one.trial.trial_id: show_score(one.score, analysis.sweep.metric) for one in analysis.scored}
    left = max(text_width(trial.trial_id) for trial in trials) + 20.0
    canvas = Canvas(width=width, height=64.0 + _ROW * len(trials))
    plot = inner_plot(width, canvas.height, left=left, top=18.0, right=62.0)
    longest = max((len(trial.history) for trial in trials), default=1)
    across = Axis(low=0.0, high=max(longest, 1.0), start=plot.left + 4, end=plot.right)
    rows = {trial.trial_id: plot.top + (i + 0.5) * _ROW for i, trial in enumerate(trials)}
    draw_x_axis(canvas, plot, across.ticks(whole=True), tr("evaluations"))
    canvas.add(Label(x=0.0, y=8.0, text=tr("trial")), Label(x=width, y=8.0, text=tr("score"), anchor="end"))
    for trial in trials:
        y, won = rows[trial.trial_id], is_winner(analysis, trial.trial_id)
        tip = trial_tip(analysis, trial)
        ends = ((across.at(0), y), (across.at(len(trial.history)), y))
        canvas.add(
            Label(x=0.0, y=y, text=trial.trial_id, ink="ink", bold=won),
            Label(x=width, y=y, text=scores.get(trial.trial_id, ""), anchor="end", ink="ink", bold=won),
            Polyline(points=ends, ink="finished", width=1.5, opacity=0.75, tip=tip, trial=trial.trial_id),
        )
        if trial.status != "finished":
            canvas.add(outcome_symbol(trial.status, ends[1][0], y, radius=3.5, tip=tip, trial=trial.trial_id))
    copies = [copy for trial in trials for copy in copies_of(trial) if copy.donor_id in rows]
    for i, copy in enumerate(copies):
        canvas.extend(_arrow(copy, across, rows, aside=2.5 * (i % 3 - 1), ink="muted", width=1.2))
    path = winner_path(analysis)
    for leg in path:
        y = rows[leg.trial_id]
        canvas.add(Polyline(points=((across.at(leg.first), y), (across.at(leg.last), y)), ink="accent", width=4.0))
    joints = {(leg.trial_id, leg.first) for leg in path if leg.first}
    for copy in copies:
        if (copy.trial_id, copy.evaluation) in joints:
            canvas.extend(_arrow(copy, across, rows, aside=0.0, ink="accent", width=2.5))
    return canvas.finish(
        tr(
            "{trials}; {count} times one went on with another's weights.",
            trials=trials_text(len(trials)),
            count=len(copies),
        )
    )


def _arrow(
    copy: Copy, across: Axis, rows: Mapping[str, float], *, aside: float, ink: str, width: float
) -> list[DrawnShape]:
    x1, y1 = across.at(copy.donor_evaluation) + aside, rows[copy.donor_id]
    x2, y2 = across.at(copy.evaluation) + aside, rows[copy.trial_id]
    back = -6.0 if y2 > y1 else 6.0
    tip = tr(
        "after evaluation {evaluation} trial {trial} went on with the weights of trial {donor}",
        evaluation=copy.evaluation,
        trial=copy.trial_id,
        donor=copy.donor_id,
    )
    tip = f"{tip}\n{describe_copy(copy)}"
    head = ((x2 - 4.0, y2 + back), (x2, y2), (x2 + 4.0, y2 + back))
    return [
        Polyline(points=((x1, y1), (x2, y2)), ink=ink, width=width, tip=tip),
        Polyline(points=head, ink=ink, width=width, tip=tip),
    ]


def draw_schedule(analysis: Analysis, parameter: Parameter, width: float) -> Drawing:
    """Draws the values of one parameter over the evaluations; those of the winner's weights are thick."""
    trials = shown_trials(analysis)
    canvas = Canvas(width=width, height=260.0)
    axis, ticks = parameter_axis(parameter, 0.0, 1.0)
    left = max((text_width(text) for _, text in ticks), default=30.0) + 16.0
    plot = inner_plot(width, canvas.height, left=left)
    axis, ticks = parameter_axis(parameter, plot.bottom, plot.top)
    draw_y_axis(canvas, plot, ticks)
    longest = max((len(trial.history) for trial in trials), default=1)
    across = Axis(low=0.0, high=max(longest, 1.0), start=plot.left + 4, end=plot.right - 8)
    draw_x_axis(canvas, plot, across.ticks(whole=True), tr("evaluations"), grid=False)
    for trial in trials:
        ends = [*(copy.evaluation for copy in copies_of(trial)), len(trial.history)]
        values = [one.get(parameter.name) for one in all_values(trial)]
        points = _steps(parameter, axis, across, list(zip(values, [0, *ends], ends, strict=False)))
        shown = tr(", then ").join(show_value(value) for value in values)
        tip = f"{tr('trial {trial}', trial=trial.trial_id)}\n{parameter.name} {shown}"
        canvas.add(Polyline(points=points, ink="finished", width=1.5, opacity=0.6, tip=tip, trial=trial.trial_id))
    path = [(leg.values.get(parameter.name), leg.first, leg.last) for leg in winner_path(analysis)]
    if path:
        shown = tr(", then ").join(show_value(value) for value, _, _ in path)
        tip = tr("the winner's weights") + f"\n{parameter.name} {shown}"
        canvas.add(Polyline(points=_steps(parameter, axis, across, path), ink="accent", width=3.0, tip=tip))
    return canvas.finish(
        tr(
            "Values of {parameter} over the evaluations of {trials}.",
            parameter=parameter.name,
            trials=trials_text(len(trials)),
        )
    )


def _steps(
    parameter: Parameter, axis: Axis, across: Axis, parts: Sequence[tuple[object, int, int]]
) -> tuple[tuple[float, float], ...]:
    points: list[tuple[float, float]] = []
    for value, first, last in parts:
        y = axis.at(parameter.position(value))
        points += [(across.at(first), y), (across.at(last), y)]
    return tuple(points)


def path_rows(analysis: Analysis) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Returns the path of the winner's weights as a table: evaluations, trial, values."""
    names = [one.name for one in moved_parameters(analysis)]
    rows = [
        (_stretch(leg), leg.trial_id, *(show_value(leg.values.get(name)) for name in names))
        for leg in winner_path(analysis)
        if leg.last > leg.first
    ]
    return (tr("Evaluations"), tr("Trial"), *names), rows


def _stretch(leg: Leg) -> str:
    first = leg.first + 1
    return str(first) if first == leg.last else tr("{low} to {high}", low=first, high=leg.last)


def copy_rows(analysis: Analysis) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Returns every copy as a table, sorted by evaluation."""
    copies = [copy for trial in analysis.ledger.trials for copy in copies_of(trial)]
    copies.sort(key=lambda copy: copy.evaluation)
    rows: list[tuple[str, ...]] = [
        (str(copy.evaluation), copy.trial_id, copy.donor_id, describe_copy(copy)) for copy in copies[:MOST_COPIES]
    ]
    return (tr("After evaluation"), tr("Trial"), tr("Took the weights of"), tr("Its values then")), rows
