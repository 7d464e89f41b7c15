"""Axes of charts: map values to positions and draw tick labels. Pure."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from tune_jobs.config.language import in_units
from tune_jobs.config.parameters import Parameter, show_value
from tune_jobs.report.drawing import Anchor, Canvas, Label, Polyline, shorten, text_width
from tuning_common.units import format_duration


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One direction of a chart.

    Attributes:
        low: Value at `start`.
        high: Value at `end`.
        start: Position in drawing units.
        end: Position in drawing units; smaller than `start` for an axis that rises.
        log: Whether equal distances are equal factors.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """Returns the position of a value.

        >>> Axis(low=1.0, high=100.0, start=0.0, end=50.0, log=True).at(10.0)
        25.0
        """
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        part = (value - low) / (high - low) if high > low else 0.5
        return self.start + part * (self.end - self.start)

    def ticks(self, count: int = 5, *, whole: bool = False) -> list[tuple[float, str]]:
        """Returns about `count` round numbers as (position, text), whole numbers only where that is asked for.

        >>> Axis(low=0, high=2, start=0, end=100).ticks(whole=True)
        [(0.0, '0'), (50.0, '1'), (100.0, '2')]
        """
        values = linear_ticks(self.low, self.high, count)
        return [(self.at(value), number_text(value)) for value in values if not whole or value == int(value)]


@dataclass(frozen=True, kw_only=True)
class Plot:
    """The inner rectangle of a chart."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        """Its extent in drawing units."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """Its extent in drawing units."""
        return self.bottom - self.top


def linear_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Returns about `count` round numbers inside a range.

    >>> linear_ticks(17.2, 30.1)
    [20.0, 25.0, 30.0]
    """
    if high <= low:
        return [low]
    rough = (high - low) / max(count, 1)
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= rough * 0.8)
    digits = max(0, 2 - math.floor(math.log10(step)))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, digits) for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Returns powers of ten inside a range, with 2 and 5 between them where the range is short.

    >>> log_ticks(1e-5, 1e-3), log_ticks(8e-6, 6e-5)
    ([1e-05, 0.0001, 0.001], [1e-05, 2e-05, 5e-05])
    """
    if high <= low:
        return [low]
    factors = (1, 2, 5) if high / low < 50 else (1,)
    exponents = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
    ticks = [float(f"{factor}e{exponent}") for exponent in exponents for factor in factors]
    inside = [tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
    return inside if len(inside) >= 2 else [low, high]


def padded(low: float, high: float, part: float = 0.06) -> tuple[float, float]:
    """Widens a range so that no symbol touches the frame; a single value gets space on both sides.

    >>> padded(10.0, 20.0, 0.1), padded(3.0, 3.0)
    ((9.0, 21.0), (2.7, 3.3))
    """
    room = (high - low) * part if high > low else abs(low) * 0.1 or 1.0
    return low - room, high + room


def parameter_axis(parameter: Parameter, start: float, end: float) -> tuple[Axis, list[tuple[float, str]]]:
    """Returns the axis of a parameter's positions (0 to 1) and its ticks as (position, text)."""
    inset = (end - start) * (0.5 / max(len(parameter.values), 2) if parameter.scale == "category" else 0.03)
    axis = Axis(low=0.0, high=1.0, start=start + inset, end=end - inset)
    if parameter.scale == "category":
        values = list(parameter.values)
    else:
        ticks = log_ticks if parameter.scale == "log" else linear_ticks
        values = list(ticks(parameter.low, parameter.high))
    return axis, [(axis.at(parameter.position(value)), show_value(value)) for value in values]


def number_text(value: float) -> str:
    """Writes a tick of a linear axis.

    >>> number_text(20.0), number_text(0.25), number_text(12000.0)
    ('20', '0.25', '12,000')
    """
    return f"{value:,.0f}" if value == int(value) else f"{value:.6g}"


def duration_ticks(longest_s: float, count: int) -> list[tuple[float, str]]:
    """Returns round durations from zero and their texts.

    >>> duration_ticks(5400.0, 3)
    [(0.0, '0'), (1800.0, '30 min'), (3600.0, '1 h'), (5400.0, '1 h 30 min')]
    """
    steps = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400]
    step = next(
        (step for step in steps if step * count >= longest_s * 0.999), 86400 * math.ceil(longest_s / 86400 / count)
    )
    found = []
    for i in range(int(longest_s / step + 1e-9) + 1):
        text = in_units(format_duration(i * step).replace(" 00 min", "").replace(" 00 s", "").replace(" 0 h", ""))
        found.append((float(i * step), "0" if i == 0 else text.replace(".0 s", " s")))
    return found


def spread_out(positions: Sequence[float], least: float) -> list[float]:
    """Moves positions apart until labels do not overlap. The first one stays; the others move down.

    >>> spread_out([20.0, 18.0, 60.0], 13.0)
    [31.0, 18.0, 60.0]
    """
    moved = list(positions)
    ranked = sorted(range(len(positions)), key=lambda i: positions[i])
    for above, below in itertools.pairwise(ranked):
        moved[below] = max(moved[below], moved[above] + least)
    return moved


def draw_y_axis(canvas: Canvas, plot: Plot, ticks: list[tuple[float, str]]) -> None:
    """Draws grid lines with their numbers to the left of the plot; ticks are (position, text)."""
    for position, text in ticks:
        canvas.add(Polyline(points=((plot.left, position), (plot.right, position)), ink="grid"))
        canvas.add(Label(x=plot.left - 8, y=position, text=text, anchor="end"))


def draw_x_axis(
    canvas: Canvas,
    plot: Plot,
    ticks: list[tuple[float, str]],
    title: str,
    *,
    grid: bool = True,
    categories: bool = False,
) -> None:
    """Draws the ticks below the plot and the title below them. Ticks that would overlap are left out.

    Names of categories are shortened instead, because a reader cannot guess one that is left out.
    """
    free_from = -math.inf
    for position, text in sorted(ticks):
        if grid:
            canvas.add(Polyline(points=((position, plot.top), (position, plot.bottom)), ink="grid"))
        room = plot.width / max(len(ticks), 1)
        shown = shorten(text, max(room - 8.0, 26.0) if categories else max(room * 1.4, 40.0))
        half = text_width(shown) / 2
        anchor, left = _fit(position, half, canvas.width)
        if left < free_from:
            continue
        canvas.add(Label(x=position, y=plot.bottom + 14, text=shown, anchor=anchor))
        free_from = left + 2 * half + 6
    if title:
        canvas.add(Label(x=(plot.left + plot.right) / 2, y=plot.bottom + 33, text=title, anchor="middle", ink="ink"))


def _fit(position: float, half: float, width: float) -> tuple[Anchor, float]:
    """Keeps a label inside the drawing; returns its anchor and its left end."""
    if position - half < 2:
        return "start", position
    if position + half > width - 2:
        return "end", position - 2 * half
    return "middle", position - half
