"""Draws all charts of a report into one PNG with matplotlib."""

import dataclasses
import io
import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tune_jobs.analysis.sweep_analysis import Analysis
from tune_jobs.config.language import tr
from tune_jobs.report.drawing import (
    Canvas,
    Cross,
    Dot,
    Drawing,
    DrawnShape,
    Label,
    Polyline,
    Rectangle,
    shorten,
    text_width,
)
from tune_jobs.report.formatting import Chart
from tune_jobs.report.summary import badges, eyebrow, headline, tiles
from tuning_common.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Patch

_COLOURS = {
    "page": "#f6f5f2",
    "ink": "#22282f",
    "muted": "#646e79",
    "grid": "#e6e5e0",
    "surface": "#ffffff",
    "band": "#efeeea",
    "accent": "#1f6f8b",
    "finished": "#6d93ab",
    "stopped": "#8a8f8e",
    "failed": "#bf4f3a",
    "oom": "#c48213",
    "refused": "#8467a8",
    "running": "#5b8f5b",
} | {
    f"ramp{i}": colour
    for i, colour in enumerate(
        ["#eee7d6", "#dde0cc", "#c5d6c7", "#a8c9c3", "#87b8bd", "#65a2b0", "#3b7b92", "#2b6d89", "#16506d"]
    )
}
_KOREAN_FONTS = (
    "Noto Sans KR",
    "Noto Sans CJK KR",
    "Noto Sans CJK JP",  # the same font file; matplotlib lists a collection under the name of its first font
    "NanumGothic",
    "NanumBarunGothic",
    "Malgun Gothic",
    "AppleGothic",
    "Apple SD Gothic Neo",
    "UnDotum",
    "Baekmuk Dotum",
)
_PLAIN_FONT = "DejaVu Sans"  # comes with matplotlib
_WIDTH, _GAP, _PADDING, _DPI = 1120.0, 16.0, 18.0, 110
_CARD = 26 + 2 * _PADDING  # height of a card beside its drawing
_DEJAVU = 1.12  # matplotlib's own font is wider than those of a browser
_POINT = 0.72  # one unit is a hundredth of an inch, which has 72 points


def write_picture(path: Path, analysis: Analysis, charts: Sequence[Chart]) -> list[str]:
    """Draws the headline and all charts into one PNG.

    Returns:
        Messages for the user about text that could not be drawn.
    """
    sheet = lay_out(analysis, charts)
    texts = [shape.text for shape in sheet.shapes if isinstance(shape, Label)]
    fonts, missing = choose_fonts(texts)
    write_bytes(path, _draw(sheet, fonts, missing))
    if not missing:
        return []
    return [
        tr(
            "The picture shows a box for {count} different characters: no font on this machine has them."
            " Install a Korean font, for example the package fonts-noto-cjk, and build the report again.",
            count=len(missing),
        )
    ]


def lay_out(analysis: Analysis, charts: Sequence[Chart]) -> Drawing:
    """Arranges headline, facts and charts on one sheet: wide charts alone, others two in a row."""
    canvas = Canvas(width=_WIDTH, height=0.0)
    inner = _WIDTH - 2 * _GAP
    badge = "".join(f" · {text}" for text in badges(analysis))
    canvas.add(Label(x=_GAP, y=26, text=eyebrow(analysis) + badge, size=13.0))
    canvas.add(Label(x=_GAP, y=54, text=shorten(headline(analysis), inner, 22.0), ink="ink", size=22.0, bold=True))
    top = 80.0 + _tile_row(canvas, analysis, inner)
    half = (inner - _GAP) / 2
    drawn = iter([chart for chart in charts if chart.draw is not None])
    for chart in drawn:
        row = [chart] if chart.wide else [chart, *itertools.islice(drawn, 1)]  # see charts.arrange: halves are in pairs
        width = inner if chart.wide else half
        drawings = [one.draw(width - 2 * _PADDING) for one in row if one.draw is not None]
        height = max(drawing.height for drawing in drawings)
        for i, (one, drawing) in enumerate(zip(row, drawings, strict=True)):
            _add_card(canvas, one, drawing, x=_GAP + i * (half + _GAP), y=top, width=width, height=height)
        top += height + _CARD + _GAP
    canvas.height = top
    return canvas.finish(headline(analysis))


def choose_fonts(texts: Iterable[str]) -> tuple[list[str], set[str]]:
    """Selects fonts that cover every character of some texts.

    Returns:
        Font names for matplotlib, in the sequence of use, and the characters that none of them covers.
    """
    _keep_cache_here()
    from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

    needed = {character for text in texts for character in text if not character.isspace()}
    installed = {entry.name for entry in fontManager.ttflist}
    fonts: list[str] = []
    for name in (_PLAIN_FONT, *(name for name in _KOREAN_FONTS if name in installed)):
        have = {chr(code) for code in get_font(findfont(FontProperties(family=[name]))).get_charmap()}
        if not fonts or needed & have:
            fonts.append(name)
            needed -= have
        if not needed:
            break
    return fonts, needed


def has_bold(name: str) -> bool:
    """Returns whether a font is installed with a bold face; Korean fonts often are not."""
    from matplotlib.font_manager import fontManager, weight_dict

    weights = {entry.weight for entry in fontManager.ttflist if entry.name == name}
    return any((weight_dict.get(one, 400) if isinstance(one, str) else one) >= weight_dict["bold"] for one in weights)


def _keep_cache_here() -> None:
    """Makes matplotlib keep its font list in the working folder, because nothing may be written elsewhere."""
    os.environ.setdefault("MPLCONFIGDIR", str(Path(".cache/matplotlib").resolve()))


def _tile_row(canvas: Canvas, analysis: Analysis, inner: float) -> float:
    width = (inner - 3 * _GAP) / 4
    for i, tile in enumerate(tiles(analysis)):
        x = _GAP + i * (width + _GAP)
        canvas.add(Rectangle(x=x, y=80, width=width, height=92, ink="surface", radius=8.0))
        canvas.add(Label(x=x + 14, y=98, text=tile.label))
        canvas.add(Label(x=x + 14, y=120, text=shorten(tile.value, width - 28, 17.0), ink="ink", size=17.0, bold=True))
        for j, line in enumerate(_wrapped(tile.detail, width - 28, 10.5, lines=2)):
            canvas.add(Label(x=x + 14, y=142 + 14 * j, text=line, size=10.5))
    return 92.0 + _GAP


def _wrapped(text: str, width: float, size: float, lines: int) -> list[str]:
    found = [""]
    for token in text.split():
        longer = f"{found[-1]} {token}".strip()
        if text_width(longer, size) * _DEJAVU <= width or not found[-1]:
            found[-1] = longer
        elif len(found) == lines:
            found[-1] = found[-1] + " …"
            break
        else:
            found.append(token)
    return found


def _add_card(
    canvas: Canvas, chart: Chart, drawing: Drawing, *, x: float, y: float, width: float, height: float
) -> None:
    """Adds a chart with its title on a white card that has room for a drawing of this height."""
    canvas.add(Rectangle(x=x, y=y, width=width, height=height + _CARD, ink="surface", radius=8.0))
    canvas.add(Label(x=x + _PADDING, y=y + 22, text=chart.title, ink="ink", size=14.0, bold=True))
    canvas.extend(_moved(shape, x + _PADDING, y + 42) for shape in drawing.shapes)


def _moved(shape: DrawnShape, right: float, down: float) -> DrawnShape:
    if isinstance(shape, Polyline):
        return dataclasses.replace(shape, points=tuple((x + right, y + down) for x, y in shape.points))
    assert isinstance(shape, (Rectangle, Dot, Cross, Label)), f"no renderer for {type(shape).__name__}"
    return dataclasses.replace(shape, x=shape.x + right, y=shape.y + down)


def _draw(sheet: Drawing, fonts: list[str], missing: set[str]) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(sheet.width / 100, sheet.height / 100), dpi=_DPI, facecolor=_COLOURS["page"])
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_xlim(0, sheet.width)
    axes.set_ylim(sheet.height, 0)
    axes.axis("off")
    bold = all(has_bold(name) for name in fonts)  # matplotlib would warn of each one that has none
    for zorder, shape in enumerate(sheet.shapes):
        if isinstance(shape, Label) and not bold:
            shape = dataclasses.replace(shape, bold=False)
        _put(axes, shape, zorder, fonts, missing)
    content = io.BytesIO()
    FigureCanvasAgg(figure).print_png(content)
    return content.getvalue()


def _put(axes: "Axes", shape: DrawnShape, zorder: int, fonts: list[str], missing: set[str]) -> None:
    from matplotlib.patches import Circle
    from matplotlib.patheffects import withStroke

    if isinstance(shape, Polyline):
        xs, ys = [x for x, _ in shape.points], [y for _, y in shape.points]
        style = (0, (4, 4)) if shape.dashed else "-"
        axes.plot(
            xs, ys, color=_colour(shape.ink), linewidth=shape.width * _POINT, linestyle=style, alpha=shape.opacity,
            zorder=zorder, solid_joinstyle="round", solid_capstyle="round",
        )  # fmt: skip
    elif isinstance(shape, Rectangle):
        axes.add_artist(_box_patch(shape, zorder))
    elif isinstance(shape, Dot):
        face = _COLOURS["surface"] if shape.hollow else _colour(shape.ink)
        edge = _colour(shape.ink) if shape.hollow else _COLOURS["surface"]
        line = (1.6 if shape.hollow else 1.0) * _POINT
        axes.add_artist(
            Circle((shape.x, shape.y), shape.radius, facecolor=face, edgecolor=edge, linewidth=line, zorder=zorder)
        )
    elif isinstance(shape, Cross):
        for (x1, y1), (x2, y2) in shape.strokes:
            axes.plot([x1, x2], [y1, y2], color=_colour(shape.ink), linewidth=2 * _POINT, zorder=zorder)
    elif isinstance(shape, Label):
        text = "".join("□" if character in missing else character for character in shape.text)
        axes.text(
            shape.x, shape.y, text, color=_colour(shape.ink), fontsize=shape.size * _POINT, fontfamily=fonts,
            ha={"start": "left", "middle": "center", "end": "right"}[shape.anchor], va="center",
            fontweight="bold" if shape.bold else "normal", zorder=zorder, parse_math=False,
            path_effects=[withStroke(linewidth=3 * _POINT, foreground=_COLOURS["surface"])] if shape.halo else None,
        )  # fmt: skip


def _box_patch(box: Rectangle, zorder: int) -> "Patch":
    from matplotlib.patches import FancyBboxPatch, Rectangle

    corner = (box.x, box.y)
    patch: Patch
    if box.radius >= 3:
        style = f"round,pad=0,rounding_size={box.radius}"
        patch = FancyBboxPatch(corner, box.width, box.height, boxstyle=style)
    else:
        patch = Rectangle(corner, box.width, box.height)
    patch.set(
        facecolor=_colour(box.ink), edgecolor=_colour(box.outline) if box.outline else "none", linewidth=_POINT,
        alpha=box.opacity, zorder=zorder,
    )  # fmt: skip
    return patch


def _colour(ink: str) -> str:
    if ink.startswith("on_ramp"):
        return _COLOURS["surface" if int(ink[-1]) >= 6 else "ink"]
    return _COLOURS[ink]
