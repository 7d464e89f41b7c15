"""The weekly dashboard as texts, tables and one HTML file."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from html import escape

from tune_jobs.analysis.weekly import Figures, Pair, Scale, Week
from tune_jobs.report.charts_week import find_week_charts
from tune_jobs.report.formatting import amount, gpu_time, metric_name, show_score
from tune_jobs.report.shell import chart_html, document, table_card, tiles_html
from tune_jobs.report.summary import Tile
from tuning_common.units import format_duration

_MOST_ROWS = 30


def headline(week: Week) -> str:
    """Returns one sentence that summarizes the week."""
    now, before = week.total.now, week.total.before
    if not now.runs:
        return "No run ended in this week" + (f", {before.runs} in the week before" if before.runs else "")
    text = f"{_count(now.runs, 'run')}, {change(now.runs, before.runs)}"
    return text if now.success is None else f"{text}; {now.success:.0%} went well"


def eyebrow(week: Week) -> str:
    """Returns the dates of the week."""
    return f"week · {week.start:%Y-%m-%d %H:%M} to {week.end:%Y-%m-%d %H:%M %Z}"


def week_tiles(week: Week) -> list[Tile]:
    """Returns the tiles of runs, success, GPU-hours and best score, each with the week before."""
    now, before = week.total.now, week.total.before
    went = "none is over" if now.success is None else f"{now.success:.0%}"
    was = "none was over" if before.success is None else f"{before.success:.0%}"
    found = [
        Tile(label="Runs", value=str(now.runs), detail=f"{before.runs} in the week before"),
        Tile(label="Success", value=went, detail=f"{now.good} good, {now.bad} failed; {was} in the week before"),
        _hours_tile(now, before),
    ]
    if week.scale is None:
        return [*found, Tile(label="Best score", value="—", detail="no run reported one")]
    value = "—" if now.best is None else show_score(now.best, week.scale.metric)
    was = "none" if before.best is None else show_score(before.best, week.scale.metric)
    return [
        *found,
        Tile(label=f"Best {metric_name(week.scale.metric)}", value=value, detail=f"{was} in the week before"),
    ]


def figure_rows(names: Mapping[str, Pair], what: str, scale: Scale | None) -> tuple[list[str], list[list[str]]]:
    """Returns a header and a row for each member, model or sweep, with the week before.

    Args:
        names: Figures by name.
        what: Header of the first column.
        scale: The scale of the shown scores.
    """
    header = [what, "Runs", "Runs before", "Success", "Failed"]
    header += ["GPU-hours", "GPU-hours before", "Time", "Best", "Best before"]
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
                format_duration(now.wall_s) if now.wall_s else "",
                _score(now, scale),
                _score(before, scale),
            ]
        )
    return _without_blanks(header, rows)


def scale_rows(week: Week) -> tuple[list[str], list[list[str]]]:
    """Returns the best scores of each scale; a scale is a metric, a language and a data file."""
    header = ["Metric", "Language", "Dev data", "Runs", "Best", "Best before", "Run"]
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
        "A run counts on the day on which it ended, with all of its time; one that goes on counts when it started."
        " Stopped early by the scheduler counts as good."
    ]
    both = (week.total.now, week.total.before)
    if any(one.simulated_gpu_s for one in both):
        now, before = (gpu_time(one.simulated_gpu_s) if one.simulated_gpu_s else "nothing" for one in both)
        found.append(
            f"On logical (simulated) cards: {now}, {before} in the week before; that is in no sum of GPU-hours, and"
            " training ran on the CPU."
        )
    if week.scale is not None and len(week.scales) > 1:
        found.append(
            "By member, model and sweep, scores are those of the first scale; other scales are not comparable."
        )
    return [*found, *remarks]


def build_week_page(week: Week, remarks: Sequence[str]) -> str:
    """Returns the whole HTML document."""
    body = [
        f'<p class="eyebrow"><span>{escape(eyebrow(week))}</span></p>',
        f"<h1>{escape(headline(week))}</h1>",
        tiles_html(week_tiles(week)),
        '<div class="grid">',
        *(chart_html(chart) for chart in find_week_charts(week)),
        *(_table(title, *rows) for title, rows in tables(week)),
        "</div>",
        f"<footer>{''.join(f'<p>{escape(text)}</p>' for text in week_notes(week, remarks))}</footer>",
    ]
    return document(f"Week to {week.end:%Y-%m-%d}", body)


def tables(week: Week) -> list[tuple[str, tuple[list[str], list[list[str]]]]]:
    """Returns the tables with their titles; empty ones are left out."""
    found = [
        ("By member", figure_rows(week.members, "Member", week.scale)),
        ("By model", figure_rows(week.models, "Model", week.scale)),
        ("By sweep", figure_rows(week.sweeps, "Sweep", week.scale)),
        ("Best scores", scale_rows(week)),
        ("Why runs failed", (["Reason", "Runs"], [[text, str(count)] for text, count in week.reasons[:_MOST_ROWS]])),
    ]
    return [(title, rows) for title, rows in found if rows[1]]


def change(now: float, before: float) -> str:
    """Formats a number relative to the week before.

    >>> change(12, 10), change(5, 5), change(3, 0)
    ('20% more than in the week before', 'as many as in the week before', 'none in the week before')
    """
    if not before:
        return "none in the week before"
    if now == before:
        return "as many as in the week before"
    part = abs(now - before) / before
    return f"{part:.0%} {'more' if now > before else 'fewer'} than in the week before"


def page_name(end: datetime) -> str:
    """Returns the file name of a week's page, which has the date of its last day.

    >>> page_name(datetime(2026, 11, 25))
    'week_2026-11-24.html'
    """
    midnight = (end.hour, end.minute, end.second, end.microsecond) == (0, 0, 0, 0)
    return f"week_{end - timedelta(days=1) if midnight else end:%Y-%m-%d}.html"


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return table_card(title, header, rows, key=title.lower().replace(" ", "-"))


def _hours_tile(now: Figures, before: Figures) -> Tile:
    if now.gpu_s or before.gpu_s:
        value, was = amount(now.gpu_s / 3600), f"{amount(before.gpu_s / 3600)} in the week before"
        return Tile(label="GPU-hours", value=value, detail=was)
    was = f"{format_duration(before.wall_s) if before.wall_s else 'nothing'} in the week before; no real GPU was used"
    return Tile(label="Time of all runs", value=format_duration(now.wall_s), detail=was)


def _hours(one: Figures) -> str:
    return amount(one.gpu_s / 3600) if one.gpu_s else ""


def _score(one: Figures, scale: Scale | None) -> str:
    return "" if one.best is None or scale is None else show_score(one.best, scale.metric)


def _without_blanks(header: list[str], rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """Removes empty columns."""
    kept = [i for i in range(len(header)) if i == 0 or any(row[i] for row in rows)]
    return [header[i] for i in kept], [[row[i] for i in kept] for row in rows]


def _count(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count:,} {what}s"
