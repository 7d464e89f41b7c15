"""Renders pages from the templates *.html with Jinja2, which escapes every text. A page is one file without network."""

from collections.abc import Iterator, Sequence
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from tune_jobs.config.language import current_language, tr
from tune_jobs.records.ledger import OUTCOMES
from tune_jobs.report.drawing import INKS
from tune_jobs.report.formatting import Chart, outcome_text
from tune_jobs.report.svg import to_svg

_HALF, _WIDE, _PHONE = 520.0, 1064.0, 338.0  # widths for which charts are drawn, in CSS pixels


def render(template: str, **values: object) -> str:
    """Returns a page in the current language.

    Args:
        template: A file of this folder.
        values: What the template shows.
    """
    return environment().get_template(template).render(values, language=current_language())


@cache
def environment() -> Environment:
    """Returns the templates of this folder, with the functions that they use."""
    found = Environment(
        loader=PackageLoader("tune_jobs.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    functions = (tr, to_svg, chart_widths, numeric_columns, outcome_class, ink_colours)
    found.globals |= {function.__name__: function for function in functions}
    return found


def chart_widths(chart: Chart) -> tuple[tuple[float, str], ...]:
    """Returns the widths for which a chart is drawn, with the screen of each."""
    return ((_WIDE if chart.wide else _HALF, "laptop"), (_PHONE, "phone"))


def numeric_columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[bool]:
    """Returns for each column whether it has numbers only, which are aligned to the right."""
    return [bool(rows) and all(is_number(row[i]) for row in rows) for i in range(len(header))]


def is_number(text: str) -> bool:
    """Returns whether a cell is a number, or empty.

    >>> is_number("−1,234.5"), is_number("26%"), is_number(""), is_number("4 min")
    (True, True, True, False)
    """
    try:
        float(text.replace(",", "").replace("−", "-").removesuffix("%"))
    except ValueError:
        return text == ""
    return True


def outcome_class(text: str) -> str:
    """Returns the CSS class of a trial's end as it is shown; empty for another text."""
    return next((outcome for outcome in OUTCOMES if outcome_text(outcome) == text), "")


def ink_colours() -> Iterator[tuple[str, str]]:
    """Yields each ink with its colour in the style sheet; text on the dark half of the ramp is light."""
    for ink in INKS:
        on_ramp = "--on-high" if ink[-1] in "678" else "--on-low"
        yield ink, f"var({on_ramp if ink.startswith('on_ramp') else f'--{ink}'})"
