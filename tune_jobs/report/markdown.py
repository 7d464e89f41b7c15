"""The report as Markdown."""

import re
from collections.abc import Sequence
from urllib.parse import quote

from tune_jobs.analysis.importance import Importances
from tune_jobs.analysis.summaries import Summary
from tune_jobs.analysis.sweep_analysis import Analysis
from tune_jobs.records.ledger import OUTCOMES
from tune_jobs.report.advice import Advice
from tune_jobs.report.charts_lineage import copy_rows, has_lineage, path_rows
from tune_jobs.report.charts_memory import memory_points, memory_ratios
from tune_jobs.report.charts_timeline import find_lanes
from tune_jobs.report.formatting import OUTCOME_TEXT, amount, percent, show_score
from tune_jobs.report.summary import (
    SHOWN_RUNS,
    badges,
    eyebrow,
    failure_rows,
    headline,
    notes,
    runs_table,
    tiles,
    wandb_page,
)
from tuning_common.cli import visible
from tuning_common.units import format_bytes, format_duration

_MOST_FAILURES = 30
_SPECIAL = re.compile(r"[\\|<\[\]]|://|www\.")  # what begins HTML or a link, in GitHub's Markdown too
_ESCAPED = {"<": "&lt;", "://": ":\\//", "www.": "www\\."}


def build_markdown(
    analysis: Analysis,
    importances: Importances,
    advice: Sequence[Advice],
    examples: Sequence[Summary] = (),
    remarks: Sequence[str] = (),
) -> str:
    """Returns the Markdown report."""
    sections = [
        f"# {plain(headline(analysis))}\n\n{plain(eyebrow(analysis))}"
        + "".join(f" · **{plain(text)}**" for text in badges(analysis)),
        markdown_table(("", "", ""), [(tile.label, f"**{tile.value}**", tile.detail) for tile in tiles(analysis)]),
        _advice(advice),
        _runs(analysis),
        _examples(examples),
        "![Charts](analysis_report.png)",
        _importances(importances),
        _lineage(analysis),
        _memory(analysis),
        _cost(analysis),
        _lanes(analysis),
        _phases(analysis),
        _failures(analysis),
        link("W&B report: the runs of this sweep", wandb_page(analysis)) if wandb_page(analysis) else "",
        "\n".join(f"* {plain(text)}" for text in [*notes(analysis), *remarks]),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _advice(advice: Sequence[Advice]) -> str:
    items = []
    for i, one in enumerate(advice, start=1):
        command = f"\n   {code(one.command)}" if one.command else ""
        items.append(f"{i}. **{plain(one.title)}**: {plain(one.reason)}{command}")
    return "## What to do next\n\n" + "\n".join(items) if items else ""


def _runs(analysis: Analysis) -> str:
    if not analysis.candidates:
        return ""
    header, rows = runs_table(analysis)
    more = len(analysis.candidates) - SHOWN_RUNS
    rest = f"\n\n{more:,} more are in `all_results.jsonl`." if more > 0 else ""
    return f"## Best runs\n\n{markdown_table(header, rows)}{rest}"


def _examples(examples: Sequence[Summary]) -> str:
    if not examples:
        return ""
    rows = [(f"{one.score:.1f}", one.fname, one.prediction, " / ".join(one.references)) for one in examples]
    return "## What the winner writes\n\n" + markdown_table(("Score", "Dialogue", "It wrote", "People wrote"), rows)


def _importances(found: Importances) -> str:
    title = "## Which parameter made the difference?"
    if found.reason:
        return f"{title}\n\nNot known: {plain(found.reason)}."
    rows = [
        (
            one.name,
            f"{one.part:.0%}",
            f"{one.low:.0%} to {one.high:.0%}",
            f"{one.chance:.0%}",
            "yes" if one.stands_out else "no",
        )
        for one in found.parameters
    ]
    header = ("Parameter", "Part", "90% of resampled sweeps", "Shuffled scores reach", "Above chance")
    return f"{title}\n\nOptuna's PED-ANOVA over {found.trials} trials.\n\n{markdown_table(header, rows)}"


def _lineage(analysis: Analysis) -> str:
    if not has_lineage(analysis):
        return ""
    path, copies = markdown_table(*path_rows(analysis)), markdown_table(*copy_rows(analysis))
    return f"## How the winner's weights came about\n\n{path}\n\n## Every change of weights\n\n{copies}"


def _memory(analysis: Analysis) -> str:
    points = memory_points(analysis.ledger.trials)
    measured = [(point, point.measured) for point in points if point.measured is not None]
    title = "## Memory, estimated and measured"
    if not points:
        return f"{title}\n\nNo trial has a memory estimate."
    if not measured:
        largest = max(point.upper for point in points)
        return f"{title}\n\nNot measured. The largest trial was given {format_bytes(largest)}."
    parts = memory_ratios(points)
    over = sum(1 for point, peak in measured if peak > point.upper)
    return (
        f"{title}\n\nMeasured ÷ estimate over {len(measured)} trials: median {parts[len(parts) // 2]:.3f},"
        f" from {parts[0]:.3f} to {parts[-1]:.3f}. Above the bound that was placed and enforced: {over}."
    )


def _cost(analysis: Analysis) -> str:
    cost = analysis.cost
    rows = [
        (
            OUTCOME_TEXT[outcome],
            str(analysis.count(outcome)),
            format_duration(cost.trial_s.get(outcome, 0.0)),
            amount(cost.gpu_s.get(outcome, 0.0) / 3600),
        )
        for outcome in OUTCOMES
        if analysis.count(outcome)
    ]
    return "## Cost\n\n" + markdown_table(("End", "Trials", "Time", "GPU-hours"), rows) if rows else ""


def _lanes(analysis: Analysis) -> str:
    lanes = [lane for lane in find_lanes(analysis) if lane.bars or analysis.sweep.cards]
    if not lanes:
        return ""
    rows = [
        (
            lane.name,
            str(len({bar.trial.trial_id for bar in lane.bars})),
            "" if lane.busy is None else percent(lane.busy),
        )
        for lane in lanes
    ]
    return "## What ran where\n\n" + markdown_table(("Card", "Trials", "In use"), rows)


def _phases(analysis: Analysis) -> str:
    rows = [
        (
            one.name or "without a phase",
            str(one.trials),
            show_score(one.best, analysis.sweep.metric) if one.best is not None else "",
            format_duration(one.trial_s),
        )
        for one in analysis.phases
    ]
    return "## Phases\n\n" + markdown_table(("Phase", "Trials", "Best", "Time"), rows) if rows else ""


def _failures(analysis: Analysis) -> str:
    rows = failure_rows([*analysis.failures, *analysis.unscored])
    if not rows:
        return ""
    more = len(rows) - _MOST_FAILURES
    rest = f"\n\n{more:,} more are in `all_results.jsonl`." if more > 0 else ""
    header = ("Trial", "End", "Reason", "Where to look")
    return f"## What failed, and why\n\n{markdown_table(header, rows[:_MOST_FAILURES])}{rest}"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Formats a table; everything in cells except plain text and emphasis is escaped."""
    lines = [f"| {' | '.join(plain(cell) for cell in row)} |" for row in rows]
    return "\n".join([f"| {' | '.join(plain(name) for name in header)} |", "|" + "---|" * len(header), *lines])


def plain(text: str) -> str:
    """Removes line breaks and escapes HTML, links, pictures, vertical bars and control characters.

    >>> plain("<b> | [a](http://b) \\\\")
    '&lt;b> \\\\| \\\\[a\\\\](http:\\\\//b) \\\\\\\\'
    """
    escaped = _SPECIAL.sub(lambda found: _ESCAPED.get(found[0], f"\\{found[0]}"), " ".join(text.split()))
    return visible(escaped)


def code(text: str) -> str:
    """Formats a command as inline code, also if it contains backticks.

    >>> code("echo `date`")
    '`` echo `date` ``'
    """
    inside = visible(" ".join(text.split()))
    longest = max((len(run) for run in re.findall("`+", inside)), default=0)
    return f"{'`' * (longest + 1)} {inside} {'`' * (longest + 1)}" if longest else f"`{inside}`"


def link(name: str, target: str) -> str:
    """Returns a Markdown link to a web page, or to a file by its relative path.

    >>> link("a", "models/best (1)"), link("b", "https://x.org/?a=b#c"), link("c", "javascript:alert(1)")
    ('[a](models/best%20%281%29)', '[b](https://x.org/?a=b#c)', '[c](javascript%3Aalert%281%29)')
    """
    is_web = target.startswith(("https://", "http://"))
    return f"[{plain(name)}]({quote(target, safe='/?#=&%:+,;@~' if is_web else '/%')})"
