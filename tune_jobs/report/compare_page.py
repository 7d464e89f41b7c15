"""A comparison as texts, tables and one HTML file."""

from collections.abc import Sequence

from tune_jobs.analysis.comparison import COMBINED, Certainty, Comparison, Side, largest_differences
from tune_jobs.analysis.paired_summaries import SharedSummaries
from tune_jobs.analysis.significance import RESAMPLES, PairedDifference
from tune_jobs.config.language import duration_text, tr
from tune_jobs.config.parameters import show_value
from tune_jobs.report.charts_compare import SIDE_INKS, find_comparison_charts
from tune_jobs.report.shell import render
from tune_jobs.report.summary import Tile

_NAMES = {"rouge1_f1": "R-1", "rouge2_f1": "R-2", "rougeL_f1": "R-L"}  # and COMBINED
_SHOWN_DIALOGUES = 12


def _certainty_text(certainty: Certainty) -> str:
    texts: dict[Certainty, str] = {
        "clear": tr("clear"),
        "not sure": tr("not sure: other dialogues may reverse it"),
        "may be the seed": tr("may be the seed"),
        "clear but for the seed": tr("probable: another seed was not tried"),
        "unknown": tr("not known: no summaries"),
    }
    return texts[certainty]


def headline(comparison: Comparison) -> str:
    """Returns one sentence: which experiment is better, or that it is unknown."""
    first, best = comparison.sides[0], comparison.best
    others = [side for side in comparison.sides if side is not first]
    if not comparison.summaries:
        return tr("{best} has the highest score, and the certainty is not known", best=best.letter)
    if best is not first:
        lead = best.differences[COMBINED].mean
        return _lead(best.letter, first.letter, lead, best.certainty)
    if all(side.differences[COMBINED].mean == 0 for side in others):
        if len(others) == 1:
            return tr("{first} and the other score the same", first=first.letter)
        return tr("{first} and the others score the same", first=first.letter)
    nearest = comparison.rival
    return _lead(first.letter, nearest.letter, -nearest.differences[COMBINED].mean, nearest.certainty)


def _lead(one: str, other: str, points: float, certainty: Certainty) -> str:
    if certainty == "clear":
        message = tr("{one} is clearly better than {other}, by {points:.2f} points")
    elif certainty == "clear but for the seed":
        message = tr("{one} is ahead of {other} by {points:.2f} points; another seed was not tried")
    else:
        message = tr("{one} is ahead of {other} by {points:.2f} points; which may be chance")
    return message.format(one=one, other=other, points=points)


def score_rows(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Returns the header and one row for each experiment."""
    first = comparison.sides[0].letter
    header = ["", *_NAMES.values(), tr("Combined"), tr("To {first}", first=first), "95%", tr("How sure")]
    header += [tr("Evals"), tr("Time"), tr("Experiment")]
    rows = []
    for side in comparison.sides:
        gap = side.differences.get(COMBINED)
        rows.append(
            [
                side.letter,
                *(f"{side.scores[name]:.2f}" if name in side.scores else "" for name in (*_NAMES, COMBINED)),
                signed(gap.mean) if gap else "",
                interval(gap) if gap else "",
                "" if side is comparison.sides[0] else _certainty_text(side.certainty),
                str(len(side.numbers.history)),
                duration_text(side.experiment.trial.wall_s) if side.experiment.trial else "",
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
    return ["", *_NAMES.values(), tr("Combined")], rows


def setting_rows(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Returns the settings that differ, one row each."""
    rows = [[name, *(show_value(value) for value in values)] for name, values in comparison.settings]
    return [tr("Setting"), *(side.letter for side in comparison.sides)], rows


def notes(comparison: Comparison) -> list[str]:
    """Returns what a reader must know about the numbers."""
    first, found = comparison.sides[0].letter, []
    if comparison.summaries:
        found.append(
            tr(
                "Differences are to {first} on the same {count} dialogues; in 95% of {draws:,} draws of other dialogues"
                " (paired bootstrap) they lie in the interval.",
                first=first,
                count=len(comparison.summaries),
                draws=RESAMPLES,
            )
        )
        band = comparison.noise.band
        source = comparison.noise.source
        found.append(
            tr("{band:.2f} points may be the seed: {source}.", band=band, source=source)
            if band
            else tr("The seed is not in the interval: {source}.", source=source)
        )
    scorer = comparison.scorer
    model = f" ({scorer['tokenizer_model']})" if scorer.get("tokenizer_model") else ""
    found.append(
        tr(
            "Scored with {tokenizer} {version}{model} and rouge_score {rouge_version}.",
            tokenizer=scorer.get("tokenizer", "?"),
            version=scorer.get("tokenizer_version", "?"),
            model=model,
            rouge_version=scorer.get("rouge_score_version", "?"),
        )
    )
    return [*found, *comparison.remarks]


def build_compare_page(comparison: Comparison) -> str:
    """Returns the whole HTML document."""
    return render(
        "compare.html",
        title=tr("Comparison: {names}", names=tr(" and ").join(side.name for side in comparison.sides)),
        names=" · ".join(f"{side.letter} {side.name}" for side in comparison.sides),
        headline=headline(comparison),
        tiles=_tiles(comparison),
        scores=score_rows(comparison),
        differences=difference_rows(comparison) if comparison.summaries else None,
        settings=setting_rows(comparison),
        charts=find_comparison_charts(comparison),
        dialogues=[(one, _texts(one, comparison.sides)) for one in largest_differences(comparison, _SHOWN_DIALOGUES)],
        selection=_selection(comparison),
        notes=notes(comparison),
    )


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
    return tr("{low} to {high}", low=signed(gap.low), high=signed(gap.high))


def _tiles(comparison: Comparison) -> list[Tile]:
    best = comparison.best
    rival = comparison.rival
    gap = rival.differences.get(COMBINED)
    three = ", ".join(f"{_NAMES[name]} {best.scores[name]:.2f}" for name in _NAMES if name in best.scores)
    found = [
        Tile(label=tr("Best: {best}", best=best.letter), value=f"{best.scores.get(COMBINED, 0.0):.2f}", detail=three)
    ]
    found += [
        Tile(label=f"{side.letter}", value=f"{side.scores.get(COMBINED, 0.0):.2f}", detail=side.name)
        for side in comparison.sides
        if side is not best
    ][: 2 if gap is None else 1]
    if gap is not None:
        letters = tr("{one} to {other}", one=rival.letter, other=comparison.sides[0].letter)
        detail = tr("{interval} on other dialogues (95%)", interval=interval(gap))
        found.append(Tile(label=letters, value=signed(gap.mean), detail=detail))
        value, _, reason = _certainty_text(rival.certainty).partition(": ")
        seed = comparison.noise.source if rival.certainty == "may be the seed" else ""
        found.append(
            Tile(
                label=tr("How sure"), value=value, detail=reason or seed or tr("on {count} dialogues", count=gap.count)
            )
        )
    return found


def _selection(comparison: Comparison) -> str:
    shown, count = min(_SHOWN_DIALOGUES, len(comparison.summaries)), len(comparison.summaries)
    which = tr("All of them") if shown == count else tr("{shown} of {count}", shown=shown, count=count)
    return tr(
        "{which}: those with the largest gain of {letter} first, then average ones, then its largest losses. With a"
        " letter: the models. Without one: people.",
        which=which,
        letter=comparison.rival.letter,
    )


def _texts(one: SharedSummaries, sides: Sequence[Side]) -> list[tuple[str, str, str]]:
    """Returns the label, the ink and the summary of each side; a star is beside the best."""
    top = max(scores[COMBINED] for scores in one.scores)
    return [
        (f"{side.letter} {scores[COMBINED]:.1f}{' ★' if scores[COMBINED] == top else ''}", ink, text)
        for side, ink, text, scores in zip(sides, SIDE_INKS, one.predictions, one.scores, strict=False)
    ]
