"""The report as one HTML file: no other file, no network, every browser, phone to laptop, light and dark."""

from collections.abc import Sequence
from dataclasses import dataclass

from tune_jobs.analysis.summaries import Summary
from tune_jobs.analysis.sweep_analysis import Analysis
from tune_jobs.config.language import parse_duration_text, tr
from tune_jobs.report.advice import Advice
from tune_jobs.report.charts_lineage import MOST_COPIES, copy_rows, has_lineage, path_rows
from tune_jobs.report.drawing import shorten
from tune_jobs.report.formatting import Chart
from tune_jobs.report.shell import numeric_columns, render
from tune_jobs.report.summary import (
    SHOWN_RUNS,
    badges,
    eyebrow,
    failure_rows,
    headline,
    notes,
    phase_rows,
    runs_table,
    sources,
    tiles,
    trial_rows,
    wandb_page,
)

_MOST_FAILURES = 30
_MOST_TRIALS = 2000  # in the table of all trials
_WIDEST_CELL = 260.0  # a longer text is shortened in its middle; its tooltip has all of it


@dataclass(frozen=True, kw_only=True)
class PageContent:
    """The content of the page.

    Attributes:
        analysis: The analysis of the sweep.
        charts: The charts, in the sequence of the page.
        advice: Recommended actions.
        facts: What the sweep ran with: data, model, code; see summary.facts.
        examples: Summaries of the winner.
        remarks: Sentences for the footer, in addition to those that follow from the analysis.
    """

    analysis: Analysis
    charts: Sequence[Chart]
    advice: Sequence[Advice]
    facts: Sequence[tuple[str, str]] = ()
    examples: Sequence[Summary] = ()
    remarks: Sequence[str] = ()


@dataclass(frozen=True)
class Table:
    """A table of the page; `key` is its anchor, `note` explains it."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    note: str = ""
    key: str = ""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell of the best runs.

    Attributes:
        text: The whole text.
        shown: The text as it fits.
        value: The number by which the cell is sorted; None where it is sorted as it is shown.
        is_numeric: Whether its column has numbers only.
        is_tie: Whether it is marked as tied with the best.
        is_end: Whether it is how a trial ended.
    """

    text: str
    shown: str
    value: float | None
    is_numeric: bool
    is_tie: bool
    is_end: bool


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the best runs."""

    trial_id: str
    cells: Sequence[Cell]


@dataclass(frozen=True, kw_only=True)
class BestRuns:
    """The table of the best configurations; `more` are not in it."""

    header: Sequence[str]
    numeric: Sequence[bool]
    rows: Sequence[Row]
    has_means: bool
    more: int


def build_page(content: PageContent) -> str:
    """Returns the whole HTML document."""
    analysis = content.analysis
    failures = failure_rows([*analysis.failures, *analysis.unscored])
    every = trial_rows(analysis)
    return render(
        "report.html",
        title=tr("Sweep report: {sweep}", sweep=analysis.sweep.sweep or tr("no sweep")),
        eyebrow=eyebrow(analysis),
        badges=badges(analysis),
        headline=headline(analysis),
        facts=content.facts,
        tiles=tiles(analysis),
        advice=content.advice,
        runs=_best_runs(analysis),
        examples=_examples(content.examples),
        charts=content.charts,
        absent=[chart for chart in content.charts if chart.draw is None],
        lineage=_lineage(analysis),
        failures=failures[:_MOST_FAILURES],
        more_failures=len(failures) - _MOST_FAILURES,
        phases=Table(*phase_rows(analysis)) if analysis.phases else None,
        every=Table(every[0], every[1][:_MOST_TRIALS]),
        more_trials=len(every[1]) - _MOST_TRIALS,
        notes=_notes(analysis, content.remarks),
        wandb_page=wandb_page(analysis),
    )


def _best_runs(analysis: Analysis) -> BestRuns:
    header, rows = runs_table(analysis)
    numeric = numeric_columns(header, rows)
    shown = [
        Row(
            trial_id=candidate.best.trial.trial_id,
            cells=[_cell(name, text, right) for name, text, right in zip(header, row, numeric, strict=True)],
        )
        for candidate, row in zip(analysis.candidates, rows, strict=False)
    ]
    return BestRuns(
        header=header,
        numeric=numeric,
        rows=shown,
        has_means=any(one.runs_text for one in analysis.candidates[:SHOWN_RUNS]),
        more=len(analysis.candidates) - SHOWN_RUNS,
    )


def _cell(name: str, text: str, is_numeric: bool) -> Cell:
    tie = tr("{text} tie", text="")
    is_tie = name == tr("To best") and text.endswith(tie)
    whole = text.removesuffix(tie) if is_tie else text
    return Cell(
        text=whole,
        shown=shorten(whole, _WIDEST_CELL),
        value=_sort_value(name, whole),
        is_numeric=is_numeric,
        is_tie=is_tie,
        is_end=name == tr("End"),
    )


def _sort_value(name: str, text: str) -> float | None:
    """Returns the number by which a cell is sorted; None where it is sorted by its text.

    >>> _sort_value("Time", "1 h 30 min"), _sort_value("To best", "−0.03"), _sort_value("Score", "24.43 (3 seeds)")
    (5400.0, -0.03, 24.43)
    """
    if name == tr("Time"):
        return parse_duration_text(text)
    if name == tr("To best") and text == tr("best"):
        return 0.0
    first = text.split(" ", 1)[0].replace("−", "-")
    try:
        return None if first == text else float(first)
    except ValueError:
        return None


def _examples(examples: Sequence[Summary]) -> list[tuple[str, Summary]]:
    names = (tr("Its best summary"), tr("An average one"), tr("Its worst"))
    return list(zip(names if len(examples) == 3 else [tr("Summary")] * len(examples), examples, strict=True))


def _lineage(analysis: Analysis) -> list[Table]:
    """Returns the lineage of a population as tables, because tooltips are lost in print."""
    if not has_lineage(analysis):
        return []
    copies = sum(len(trial.lineage) for trial in analysis.ledger.trials)
    note = tr(
        "The first {shown} of {count}; all are in {file}.", shown=MOST_COPIES, count=copies, file="all_results.jsonl"
    )
    return [
        Table(*path_rows(analysis), title=tr("How the winner's weights came about"), key="way"),
        Table(
            *copy_rows(analysis),
            title=tr("Every change of weights"),
            note=note if copies > MOST_COPIES else "",
            key="copies",
        ),
    ]


def _notes(analysis: Analysis, remarks: Sequence[str]) -> list[str]:
    found = [*notes(analysis), *remarks, sources(analysis)]
    if analysis.sweep.command:
        found.append(tr("Started with: {command}", command=analysis.sweep.command))
    return found
