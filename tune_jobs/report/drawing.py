"""Charts as plain shapes, which two renderers draw: svg.py for the page and picture.py (matplotlib) for the PNG.

A shape has a meaning (`finished`, `grid`), not a colour; each renderer maps it to colours for paper, light or dark
screens.
"""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Anchor = Literal["start", "middle", "end"]
# `ramp0` to `ramp8` are the colours from poor to good; `on_ramp0` to `on_ramp8` are the text colours on them.
Ink: TypeAlias = str
INKS: tuple[Ink, ...] = (
    *("ink", "muted", "grid", "surface", "band", "accent"),
    *("finished", "stopped", "failed", "oom", "refused", "running"),
    *(f"ramp{i}" for i in range(9)),
    *(f"on_ramp{i}" for i in range(9)),
)
TEXT_SIZE = 12.0


@dataclass(frozen=True, kw_only=True)
class DrawnShape:
    """Base class of all shapes.

    Attributes:
        tip: Tooltip text.
        trial: The trial that the shape represents; the page highlights all shapes of a trial together.
    """

    tip: str = ""
    trial: str = ""


@dataclass(frozen=True, kw_only=True)
class Polyline(DrawnShape):
    """A line through points, in drawing units from the top left."""

    points: tuple[tuple[float, float], ...]
    ink: Ink
    width: float = 1.0
    dashed: bool = False
    opacity: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Rectangle(DrawnShape):
    """A rectangle from its top left corner."""

    x: float
    y: float
    width: float
    height: float
    ink: Ink
    outline: Ink = ""
    radius: float = 0.0
    opacity: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Dot(DrawnShape):
    """A circle; a hollow one is drawn as a ring."""

    x: float
    y: float
    radius: float
    ink: Ink
    hollow: bool = False
    opacity: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Cross(DrawnShape):
    """A small x; an upright one is a plus."""

    x: float
    y: float
    radius: float
    ink: Ink
    upright: bool = False

    @property
    def strokes(self) -> tuple[tuple[tuple[float, float], tuple[float, float]], ...]:
        """Its two strokes as (start, end)."""
        x, y, r = self.x, self.y, self.radius
        if self.upright:
            return ((x - r, y), (x + r, y)), ((x, y - r), (x, y + r))
        return ((x - r, y - r), (x + r, y + r)), ((x - r, y + r), (x + r, y - r))


@dataclass(frozen=True, kw_only=True)
class Label(DrawnShape):
    """One row of text; `y` is its middle. A halo keeps it readable on top of lines."""

    x: float
    y: float
    text: str
    ink: Ink = "muted"
    size: float = TEXT_SIZE
    anchor: Anchor = "start"
    bold: bool = False
    halo: bool = False


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A finished chart.

    Attributes:
        width: In drawing units, which are pixels on a laptop.
        height: In drawing units.
        shapes: The shapes, back to front.
        description: One sentence for screen readers.
    """

    width: float
    height: float
    shapes: tuple[DrawnShape, ...]
    description: str


@dataclass
class Canvas:
    """Collects shapes for a drawing."""

    width: float
    height: float
    shapes: list[DrawnShape] = field(default_factory=list)

    def add(self, *shapes: DrawnShape) -> None:
        """Adds shapes on top."""
        self.shapes.extend(shapes)

    def extend(self, shapes: Iterable[DrawnShape]) -> None:
        """Adds many shapes on top."""
        self.shapes.extend(shapes)

    def finish(self, description: str) -> Drawing:
        """Returns the drawing."""
        return Drawing(width=self.width, height=self.height, shapes=tuple(self.shapes), description=description)


def text_width(text: str, size: float = TEXT_SIZE) -> float:
    """Estimates the width of a text in a common sans-serif font; a Hangul syllable is as wide as its font size.

    >>> text_width("lr") < text_width("WW") < text_width("요약")
    True
    """
    return size * sum(_em(character) for character in text)


def shorten(text: str, width: float, size: float = TEXT_SIZE) -> str:
    """Shortens a text in its middle until it fits, because trial names differ at both ends.

    >>> shorten("wide_kobart_lr3e-05_bs16_0921_1403", 120)
    'wide_kob…921_1403'
    """
    if text_width(text, size) <= width:
        return text
    keep = len(text) - 1
    while keep > 1 and text_width(_cut(text, keep), size) > width:
        keep -= 1
    return _cut(text, keep)


def ramp(fraction: float) -> int:
    """Returns the step of the colour ramp for a fraction from 0 (poor) to 1 (good).

    >>> ramp(0.0), ramp(0.5), ramp(1.0)
    (0, 4, 8)
    """
    return min(8, max(0, int(fraction * 9)))


def _em(character: str) -> float:
    if unicodedata.east_asian_width(character) in "WF":
        return 1.0
    if character in "iljt.,:;|' ()[]·":
        return 0.32
    if character in "mwMW@%—…":
        return 0.88
    return 0.68 if character.isupper() else 0.56


def _cut(text: str, keep: int) -> str:
    head = (keep + 1) // 2
    return text[:head] + "…" + text[len(text) - (keep - head) :]
