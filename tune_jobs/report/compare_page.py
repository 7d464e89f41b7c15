"""A comparison as texts, tables and one HTML file."""

from collections.abc import Sequence
from html import escape

from tune_jobs.analysis.comparison import COMBINED, Certainty, Comparison, Side, largest_differences
from tune_jobs.analysis.paired_summaries import SharedSummaries
from tune_jobs.analysis.significance import RESAMPLES, PairedDifference
from tune_jobs.config.parameters import show_value
from tune_jobs.report.charts_compare import SIDE_INKS, find_comparison_charts
from tune_jobs.report.shell import chart_html, document, table_card, tiles_html
from tune_jobs.report.summary import Tile
from tuning_common.units import format_duration

_NAMES = {"rouge1_f1": "R-1", "rouge2_f1": "R-2", "rougeL_f1": "R-L", COMBINED: "Combined"}
_SHOWN_DIALOGUES = 12
_CERTAINTIES: dict[Certainty, str] = {
    "clear": "clear",
    "not sure": "not sure: other dialogues may reverse it",
    "may be the seed": "may be the seed",
    "clear but for the seed": "probable: another seed was not tried",
    "unknown": "not known: no summaries",
}


def headline(comparison: Comparison) -> str:
    """Returns one sentence: which experiment is better, or that it is unknown."""
    first, best = comparison.sides[0], comparison.best
    others = [side for side in comparison.sides if side is not first]
    if not comparison.summaries:
        return f"{best.letter} has the highest score, and the certainty is not known"
    if best is not first:
        lead = best.differences[COMBINED].mean
        return _lead(best.letter, first.letter, lead, best.certainty)
    if all(side.differences[COMBINED].mean == 0 for side in others):
        return f"{first.letter} and the {'other' if len(others) == 1 else 'others'} score the same"
    nearest = comparison.rival
    return _lead(first.letter, nearest.letter, -nearest.differences[COMBINED].mean, nearest.certainty)


def _lead(one: str, other: str, points: float, certainty: Certainty) -> str:
    if certainty == "clear":
        return f"{one} is clearly better than {other}, by {points:.2f} points"
    chance = "another seed was not tried" if certainty == "clear but for the seed" else "which may be chance"
    return f"{one} is ahead of {other} by {points:.2f} points; {chance}"


def score_rows(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Returns the header and one row for each experiment."""
    first = comparison.sides[0].letter
    header = ["", *_NAMES.values(), f"To {first}", "95%", "How sure", "Evals", "Time", "Experiment"]
    rows = []
    for side in comparison.sides:
        gap = side.differences.get(COMBINED)
        rows.append(
            [
                side.letter,
                *(f"{side.scores[name]:.2f}" if name in side.scores else "" for name in _NAMES),
                signed(gap.mean) if gap else "",
                interval(gap) if gap else "",
                "" if side is comparison.sides[0] else _CERTAINTIES[side.certainty],
                str(len(side.numbers.history)),
                format_duration(side.experiment.trial.wall_s) if side.experiment.trial else "",
                side.name,
            ]
        )
    return header, rows


def difference_rows(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Returns the differences to the first in each score, with their intervals."""
    rows = [
        [side.letter, *(f"{signed(gap.mean)}  ({interval(gap)})" for gap in side.differences.values())]
        for side in comparison.sides
        if side.differences
    ]
    return ["", *_NAMES.values()], rows


def setting_rows(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Returns the settings that differ, one row each."""
    rows = [[name, *(show_value(value) for value in values)] for name, values in comparison.settings]
    return ["Setting", *(side.letter for side in comparison.sides)], rows


def notes(comparison: Comparison) -> list[str]:
    """Returns what a reader must know about the numbers."""
    first, found = comparison.sides[0].letter, []
    if comparison.summaries:
        found.append(
            f"Differences are to {first} on the same {len(comparison.summaries)} dialogues; in 95% of {RESAMPLES:,}"
            " draws of other dialogues (paired bootstrap) they lie in the interval."
        )
        band = comparison.noise.band
        seed = f"{band:.2f} points may be the seed: " if band else "The seed is not in the interval: "
        found.append(f"{seed}{comparison.noise.source}.")
    scorer = comparison.scorer
    model = f" ({scorer['tokenizer_model']})" if scorer.get("tokenizer_model") else ""
    found.append(
        f"Scored with {scorer.get('tokenizer', '?')} {scorer.get('tokenizer_version', '?')}{model} and rouge_score"
        f" {scorer.get('rouge_score_version', '?')}."
    )
    return [*found, *comparison.remarks]


def build_compare_page(comparison: Comparison) -> str:
    """Returns the whole HTML document."""
    names = " · ".join(f"{side.letter} {side.name}" for side in comparison.sides)
    header, rows = score_rows(comparison)
    body = [
        f'<p class="eyebrow"><span>comparison · {escape(names)}</span></p>',
        f"<h1>{escape(headline(comparison))}</h1>",
        tiles_html(_tiles(comparison)),
        '<div class="grid">',
        table_card("Scores", header, rows, key="scores"),
        *([table_card("Differences", *difference_rows(comparison), key="differences")] if comparison.summaries else []),
        _settings(comparison),
        *(chart_html(chart) for chart in find_comparison_charts(comparison)),
        _dialogues(comparison),
        "</div>",
        f"<footer>{''.join(f'<p>{escape(text)}</p>' for text in notes(comparison))}</footer>",
    ]
    return document(f"Comparison: {' and '.join(side.name for side in comparison.sides)}", body)


def signed(value: float) -> str:
    """Formats a difference.

    >>> signed(1.2345), signed(-0.5)
    ('+1.23', '−0.50')
    """
    return f"{'+' if value >= 0 else '−'}{abs(value):.2f}"


def interval(gap: PairedDifference) -> str:
    """Formats the confidence interval of a difference.

    >>> interval(PairedDifference(mean=1.0, low=-0.25, high=2.5, count=10))
    '−0.25 to +2.50'
    """
    return f"{signed(gap.low)} to {signed(gap.high)}"


def _tiles(comparison: Comparison) -> list[Tile]:
    best = comparison.best
    rival = comparison.rival
    gap = rival.differences.get(COMBINED)
    three = ", ".join(f"{_NAMES[name]} {best.scores[name]:.2f}" for name in list(_NAMES)[:3] if name in best.scores)
    found = [Tile(label=f"Best: {best.letter}", value=f"{best.scores.get(COMBINED, 0.0):.2f}", detail=three)]
    found += [
        Tile(label=f"{side.letter}", value=f"{side.scores.get(COMBINED, 0.0):.2f}", detail=side.name)
        for side in comparison.sides
        if side is not best
    ][: 2 if gap is None else 1]
    if gap is not None:
        letters = f"{rival.letter} to {comparison.sides[0].letter}"
        found.append(Tile(label=letters, value=signed(gap.mean), detail=f"{interval(gap)} on other dialogues (95%)"))
        value, _, reason = _CERTAINTIES[rival.certainty].partition(": ")
        seed = comparison.noise.source if rival.certainty == "may be the seed" else ""
        found.append(Tile(label="How sure", value=value, detail=reason or seed or f"on {gap.count} dialogues"))
    return found


def _settings(comparison: Comparison) -> str:
    header, rows = setting_rows(comparison)
    if not rows:
        return '<section class="card wide"><h2>What differs</h2><p class="note">No setting differs.</p></section>'
    return table_card("What differs", header, rows, key="settings")


def _dialogues(comparison: Comparison) -> str:
    chosen = largest_differences(comparison, _SHOWN_DIALOGUES)
    if not chosen:
        return ""
    every = len(chosen) == len(comparison.summaries)
    selection = "All of them" if every else f"{len(chosen)} of {len(comparison.summaries)}"
    items = "".join(_dialogue(one, comparison.sides) for one in chosen)
    return (
        '<section class="card wide" id="dialogues-read"><h2>Side by side</h2>'
        f'<p class="note">{selection}: those with the largest gain of {comparison.rival.letter} first, then average'
        " ones, then its largest losses. With a letter: the models. Without one: people.</p>"
        f'<div class="examples">{items}</div></section>'
    )


def _dialogue(one: SharedSummaries, sides: Sequence[Side]) -> str:
    top = max(scores[COMBINED] for scores in one.scores)
    paragraphs = []
    for side, ink, text, scores in zip(sides, SIDE_INKS, one.predictions, one.scores, strict=False):
        star = " ★" if scores[COMBINED] == top else ""
        label = f"<b>{side.letter} {scores[COMBINED]:.1f}{star}</b>"
        paragraphs.append(
            f'<p class="said" style="border-color:var(--{ink})">{label} {escape(text) or "(nothing)"}</p>'
        )
    wanted = "".join(f'<p class="wanted">{escape(text)}</p>' for text in one.references[:3])
    return (
        f'<div class="example"><h3>{escape(one.fname)}</h3>{"".join(paragraphs)}{wanted}'
        f"<details><summary>the dialogue</summary><p>{escape(one.dialogue)}</p></details></div>"
    )
