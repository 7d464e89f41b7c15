"""The report as one HTML file: no other file, no network, every browser, phone to laptop, light and dark."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from tune_jobs.analysis.summaries import Summary
from tune_jobs.analysis.sweep_analysis import Analysis
from tune_jobs.report.advice import Advice
from tune_jobs.report.charts_lineage import MOST_COPIES, copy_rows, has_lineage, path_rows
from tune_jobs.report.drawing import shorten
from tune_jobs.report.formatting import OUTCOME_TEXT, Chart, amount, show_score
from tune_jobs.report.shell import chart_html, document, is_number, scroll, table_card, tiles_html, unbroken
from tune_jobs.report.summary import (
    SHOWN_RUNS,
    badges,
    eyebrow,
    failure_rows,
    headline,
    notes,
    runs_table,
    sources,
    tiles,
    wandb_page,
)
from tuning_common.units import format_duration, parse_duration

_MOST_FAILURES = 30
_WIDEST_CELL = 260.0  # a longer text is shortened in its middle; its tooltip has all of it
_OUTCOME_OF = {text: outcome for outcome, text in OUTCOME_TEXT.items()}


@dataclass(frozen=True, kw_only=True)
class PageContent:
    """The content of the page.

    Attributes:
        analysis: The analysis of the sweep.
        charts: The charts, in the sequence of the page.
        advice: Recommended actions.
        examples: Summaries of the winner.
        remarks: Sentences for the footer, in addition to those that follow from the analysis.
    """

    analysis: Analysis
    charts: Sequence[Chart]
    advice: Sequence[Advice]
    examples: Sequence[Summary] = ()
    remarks: Sequence[str] = ()


def build_page(content: PageContent) -> str:
    """Returns the whole HTML document."""
    analysis = content.analysis
    shown = "".join(f'<span class="badge">{escape(text)}</span>' for text in badges(analysis))
    body = [
        f'<p class="eyebrow"><span>{escape(eyebrow(analysis))}</span>{shown}</p>',
        f"<h1>{unbroken(headline(analysis))}</h1>",
        tiles_html(tiles(analysis)),
        '<div class="grid">',
        _advice(content.advice),
        _runs(analysis),
        _examples(content.examples),
        *(chart_html(chart) for chart in content.charts if chart.draw is not None),
        _lineage(analysis),
        _failures(analysis),
        _phases(analysis),
        _absent(content.charts),
        "</div>",
        _foot(analysis, content.remarks),
    ]
    return document(f"Sweep report: {analysis.sweep.sweep or 'no sweep'}", body)


def _advice(advice: Sequence[Advice]) -> str:
    if not advice:
        return ""
    items = "".join(
        f"<li><b>{escape(one.title)}</b><span>{escape(one.reason)}</span>"
        + (f"<code>{escape(one.command)}</code>" if one.command else "")
        + "</li>"
        for one in advice
    )
    return f'<section class="card wide"><h2>What to do next</h2><ol class="next">{items}</ol></section>'


def _runs(analysis: Analysis) -> str:
    if not analysis.candidates:
        return ""
    header, rows = runs_table(analysis)
    numeric = [all(is_number(row[i]) for row in rows) for i in range(len(header))]
    head = "".join(
        f'<th scope="col" class="sortable{" num" if is_numeric else ""}">{escape(name).replace("_", "_<wbr>")}</th>'
        for name, is_numeric in zip(header, numeric, strict=True)
    )
    lines = []
    for candidate, row in zip(analysis.candidates, rows, strict=False):
        cells = "".join(
            _cell(name, text, is_numeric=right) for name, text, right in zip(header, row, numeric, strict=True)
        )
        best = ' class="best"' if row[0] == "1" else ""
        lines.append(f'<tr{best} data-trial="{escape(candidate.best.trial.trial_id)}">{cells}</tr>')
    more = len(analysis.candidates) - SHOWN_RUNS
    rest = f" {more:,} more are in all_results.jsonl." if more > 0 else ""
    means = " Of several runs of one configuration, scores are means; time, end and trial are those of the best run."
    explanation = means if any(one.runs_text for one in analysis.candidates[:SHOWN_RUNS]) else ""
    note = f'<p class="note"><span class="screen">A click on a column sorts by it.</span>{explanation}{rest}</p>'
    return (
        f'<section class="card wide" id="best-runs"><h2>Best runs</h2>{note}{scroll("Best runs")}<table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div></section>"
    )


def _cell(name: str, text: str, *, is_numeric: bool) -> str:
    if name == "End":
        return _end_cell(text)
    value = _sort_value(name, text)
    attributes = f' data-value="{value:g}"' if value is not None and not is_number(text) else ""
    attributes += ' class="num"' if is_numeric else ""
    if name == "To best" and text.endswith(" tie"):
        return f'<td{attributes}>{escape(text.removesuffix(" tie"))}<span class="tie">tie</span></td>'
    shown = shorten(text, _WIDEST_CELL)
    attributes += f' title="{escape(text)}"' if shown != text else ""
    return f"<td{attributes}>{escape(shown)}</td>"


def _sort_value(name: str, text: str) -> float | None:
    """Returns the number by which a cell is sorted; None where it is sorted as text.

    >>> _sort_value("Time", "1 h 30 min"), _sort_value("To best", "−0.03 tie"), _sort_value("Score", "24.43 (3 seeds)")
    (5400.0, -0.03, 24.43)
    """
    if name == "Time":
        return parse_duration(text)
    first = text.split(" ", 1)[0].replace("−", "-")
    if name == "To best" and first == "best":
        return 0.0
    try:
        return float(first)
    except ValueError:
        return None


def _end_cell(text: str) -> str:
    return f'<td><span class="end {_OUTCOME_OF.get(text, "")}">{escape(text)}</span></td>'


def _examples(examples: Sequence[Summary]) -> str:
    if not examples:
        return ""
    names = ("Its best summary", "An average one", "Its worst") if len(examples) == 3 else ("Summary",) * len(examples)
    items = "".join(_example(name, one) for name, one in zip(names, examples, strict=True))
    return (
        '<section class="card wide" id="examples"><h2>What the winner writes</h2>'
        '<p class="note">With a dark line: the model. With a pale one: people.</p>'
        f'<div class="examples">{items}</div></section>'
    )


def _example(name: str, one: Summary) -> str:
    wanted = "".join(f'<p class="wanted">{escape(text)}</p>' for text in one.references[:3])
    return (
        f'<div class="example"><h3>{name}<span>{one.score:.1f} · {escape(one.fname)}</span></h3>'
        f'<p class="said">{escape(one.prediction) or "(nothing)"}</p>{wanted}'
        f"<details><summary>the dialogue</summary><p>{escape(one.dialogue)}</p></details></div>"
    )


def _absent(charts: Sequence[Chart]) -> str:
    """Lists the charts that were not drawn, with the reasons."""
    items = "".join(f"<li>{escape(chart.title)}: {escape(chart.reason)}</li>" for chart in charts if chart.draw is None)
    return f'<section class="card wide"><h2>Not drawn</h2><ul class="absent">{items}</ul></section>' if items else ""


def _lineage(analysis: Analysis) -> str:
    """Returns the lineage of a population as tables, because tooltips are lost in print."""
    if not has_lineage(analysis):
        return ""
    copies = sum(len(trial.lineage) for trial in analysis.ledger.trials)
    more = f"The first {MOST_COPIES} of {copies}; all are in all_results.jsonl." if copies > MOST_COPIES else ""
    path = table_card("How the winner's weights came about", *path_rows(analysis), key="way")
    return path + table_card("Every change of weights", *copy_rows(analysis), note=more, key="copies")


def _failures(analysis: Analysis) -> str:
    rows = failure_rows([*analysis.failures, *analysis.unscored])
    if not rows:
        return ""
    lines = "".join(
        f'<tr><td class="trial">{escape(name)}</td>{_end_cell(end)}'
        f'<td class="text">{escape(reason)}</td><td class="text">{escape(where)}</td></tr>'
        for name, end, reason, where in rows[:_MOST_FAILURES]
    )
    more = len(rows) - _MOST_FAILURES
    rest = f'<p class="note">{more:,} more are in all_results.jsonl.</p>' if more > 0 else ""
    return (
        f'<section class="card wide" id="failures"><h2>What failed, and why</h2>{rest}'
        f'{scroll("What failed, and why")}<table class="stack">'
        "<thead><tr><th>Trial</th><th>End</th><th>Reason</th><th>Where to look</th></tr></thead>"
        f"<tbody>{lines}</tbody></table></div></section>"
    )


def _phases(analysis: Analysis) -> str:
    if not analysis.phases:
        return ""
    lines = "".join(
        f'<tr><td class="trial">{escape(one.name or "without a phase")}</td><td class="num">{one.trials}</td>'
        f'<td class="num">{show_score(one.best, analysis.sweep.metric) if one.best is not None else ""}</td>'
        f'<td class="num">{format_duration(one.trial_s)}</td><td class="num">{amount(one.gpu_s / 3600)}</td></tr>'
        for one in analysis.phases
    )
    return (
        '<section class="card wide" id="phases"><h2>Phases</h2>'
        f"{scroll('Phases')}<table><thead><tr><th>Phase</th>"
        '<th class="num">Trials</th><th class="num">Best</th><th class="num">Time</th><th class="num">GPU-hours</th>'
        f"</tr></thead><tbody>{lines}</tbody></table></div></section>"
    )


def _foot(analysis: Analysis, remarks: Sequence[str]) -> str:
    sentences = [*notes(analysis), *remarks]
    sentences.append(sources(analysis))
    if analysis.sweep.command:
        sentences.append(f"Started with: {analysis.sweep.command}")
    url = wandb_page(analysis)
    link = f'<p><a href="{escape(url)}">W&amp;B report: the runs of this sweep</a></p>' if url else ""
    return f"<footer>{link}{''.join(f'<p>{escape(text)}</p>' for text in sentences)}</footer>"
