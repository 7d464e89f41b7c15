"""The pen for the page: drawings as inline SVG whose colours come from the page's style and whose text stays text."""

from html import escape

from tune_jobs.report.drawing import TEXT_SIZE, Cross, Dot, Drawing, DrawnShape, Label, Polyline, Rectangle


def to_svg(drawing: Drawing, extra_class: str = "") -> str:
    """Returns an <svg> element.

    Args:
        drawing: The chart.
        extra_class: Put on the element, so that the page can choose between a wide and a narrow drawing.
    """
    width, height = _number(drawing.width), _number(drawing.height)
    name = f"chart {extra_class}".strip()
    head = f'<svg class="{name}" viewBox="0 0 {width} {height}" style="max-width:{width}px" role="img"'
    shapes = "".join(_element(shape) for shape in drawing.shapes)
    return f'{head} aria-label="{escape(drawing.description)}">{shapes}</svg>'


def _element(shape: DrawnShape) -> str:
    content = f"<title>{escape(shape.tip)}</title>" if shape.tip else ""
    common = f' data-trial="{escape(shape.trial)}"' if shape.trial else ""
    if isinstance(shape, Label):
        return _label(shape, common, content)
    tag, attributes = _geometry(shape)
    return f"<{tag}{attributes}{common}>{content}</{tag}>" if content else f"<{tag}{attributes}{common}/>"


def _geometry(shape: DrawnShape) -> tuple[str, str]:
    if isinstance(shape, Polyline):
        points = " ".join(f"{_number(x)},{_number(y)}" for x, y in shape.points)
        dashes = ' stroke-dasharray="4 4"' if shape.dashed else ""
        line = f' class="s-{shape.ink}" points="{points}" stroke-width="{_number(shape.width)}"'
        return "polyline", line + dashes + _opacity(shape.opacity)
    if isinstance(shape, Rectangle):
        place = f' x="{_number(shape.x)}" y="{_number(shape.y)}"'
        place += f' width="{_number(shape.width)}" height="{_number(shape.height)}"'
        outline = f" s-{shape.outline}" if shape.outline else ""
        classes = f"f-{shape.ink}{outline}"
        radius = f' rx="{_number(shape.radius)}"' if shape.radius else ""
        return "rect", f' class="{classes}"{place}{radius}' + _opacity(shape.opacity)
    if isinstance(shape, Dot):
        style = f"s-{shape.ink} hollow" if shape.hollow else f"f-{shape.ink} dot"
        place = f' cx="{_number(shape.x)}" cy="{_number(shape.y)}" r="{_number(shape.radius)}"'
        return "circle", f' class="{style}"{place}' + _opacity(shape.opacity)
    assert isinstance(shape, Cross), f"no pen for {type(shape).__name__}"
    path = "".join(f"M{_number(x1)} {_number(y1)}L{_number(x2)} {_number(y2)}" for (x1, y1), (x2, y2) in shape.strokes)
    return "path", f' class="s-{shape.ink}" d="{path}" stroke-width="2"'


def _label(label: Label, common: str, content: str) -> str:
    place = f' x="{_number(label.x)}" y="{_number(label.y)}"'
    anchor = f' text-anchor="{label.anchor}"' if label.anchor != "start" else ""
    size = f' font-size="{_number(label.size)}"' if label.size != TEXT_SIZE else ""
    bold = ' font-weight="600"' if label.bold else ""
    halo = " halo" if label.halo else ""
    return f'<text class="f-{label.ink}{halo}"{place}{anchor}{size}{bold}{common}>{content}{escape(label.text)}</text>'


def _opacity(opacity: float) -> str:
    return f' opacity="{_number(opacity)}"' if opacity < 1 else ""


def _number(value: float) -> str:
    """At most one decimal: a tenth of a pixel is enough, and files stay small."""
    text = f"{value:.1f}" if value >= 10 or value == int(value) else f"{value:.2f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
