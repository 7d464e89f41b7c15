"""The report as one HTML file: no other file, no network, every browser, phone to laptop, light and dark."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from common.units import format_duration
from tune_jobs.analysis.sweep_analysis import Analysis
from tune_jobs.report.advice import Advice
from tune_jobs.report.evidence import Summary
from tune_jobs.report.look import OUTCOME_TEXT, Chart, show_score, trials_text
from tune_jobs.report.shell import chart_html, document, tiles_html, unbroken
from tune_jobs.report.summary import SHOWN_RUNS, eyebrow, failure_rows, headline, notes, runs_table, tiles

_MOST_FAILURES = 30
_OUTCOME_OF = {text: outcome for outcome, text in OUTCOME_TEXT.items()}


@dataclass(frozen=True, kw_only=True)
class PageContent:
    """What goes on the page.

    Attributes:
        analysis: Of the sweep.
        charts: In order.
        advice: What to do next.
        examples: Summaries of the winner.
        remarks: Sentences for the foot of the page, beside those that follow from the analysis.
    """

    analysis: Analysis
    charts: Sequence[Chart]
    advice: Sequence[Advice]
    examples: Sequence[Summary] = ()
    remarks: Sequence[str] = ()


def build_page(content: PageContent) -> str:
    """Returns the whole HTML document."""
    analysis = content.analysis
    badge = '<span class="badge">simulated cards</span>' if analysis.sweep.simulated else ""
    body = [
        f'<p class="eyebrow"><span>{escape(eyebrow(analysis))}</span>{badge}</p>',
        f"<h1>{unbroken(headline(analysis))}</h1>",
        tiles_html(tiles(analysis)),
        '<div class="grid">',
        _advice(content.advice),
        _runs(analysis),
        _examples(content.examples),
        *(chart_html(chart) for chart in content.charts if chart.draw is not None),
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
    numeric = [all(_is_number(row[i]) for row in rows) for i in range(len(header))]
    head = "".join(
        f'<th class="sortable{" num" if is_numeric else ""}">{escape(name).replace("_", "_<wbr>")}</th>'
        for name, is_numeric in zip(header, numeric, strict=True)
    )
    lines = []
    for candidate, row in zip(analysis.candidates, rows, strict=False):
        cells = "".join(
            _cell(name, text, is_numeric) for name, text, is_numeric in zip(header, row, numeric, strict=True)
        )
        best = ' class="best"' if row[0] == "1" else ""
        lines.append(f'<tr{best} data-trial="{escape(candidate.best.trial.trial_id)}">{cells}</tr>')
    more = len(analysis.candidates) - SHOWN_RUNS
    rest = f" {more:,} more are in all_results.jsonl." if more > 0 else ""
    note = f"A click on a column sorts by it.{rest}"
    return (
        f'<section class="card wide"><h2>Best runs</h2><p class="note">{note}</p><div class="scroll"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div></section>"
    )


def _cell(name: str, text: str, is_numeric: bool) -> str:
    if name == "To best" and text.endswith(" tie"):
        return f'<td>{escape(text.removesuffix(" tie"))}<span class="tie">tie</span></td>'
    if name == "End":
        return _end_cell(text)
    if name == "Trial":
        return f'<td class="trial" title="{escape(text)}">{escape(text)}</td>'
    return f'<td class="num">{escape(text)}</td>' if is_numeric else f"<td>{escape(text)}</td>"


def _end_cell(text: str) -> str:
    return f'<td><span class="end {_OUTCOME_OF.get(text, "")}">{escape(text)}</span></td>'


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text == ""
    return True


def _examples(examples: Sequence[Summary]) -> str:
    if not examples:
        return ""
    names = ("Its best summary", "A middling one", "Its worst") if len(examples) == 3 else ("Summary",) * len(examples)
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
    """Says which charts there are not, and why: a reader who looks for one should not wonder."""
    items = "".join(f"<li>{escape(chart.title)}: {escape(chart.reason)}</li>" for chart in charts if chart.draw is None)
    return f'<section class="card wide"><h2>Not drawn</h2><ul class="absent">{items}</ul></section>' if items else ""


def _failures(analysis: Analysis) -> str:
    if not analysis.failures:
        return ""
    rows = failure_rows(analysis.failures)
    lines = "".join(
        f'<tr><td class="trial">{escape(name)}</td>{_end_cell(end)}'
        f'<td class="text">{escape(reason)}</td><td class="text">{escape(where)}</td></tr>'
        for name, end, reason, where in rows[:_MOST_FAILURES]
    )
    more = len(rows) - _MOST_FAILURES
    rest = f'<p class="note">{more:,} more are in all_results.jsonl.</p>' if more > 0 else ""
    return (
        f'<section class="card wide" id="failures"><h2>What failed, and why</h2>{rest}<div class="scroll">'
        '<table class="stack"><thead><tr><th>Trial</th><th>End</th><th>Reason</th><th>Where to look</th></tr></thead>'
        f"<tbody>{lines}</tbody></table></div></section>"
    )


def _phases(analysis: Analysis) -> str:
    if not analysis.phases:
        return ""
    lines = "".join(
        f'<tr><td class="trial">{escape(one.name or "without a phase")}</td><td class="num">{one.trials}</td>'
        f'<td class="num">{show_score(one.best, analysis.sweep.metric) if one.best is not None else ""}</td>'
        f'<td class="num">{format_duration(one.trial_s)}</td><td class="num">{one.gpu_s / 3600:.3g}</td></tr>'
        for one in analysis.phases
    )
    return (
        '<section class="card wide" id="phases"><h2>Phases</h2><div class="scroll"><table><thead><tr><th>Phase</th>'
        '<th class="num">Trials</th><th class="num">Best</th><th class="num">Time</th><th class="num">GPU-hours</th>'
        f"</tr></thead><tbody>{lines}</tbody></table></div></section>"
    )


def _foot(analysis: Analysis, remarks: Sequence[str]) -> str:
    sentences = [*notes(analysis), *remarks]
    sentences.append(
        f"All numbers come from the {trials_text(len(analysis.ledger.trials))} of all_results.jsonl beside this file."
    )
    if analysis.sweep.command:
        sentences.append(f"Started with: {analysis.sweep.command}")
    return f"<footer>{''.join(f'<p>{escape(text)}</p>' for text in sentences)}</footer>"
