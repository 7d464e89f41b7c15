"""The report as Markdown."""

import re
from collections.abc import Sequence
from urllib.parse import quote

from tune_jobs.analysis.importance import Importances
from tune_jobs.analysis.summaries import Summary
from tune_jobs.analysis.sweep_analysis import Analysis
from tune_jobs.config.language import duration_text, tr
from tune_jobs.records.ledger import OUTCOMES
from tune_jobs.report.advice import Advice
from tune_jobs.report.charts_lineage import copy_rows, has_lineage, path_rows
from tune_jobs.report.charts_memory import memory_points, memory_ratios
from tune_jobs.report.charts_timeline import find_lanes
from tune_jobs.report.formatting import amount, outcome_text, percent
from tune_jobs.report.summary import (
    SHOWN_RUNS,
    badges,
    eyebrow,
    failure_rows,
    headline,
    notes,
    phase_rows,
    runs_table,
    tiles,
    wandb_page,
)
from tuning_common.cli import visible
from tuning_common.units import format_bytes

_MOST_FAILURES = 30
_SPECIAL = re.compile(r"[\\|<\[\]]|://|www\.")  # what begins HTML or a link, in GitHub's Markdown too
_ESCAPED = {"<": "&lt;", "://": ":\\//", "www.": "www\\."}


def build_markdown(
    analysis: Analysis,
    importances: Importances,
    advice: Sequence[Advice],
    examples: Sequence[Summary] = (),
    remarks: Sequence[str] = (),
    facts: Sequence[tuple[str, str]] = (),
) -> str:
    """Returns the Markdown report."""
    sections = [
        f"# {plain(headline(analysis))}\n\n{plain(eyebrow(analysis))}"
        + "".join(f" · **{plain(text)}**" for text in badges(analysis)),
        " · ".join(f"{plain(name)}: {plain(text)}" for name, text in facts),
        markdown_table(("", "", ""), [(tile.label, f"**{tile.value}**", tile.detail) for tile in tiles(analysis)]),
        _advice(advice),
        _runs(analysis),
        _examples(examples),
        f"![{tr('Charts')}](analysis_report.png)",
        _importances(importances),
        _lineage(analysis),
        _memory(analysis),
        _cost(analysis),
        _lanes(analysis),
        _phases(analysis),
        _failures(analysis),
        link(tr("W&B report: the runs of this sweep"), wandb_page(analysis)) if wandb_page(analysis) else "",
        "\n".join(f"* {plain(text)}" for text in [*notes(analysis), *remarks]),
    ]
    return "\n\n".join(one for one in sections if one) + "\n"


def _advice(advice: Sequence[Advice]) -> str:
    items = []
    for i, one in enumerate(advice, start=1):
        command = f"\n   {code(one.command)}" if one.command else ""
        items.append(f"{i}. **{plain(one.title)}**: {plain(one.reason)}{command}")
    return section(tr("What to do next"), "\n".join(items)) if items else ""


def _runs(analysis: Analysis) -> str:
    if not analysis.candidates:
        return ""
    header, rows = runs_table(analysis)
    rest = _rest(len(analysis.candidates) - SHOWN_RUNS)
    return section(tr("Best runs"), markdown_table(header, rows) + rest)


def _examples(examples: Sequence[Summary]) -> str:
    if not examples:
        return ""
    rows = [(f"{one.score:.1f}", one.fname, one.prediction, " / ".join(one.references)) for one in examples]
    header = (tr("Score"), tr("Dialogue"), tr("It wrote"), tr("People wrote"))
    return section(tr("What the winner writes"), markdown_table(header, rows))


def _importances(found: Importances) -> str:
    title = tr("Which parameter made the difference?")
    if found.reason:
        return section(title, tr("Not known: {reason}.", reason=plain(found.reason)))
    rows = [
        (
            one.name,
            f"{one.part:.0%}",
            tr("{low} to {high}", low=f"{one.low:.0%}", high=f"{one.high:.0%}"),
            f"{one.chance:.0%}",
            tr("yes") if one.stands_out else tr("no"),
        )
        for one in found.parameters
    ]
    header = (
        tr("Parameter"),
        tr("Part"),
        tr("90% of resampled sweeps"),
        tr("Shuffled scores reach"),
        tr("Above chance"),
    )
    method = tr("Optuna's PED-ANOVA over {count} trials.", count=found.trials)
    return section(title, f"{method}\n\n{markdown_table(header, rows)}")


def _lineage(analysis: Analysis) -> str:
    if not has_lineage(analysis):
        return ""
    path, copies = markdown_table(*path_rows(analysis)), markdown_table(*copy_rows(analysis))
    history = section(tr("How the winner's weights came about"), path)
    return f"{history}\n\n{section(tr('Every change of weights'), copies)}"


def _memory(analysis: Analysis) -> str:
    points = memory_points(analysis.ledger.trials)
    measured = [(point, point.measured) for point in points if point.measured is not None]
    title = tr("Memory, estimated and measured")
    if not points:
        return section(title, tr("No trial has a memory estimate."))
    if not measured:
        largest = max(point.upper for point in points)
        text = tr("Not measured. The largest trial was given {memory}.", memory=format_bytes(largest))
        return section(title, text)
    parts = memory_ratios(points)
    over = sum(1 for point, peak in measured if peak > point.upper)
    text = tr(
        "Measured ÷ estimate over {count} trials: median {median:.3f}, from {low:.3f} to {high:.3f}."
        " Above the bound that was placed and enforced: {over}.",
        count=len(measured),
        median=parts[len(parts) // 2],
        low=parts[0],
        high=parts[-1],
        over=over,
    )
    return section(title, text)


def _cost(analysis: Analysis) -> str:
    cost = analysis.cost
    rows = [
        (
            outcome_text(outcome),
            str(analysis.count(outcome)),
            duration_text(cost.trial_s.get(outcome, 0.0)),
            amount(cost.gpu_s.get(outcome, 0.0) / 3600),
        )
        for outcome in OUTCOMES
        if analysis.count(outcome)
    ]
    header = (tr("End"), tr("Trials"), tr("Time"), tr("GPU-hours"))
    return section(tr("Cost"), markdown_table(header, rows)) if rows else ""


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
    return section(tr("What ran where"), markdown_table((tr("Card"), tr("Trials"), tr("In use")), rows))


def _phases(analysis: Analysis) -> str:
    return section(tr("Phases"), markdown_table(*phase_rows(analysis))) if analysis.phases else ""


def _failures(analysis: Analysis) -> str:
    rows = failure_rows([*analysis.failures, *analysis.unscored])
    if not rows:
        return ""
    header = (tr("Trial"), tr("End"), tr("Reason"), tr("Where to look"))
    table = markdown_table(header, rows[:_MOST_FAILURES])
    return section(tr("What failed, and why"), table + _rest(len(rows) - _MOST_FAILURES))


def _rest(more: int) -> str:
    return "\n\n" + tr("{count:,} more are in {file}.", count=more, file="`all_results.jsonl`") if more > 0 else ""


def section(title: str, text: str) -> str:
    """Returns a section with its heading."""
    return f"## {title}\n\n{text}"


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
