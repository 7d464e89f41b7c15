"""Charts as plain shapes, so that one chart can be drawn by two pens: SVG for the page and matplotlib for the picture.

Shapes name what they mean (`finished`, `grid`), not a colour: the pens choose colours that suit paper, a light screen
or a dark one.
"""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Anchor = Literal["start", "middle", "end"]
# `ramp0` to `ramp8` run from poor to good; `on_ramp0` to `on_ramp8` are readable text upon them.
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
    """What all shapes share.

    Attributes:
        tip: Shown when a person points at the shape.
        trial: The trial that it stands for; shapes of one trial light up together.
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
        """Its two lines as (start, end)."""
        x, y, r = self.x, self.y, self.radius
        if self.upright:
            return ((x - r, y), (x + r, y)), ((x, y - r), (x, y + r))
        return ((x - r, y - r), (x + r, y + r)), ((x - r, y + r), (x + r, y - r))


@dataclass(frozen=True, kw_only=True)
class Label(DrawnShape):
    """One line of text; `y` is its middle. A halo keeps it readable upon lines."""

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
        width: In units that are pixels on a laptop.
        height: In the same units.
        shapes: Back to front.
        description: One sentence for people who do not see it.
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
        """Puts shapes on top."""
        self.shapes.extend(shapes)

    def extend(self, shapes: Iterable[DrawnShape]) -> None:
        """Puts many shapes on top."""
        self.shapes.extend(shapes)

    def finish(self, description: str) -> Drawing:
        """Returns the drawing."""
        return Drawing(width=self.width, height=self.height, shapes=tuple(self.shapes), description=description)


def text_width(text: str, size: float = TEXT_SIZE) -> float:
    """Estimates how wide a text is in a common sans-serif font; Hangul takes a full square.

    >>> text_width("lr") < text_width("WW") < text_width("요약")
    True
    """
    return size * sum(_em(character) for character in text)


def shorten(text: str, width: float, size: float = TEXT_SIZE) -> str:
    """Cuts a text in its middle until it fits; names of trials differ at both ends.

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
    """Returns the step of the colour ramp for a fraction, 0 poor to 1 good.

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
