"""Charts of a week: runs a day by how they ended, and the time that they took."""

from collections.abc import Callable

from tune_jobs.analysis.weekly import Week, WeekRun
from tune_jobs.config.language import tr
from tune_jobs.records.ledger import OUTCOMES
from tune_jobs.report.axes import Axis, draw_x_axis, draw_y_axis, linear_ticks, number_text
from tune_jobs.report.drawing import Canvas, Drawing, Label, Polyline
from tune_jobs.report.formatting import NARROW, Chart, amount, inner_plot, outcome_text
from tune_jobs.report.symbols import bar_swatch, lay_legend, outcome_bar


def find_week_charts(week: Week) -> list[Chart]:
    """Returns the charts that have data."""
    if not week.runs:
        return []
    hours, what = hours_shown(week)
    charts = [
        Chart(
            key="runs",
            title=tr("Runs a day"),
            note=tr("By the day on which they ended."),
            draw=lambda width: draw_days(week, width, None),
        )
    ]
    if any(hours(run) for run in week.runs):
        charts.append(
            Chart(
                key="hours",
                title=tr("{what} a day", what=what),
                note=tr("By the day on which the runs ended, by how they ended."),
                draw=lambda width: draw_days(week, width, what),
            )
        )
    return charts


def hours_shown(week: Week) -> tuple[Callable[[WeekRun], float], str]:
    """Selects the time to show: that of real cards, else of simulated cards, else of processes.

    Returns:
        A function from a run to its hours (minutes if the sum is below one hour), and the name of that time.
    """
    total = (week.total.now, week.total.before)
    if any(figures.gpu_s for figures in total):
        names = tr("GPU-hours"), tr("GPU-minutes")
        return _in_a_fitting_unit(week, lambda run: run.gpu_s, *names)
    if any(figures.simulated_gpu_s for figures in total):
        names = tr("GPU-hours on simulated cards"), tr("GPU-minutes on simulated cards")
        return _in_a_fitting_unit(week, lambda run: run.simulated_gpu_s, *names)
    return _in_a_fitting_unit(week, lambda run: run.wall_s, tr("Hours of training"), tr("Minutes of training"))


def _in_a_fitting_unit(
    week: Week, seconds: Callable[[WeekRun], float], hours: str, minutes: str
) -> tuple[Callable[[WeekRun], float], str]:
    name, size = (hours, 3600.0) if sum(map(seconds, week.runs)) >= 3600 else (minutes, 60.0)
    return (lambda run: seconds(run) / size), name


def runs_text(count: int) -> str:
    """Formats a number of runs.

    >>> runs_text(1), runs_text(1200)
    ('1 run', '1,200 runs')
    """
    return tr("1 run") if count == 1 else tr("{count:,} runs", count=count)


def draw_days(week: Week, width: float, what: str | None) -> Drawing:
    """Draws fourteen days as bars, stacked by outcome.

    Args:
        week: The runs of two weeks.
        width: Width of the drawing.
        what: Name of the time to sum; None counts runs.
    """
    size = hours_shown(week)[0] if what else (lambda run: 1.0)
    days = week.days()
    shown = [outcome for outcome in OUTCOMES if any(run.outcome == outcome for run in week.runs)]
    keys, top = lay_legend([(bar_swatch(outcome), outcome_text(outcome)) for outcome in shown], width)
    canvas = Canvas(width=width, height=top + (240.0 if width >= NARROW else 220.0))
    canvas.extend(keys)
    plot = inner_plot(width, canvas.height, left=48.0, top=top + 22.0, bottom=34.0)
    highest = max(sum(size(run) for run in runs) for _, runs in days) or 1.0
    axis = Axis(low=0.0, high=highest * 1.05, start=plot.bottom, end=plot.top)
    whole = [tick for tick in linear_ticks(0.0, highest) if what or tick == int(tick)]
    draw_y_axis(canvas, plot, [(axis.at(tick), number_text(tick)) for tick in whole])
    slot = plot.width / len(days)
    draw_x_axis(
        canvas,
        plot,
        [(plot.left + (i + 0.5) * slot, f"{day:%m-%d}") for i, (day, _) in enumerate(days)],
        "",
        grid=False,
    )
    middle = (plot.left + plot.right) / 2
    canvas.add(
        Polyline(points=((middle, plot.top - 18), (middle, plot.bottom)), ink="muted", dashed=True),
        Label(x=middle - 8, y=plot.top - 10, text=tr("the week before"), anchor="end"),
        Label(x=middle + 8, y=plot.top - 10, text=tr("this week")),
    )
    for number, (day, runs) in enumerate(days):
        bottom = 0.0
        for outcome in shown:
            mine = [run for run in runs if run.outcome == outcome]
            sum_of = sum(size(run) for run in mine)
            if not sum_of:
                continue
            top = axis.at(bottom + sum_of)
            text = f"{amount(sum_of)} {what}" if what else runs_text(len(mine))
            canvas.extend(
                outcome_bar(
                    outcome, x=plot.left + number * slot + slot * 0.14, y=top, width=slot * 0.72,
                    height=axis.at(bottom) - top,
                    tip=f"{day:%Y-%m-%d}\n{outcome_text(outcome)}: {text}",
                )
            )  # fmt: skip
            bottom += sum_of
    return canvas.finish(tr("{what} a day over fourteen days.", what=what or tr("Runs")))
