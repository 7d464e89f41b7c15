"""HTML parts that all pages share: document, tiles, charts and tables. A page is one file and needs no network."""

from collections.abc import Sequence
from html import escape
from importlib.resources import files

from tune_jobs.report.drawing import INKS
from tune_jobs.report.formatting import Chart
from tune_jobs.report.summary import Tile
from tune_jobs.report.svg import to_svg

_HALF, _WIDE, _PHONE = 520.0, 1064.0, 338.0  # widths for which charts are drawn, in CSS pixels


def document(title: str, body: Sequence[str]) -> str:
    """Returns a whole HTML document.

    Args:
        title: Plain text for the browser's tab.
        body: HTML parts; empty ones are left out.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{_resource('page.css')}{_ink_rules()}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in body if part)
        + f"\n</main>\n<script>\n{_resource('page.js')}</script>\n</body>\n</html>\n"
    )


def unbroken(text: str) -> str:
    """Allows line breaks of a headline between settings only."""
    return ", ".join(f'<span class="nb">{escape(part)}</span>' for part in text.split(", "))


def tiles_html(tiles: Sequence[Tile]) -> str:
    """Returns the tiles as HTML, the first one emphasized."""
    return f'<div class="tiles">{"".join(_tile(tile, lead=i == 0) for i, tile in enumerate(tiles))}</div>'


def _tile(tile: Tile, *, lead: bool) -> str:
    return (
        f'<div class="tile{" lead" if lead else ""}"><div class="label">{escape(tile.label)}</div>'
        f'<div class="value">{escape(tile.value)}</div><div class="detail">{escape(tile.detail)}</div></div>'
    )


def chart_html(chart: Chart) -> str:
    """Returns a card with a chart, drawn once for a laptop and once for a phone."""
    assert chart.draw is not None
    note = f'<p class="note">{escape(chart.note)}</p>' if chart.note else ""
    laptop = chart.draw(_WIDE if chart.wide else _HALF)
    content = note + to_svg(laptop, "laptop") + to_svg(chart.draw(_PHONE), "phone")
    wide = " wide" if chart.wide else ""
    return f'<section class="card{wide}" id="{escape(chart.key)}"><h2>{escape(chart.title)}</h2>{content}</section>'


def table_card(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, note: str = "", key: str = ""
) -> str:
    """Returns a card with a table; numeric columns are aligned to the right.

    Args:
        title: Title of the card.
        header: Names of the columns.
        rows: Plain texts.
        note: How to read the table.
        key: Anchor for links.
    """
    numeric = [bool(rows) and all(is_number(row[i]) for row in rows) for i in range(len(header))]
    heads = "".join(
        f"<th scope=col{' class=num' if right else ''}>{escape(name).replace('_', '_<wbr>')}</th>"
        for name, right in zip(header, numeric, strict=True)
    )
    lines = "".join(
        "<tr>"
        + "".join(
            f'<td class="{"num" if right else "text" if len(text) > 40 else ""}">{escape(text)}</td>'
            for text, right in zip(row, numeric, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    note_html = f'<p class="note">{escape(note)}</p>' if note else ""
    return (
        f'<section class="card wide"{f" id={key}" if key else ""}><h2>{escape(title)}</h2>{note_html}{scroll(title)}'
        f"<table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div></section>"
    )


def scroll(title: str) -> str:
    """Returns the opening tag of a box that scrolls a wide table, also by keyboard."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(title)}">'


def is_number(text: str) -> bool:
    try:
        float(text.replace(",", "").replace("−", "-").removesuffix("%"))
    except ValueError:
        return text == ""
    return True


def _ink_rules() -> str:
    """Returns a fill and a stroke rule for each ink; text on the dark half of the ramp is light."""
    rules = []
    for ink in INKS:
        if ink.startswith("on_ramp"):
            colour = "var(--on-high)" if int(ink[-1]) >= 6 else "var(--on-low)"
        else:
            colour = f"var(--{ink})"
        rules.append(f"svg .f-{ink} {{ fill: {colour}; }} svg .s-{ink} {{ stroke: {colour}; }}")
    return "\n".join(rules) + "\n"


def _resource(name: str) -> str:
    return files("tune_jobs.report").joinpath(name).read_text(encoding="utf-8")
