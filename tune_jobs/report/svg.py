"""Renders drawings as inline SVG; the page's style sheet has the colours, and text remains text."""

from xml.etree.ElementTree import Element, SubElement, tostring

from markupsafe import Markup

from tune_jobs.report.drawing import TEXT_SIZE, Cross, Dot, Drawing, DrawnShape, Label, Polyline, Rectangle


def to_svg(drawing: Drawing, extra_class: str = "") -> Markup:
    """Returns an <svg> element.

    Args:
        drawing: The chart.
        extra_class: CSS class of the element, by which the page selects the wide or the narrow drawing.
    """
    width, height = _number(drawing.width), _number(drawing.height)
    attributes = {
        "class": f"chart {extra_class}".strip(),
        "viewBox": f"0 0 {width} {height}",
        "style": f"max-width:{width}px",
        "role": "img",
        "aria-label": drawing.description,
    }
    root = Element("svg", attributes)
    for shape in drawing.shapes:
        if isinstance(shape, Label) and not shape.text:
            continue
        tag, attributes = _label(shape) if isinstance(shape, Label) else _geometry(shape)
        element = SubElement(root, tag, attributes | ({"data-trial": shape.trial} if shape.trial else {}))
        if shape.tip:
            SubElement(element, "title").text = shape.tip
        if isinstance(shape, Label):
            element.text = shape.text
    return Markup(tostring(root, encoding="unicode"))  # ElementTree has escaped it


def _geometry(shape: DrawnShape) -> tuple[str, dict[str, str]]:
    if isinstance(shape, Polyline):
        points = " ".join(f"{_number(x)},{_number(y)}" for x, y in shape.points)
        attributes = {"class": f"s-{shape.ink}", "points": points, "stroke-width": _number(shape.width)}
        return "polyline", attributes | ({"stroke-dasharray": "4 4"} if shape.dashed else {}) | _opacity(shape.opacity)
    if isinstance(shape, Rectangle):
        box = {"x": shape.x, "y": shape.y, "width": shape.width, "height": shape.height}
        box |= {"rx": shape.radius} if shape.radius else {}
        style = f"f-{shape.ink}" + (f" s-{shape.outline}" if shape.outline else "")
        return "rect", {"class": style} | _numbers(box) | _opacity(shape.opacity)
    if isinstance(shape, Dot):
        style = f"s-{shape.ink} hollow" if shape.hollow else f"f-{shape.ink} dot"
        circle = _numbers({"cx": shape.x, "cy": shape.y, "r": shape.radius})
        return "circle", {"class": style} | circle | _opacity(shape.opacity)
    assert isinstance(shape, Cross), f"no renderer for {type(shape).__name__}"
    path = "".join(f"M{_number(x1)} {_number(y1)}L{_number(x2)} {_number(y2)}" for (x1, y1), (x2, y2) in shape.strokes)
    return "path", {"class": f"s-{shape.ink}", "d": path, "stroke-width": "2"}


def _label(label: Label) -> tuple[str, dict[str, str]]:
    attributes = {"class": f"f-{label.ink}" + (" halo" if label.halo else "")} | _numbers({"x": label.x, "y": label.y})
    attributes |= {"text-anchor": label.anchor} if label.anchor != "start" else {}
    attributes |= {"font-size": _number(label.size)} if label.size != TEXT_SIZE else {}
    return "text", attributes | ({"font-weight": "600"} if label.bold else {})


def _opacity(opacity: float) -> dict[str, str]:
    return {"opacity": _number(opacity)} if opacity < 1 else {}


def _numbers(values: dict[str, float]) -> dict[str, str]:
    return {name: _number(value) for name, value in values.items()}


def _number(value: float) -> str:
    """Formats a number with at most two decimals, to keep files small."""
    text = f"{value:.1f}" if value >= 10 or value == int(value) else f"{value:.2f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
