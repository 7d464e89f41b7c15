"""The weekly dashboard as texts, tables and one HTML file."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from tune_jobs.analysis.weekly import Figures, Pair, Scale, Week
from tune_jobs.config.language import duration_text, tr
from tune_jobs.report.charts_week import find_week_charts, runs_text
from tune_jobs.report.formatting import amount, gpu_time, metric_name, show_score
from tune_jobs.report.shell import render
from tune_jobs.report.summary import Tile

_MOST_ROWS = 30


def headline(week: Week) -> str:
    """Returns one sentence that summarizes the week."""
    now, before = week.total.now, week.total.before
    if not now.runs:
        if before.runs:
            return tr("No run ended in this week, {count} in the week before", count=before.runs)
        return tr("No run ended in this week")
    text = f"{runs_text(now.runs)}, {change(now.runs, before.runs)}"
    return text if now.success is None else tr("{text}; {part:.0%} went well", text=text, part=now.success)


def eyebrow(week: Week) -> str:
    """Returns the dates of the week."""
    start, end = f"{week.start:%Y-%m-%d %H:%M}", f"{week.end:%Y-%m-%d %H:%M %Z}"
    return tr("week · {start} to {end}", start=start, end=end)


def week_tiles(week: Week) -> list[Tile]:
    """Returns the tiles of runs, success, GPU-hours and best score, each with the week before."""
    now, before = week.total.now, week.total.before
    went = tr("none is over") if now.success is None else f"{now.success:.0%}"
    was = tr("none was over") if before.success is None else f"{before.success:.0%}"
    found = [
        Tile(label=tr("Runs"), value=str(now.runs), detail=_before(before.runs)),
        Tile(
            label=tr("Success"),
            value=went,
            detail=tr("{good} good, {bad} failed; ", good=now.good, bad=now.bad) + _before(was),
        ),
        _hours_tile(now, before),
    ]
    if week.scale is None:
        return [*found, Tile(label=tr("Best score"), value="—", detail=tr("no run reported one"))]
    value = "—" if now.best is None else show_score(now.best, week.scale.metric)
    was = tr("none") if before.best is None else show_score(before.best, week.scale.metric)
    return [
        *found,
        Tile(label=tr("Best {metric}", metric=metric_name(week.scale.metric)), value=value, detail=_before(was)),
    ]


def figure_rows(names: Mapping[str, Pair], what: str, scale: Scale | None) -> tuple[list[str], list[list[str]]]:
    """Returns a header and a row for each member, model or sweep, with the week before.

    Args:
        names: Figures by name.
        what: Header of the first column.
        scale: The scale of the shown scores.
    """
    header = [what, tr("Runs"), tr("Runs before"), tr("Success"), tr("Failed"), tr("GPU-hours")]
    header += [tr("GPU-hours before"), tr("Time"), tr("Best"), tr("Best before")]
    rows = []
    for name, pair in list(names.items())[:_MOST_ROWS]:
        now, before = pair.now, pair.before
        rows.append(
            [
                name,
                str(now.runs),
                str(before.runs),
                "" if now.success is None else f"{now.success:.0%}",
                str(now.bad),
                _hours(now),
                _hours(before),
                duration_text(now.wall_s) if now.wall_s else "",
                _score(now, scale),
                _score(before, scale),
            ]
        )
    return _without_blanks(header, rows)


def scale_rows(week: Week) -> tuple[list[str], list[list[str]]]:
    """Returns the best scores of each scale; a scale is a metric, a language and a data file."""
    header = [tr("Metric"), tr("Language"), tr("Dev data"), tr("Runs"), tr("Best"), tr("Best before"), tr("Run")]
    rows = [
        [
            metric_name(scale.metric),
            scale.language,
            scale.data,
            str(pair.now.runs),
            _score(pair.now, scale),
            _score(pair.before, scale),
            pair.now.best_run or pair.before.best_run,
        ]
        for scale, pair in week.scales.items()
    ]
    return _without_blanks(header, rows)


def week_notes(week: Week, remarks: Sequence[str]) -> list[str]:
    """Returns what a reader must know about the numbers."""
    found = [
        tr(
            "A run counts on the day on which it ended, with all of its time; one that goes on counts when it started."
            " Stopped early by the scheduler counts as good."
        )
    ]
    both = (week.total.now, week.total.before)
    if any(one.simulated_gpu_s for one in both):
        now, before = (gpu_time(one.simulated_gpu_s) if one.simulated_gpu_s else tr("nothing") for one in both)
        found.append(
            tr(
                "On simulated cards: {now}, {before} in the week before; that is in no sum of GPU-hours, and"
                " training ran on the CPU.",
                now=now,
                before=before,
            )
        )
    if week.scale is not None and len(week.scales) > 1:
        found.append(
            tr("By member, model and sweep, scores are those of the first scale; other scales are not comparable.")
        )
    return [*found, *remarks]


def build_week_page(week: Week, remarks: Sequence[str]) -> str:
    """Returns the whole HTML document."""
    return render(
        "week.html",
        title=tr("Week to {day}", day=f"{week.end:%Y-%m-%d}"),
        eyebrow=eyebrow(week),
        headline=headline(week),
        tiles=week_tiles(week),
        charts=find_week_charts(week),
        tables=[(f"table-{i}", title, *rows) for i, (title, rows) in enumerate(tables(week))],
        notes=week_notes(week, remarks),
    )


def tables(week: Week) -> list[tuple[str, tuple[list[str], list[list[str]]]]]:
    """Returns the tables with their titles; empty ones are left out."""
    reasons = [[text, str(count)] for text, count in week.reasons[:_MOST_ROWS]]
    found = [
        (tr("By member"), figure_rows(week.members, tr("Member"), week.scale)),
        (tr("By model"), figure_rows(week.models, tr("Model"), week.scale)),
        (tr("By sweep"), figure_rows(week.sweeps, tr("Sweep"), week.scale)),
        (tr("Best scores"), scale_rows(week)),
        (tr("Why runs failed"), ([tr("Reason"), tr("Runs")], reasons)),
    ]
    return [(title, rows) for title, rows in found if rows[1]]


def change(now: float, before: float) -> str:
    """Formats a number relative to the week before.

    >>> change(12, 10), change(5, 5), change(3, 0)
    ('20% more than in the week before', 'as many as in the week before', 'none in the week before')
    """
    if not before:
        return tr("none in the week before")
    if now == before:
        return tr("as many as in the week before")
    part = abs(now - before) / before
    if now > before:
        return tr("{part:.0%} more than in the week before", part=part)
    return tr("{part:.0%} fewer than in the week before", part=part)


def page_name(end: datetime) -> str:
    """Returns the file name of a week's page, which has the date of its last day.

    >>> page_name(datetime(2026, 11, 25))
    'week_2026-11-24.html'
    """
    midnight = (end.hour, end.minute, end.second, end.microsecond) == (0, 0, 0, 0)
    return f"week_{end - timedelta(days=1) if midnight else end:%Y-%m-%d}.html"


def _hours_tile(now: Figures, before: Figures) -> Tile:
    if now.gpu_s or before.gpu_s:
        detail = _before(amount(before.gpu_s / 3600))
        return Tile(label=tr("GPU-hours"), value=amount(now.gpu_s / 3600), detail=detail)
    was = _before(duration_text(before.wall_s) if before.wall_s else tr("nothing"))
    detail = tr("{was}; no real GPU was used", was=was)
    return Tile(label=tr("Time of all runs"), value=duration_text(now.wall_s), detail=detail)


def _before(value: object) -> str:
    return tr("{value} in the week before", value=value)


def _hours(one: Figures) -> str:
    return amount(one.gpu_s / 3600) if one.gpu_s else ""


def _score(one: Figures, scale: Scale | None) -> str:
    return "" if one.best is None or scale is None else show_score(one.best, scale.metric)


def _without_blanks(header: list[str], rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """Removes empty columns."""
    kept = [i for i in range(len(header)) if i == 0 or any(row[i] for row in rows)]
    return [header[i] for i in kept], [[row[i] for i in kept] for row in rows]
