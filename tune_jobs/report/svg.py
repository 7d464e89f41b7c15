"""Renders drawings as inline SVG; the page's style sheet has the colours, and text remains text."""

from html import escape

from tune_jobs.report.drawing import TEXT_SIZE, Cross, Dot, Drawing, DrawnShape, Label, Polyline, Rectangle


def to_svg(drawing: Drawing, extra_class: str = "") -> str:
    """Returns an <svg> element.

    Args:
        drawing: The chart.
        extra_class: CSS class of the element, by which the page selects the wide or the narrow drawing.
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
        attributes = f' class="s-{shape.ink}" points="{points}" stroke-width="{_number(shape.width)}"'
        return "polyline", attributes + dashes + _opacity(shape.opacity)
    if isinstance(shape, Rectangle):
        position = f' x="{_number(shape.x)}" y="{_number(shape.y)}"'
        position += f' width="{_number(shape.width)}" height="{_number(shape.height)}"'
        outline = f" s-{shape.outline}" if shape.outline else ""
        classes = f"f-{shape.ink}{outline}"
        radius = f' rx="{_number(shape.radius)}"' if shape.radius else ""
        return "rect", f' class="{classes}"{position}{radius}' + _opacity(shape.opacity)
    if isinstance(shape, Dot):
        style = f"s-{shape.ink} hollow" if shape.hollow else f"f-{shape.ink} dot"
        position = f' cx="{_number(shape.x)}" cy="{_number(shape.y)}" r="{_number(shape.radius)}"'
        return "circle", f' class="{style}"{position}' + _opacity(shape.opacity)
    assert isinstance(shape, Cross), f"no renderer for {type(shape).__name__}"
    path = "".join(f"M{_number(x1)} {_number(y1)}L{_number(x2)} {_number(y2)}" for (x1, y1), (x2, y2) in shape.strokes)
    return "path", f' class="s-{shape.ink}" d="{path}" stroke-width="2"'


def _label(label: Label, common: str, content: str) -> str:
    position = f' x="{_number(label.x)}" y="{_number(label.y)}"'
    anchor = f' text-anchor="{label.anchor}"' if label.anchor != "start" else ""
    size = f' font-size="{_number(label.size)}"' if label.size != TEXT_SIZE else ""
    bold = ' font-weight="600"' if label.bold else ""
    halo = " halo" if label.halo else ""
    return (
        f'<text class="f-{label.ink}{halo}"{position}{anchor}{size}{bold}{common}>{content}{escape(label.text)}</text>'
    )


def _opacity(opacity: float) -> str:
    return f' opacity="{_number(opacity)}"' if opacity < 1 else ""


def _number(value: float) -> str:
    """Formats a number with at most two decimals, to keep files small."""
    text = f"{value:.1f}" if value >= 10 or value == int(value) else f"{value:.2f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
