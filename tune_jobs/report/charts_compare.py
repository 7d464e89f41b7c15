"""Charts of a comparison: each dialogue's gain or loss, and the learning curves over each other."""

from collections.abc import Sequence

from dialsum.config import COMPOSITE
from tune_jobs.analysis.comparison import COMBINED, Comparison, Side
from tune_jobs.config.language import tr
from tune_jobs.report.axes import Axis, draw_x_axis, draw_y_axis, linear_ticks, padded, spread_out
from tune_jobs.report.drawing import Anchor, Canvas, Dot, Drawing, Ink, Label, Polyline, Rectangle
from tune_jobs.report.formatting import NARROW, Chart, inner_plot, metric_name
from tune_jobs.report.symbols import dot_swatch, lay_legend

SIDE_INKS: tuple[Ink, ...] = ("stopped", "accent", "oom", "refused", "running", "failed")  # first: the reference
_MOST_BARS = 400


def find_comparison_charts(comparison: Comparison) -> list[Chart]:
    """Returns the charts of a comparison that have data."""
    charts = []
    if comparison.summaries:
        one, other = comparison.rival, comparison.sides[0]
        charts.append(
            Chart(
                key="dialogues",
                title=tr("Dialogue by dialogue: {one} against {other}", one=one.letter, other=other.letter),
                note=tr(
                    "Each bar is one dialogue, sorted by the difference in the combined score. Above the line {one} is"
                    " better, below it {other}.",
                    one=one.letter,
                    other=other.letter,
                ),
                draw=lambda width: draw_gains(comparison, width),
            )
        )
    if any(len(scores) > 1 for scores in _curves(comparison.sides)):
        charts.append(
            Chart(
                key="curves",
                title=tr("How they got there"),
                note=tr("The combined score after each evaluation, as it was reported."),
                draw=lambda width: draw_curves(comparison, width),
            )
        )
    return charts


def draw_gains(comparison: Comparison, width: float) -> Drawing:
    """Draws the difference of each dialogue, the largest gain first."""
    side_index = comparison.sides.index(comparison.rival)
    every = [one.scores[side_index][COMBINED] - one.scores[0][COMBINED] for one in comparison.summaries]
    gains = sorted(every, reverse=True)
    shown = _thinned(gains, _MOST_BARS)
    canvas = Canvas(width=width, height=300.0)
    plot = inner_plot(width, canvas.height, left=48.0, top=26.0, bottom=20.0)
    low, high = padded(min(min(gains), 0.0), max(max(gains), 0.0))
    axis = Axis(low=low, high=high, start=plot.bottom, end=plot.top)
    draw_y_axis(canvas, plot, axis.ticks())
    slot = plot.width / len(shown)
    zero = axis.at(0.0)
    for number, gain in enumerate(shown):
        top = min(axis.at(gain), zero)
        height = max(abs(axis.at(gain) - zero), 0.8)
        ink = SIDE_INKS[side_index] if gain > 0 else "stopped"
        x = plot.left + number * slot
        canvas.add(
            Rectangle(x=x, y=top, width=max(slot - min(1.0, slot / 4), 0.5), height=height, ink=ink, tip=f"{gain:+.2f}")
        )
    canvas.add(Polyline(points=((plot.left, zero), (plot.right, zero)), ink="muted"))
    better, worse = (sum(1 for gain in gains if sign * gain > 0) for sign in (1, -1))
    texts = (
        tr("{count} better", count=better),
        tr("{count} equal", count=len(gains) - better - worse),
        tr("{count} worse", count=worse),
    )
    for x, text, anchor in zip((plot.left, (plot.left + plot.right) / 2, plot.right), texts, _ANCHORS, strict=True):
        canvas.add(Label(x=x, y=10.0, text=text, anchor=anchor, ink="ink"))
    return canvas.finish(tr("Of {count} dialogues {texts}.", count=len(gains), texts=", ".join(texts)))


def draw_curves(comparison: Comparison, width: float) -> Drawing:
    """Draws the combined score of each side over its evaluations."""
    curves = _curves(comparison.sides)
    letters = [side.letter for side in comparison.sides]
    keys, top = lay_legend([(dot_swatch(ink), text) for ink, text in zip(SIDE_INKS, letters, strict=False)], width)
    canvas = Canvas(width=width, height=top + (276.0 if width >= NARROW else 256.0))
    canvas.extend(keys)
    plot = inner_plot(width, canvas.height, left=48.0, top=top + 4.0, right=22.0)
    every = [score for scores in curves for score in scores]
    low, high = padded(min(every), max(every))
    axis = Axis(low=low, high=high, start=plot.bottom, end=plot.top)
    longest = max(len(scores) for scores in curves)
    across = Axis(low=1.0, high=max(longest, 2.0), start=plot.left + 6, end=plot.right - 8)
    draw_y_axis(canvas, plot, axis.ticks())
    ticks = sorted({round(tick) for tick in linear_ticks(1.0, float(longest), 8) if tick >= 1} | {1, longest})
    draw_x_axis(canvas, plot, [(across.at(tick), str(tick)) for tick in ticks], tr("evaluations"), grid=False)
    for side, ink, scores in zip(comparison.sides, SIDE_INKS, curves, strict=False):
        points = tuple((across.at(number), axis.at(score)) for number, score in enumerate(scores, start=1))
        if len(points) > 1:
            canvas.add(Polyline(points=points, ink=ink, width=2.5, tip=f"{side.letter}: {side.name}"))
        if points:
            tip = tr("{side}: {score:.2f} at best", side=side.letter, score=max(scores))
            canvas.add(Dot(x=points[-1][0], y=points[-1][1], radius=4.5, ink=ink, tip=tip))
    drawn = [(side.letter, scores) for side, scores in zip(comparison.sides, curves, strict=True) if scores]
    label_ys = spread_out([axis.at(scores[-1]) for _, scores in drawn], 14.0)
    for (letter, scores), y in zip(drawn, label_ys, strict=True):
        canvas.add(Label(x=across.at(len(scores)) + 9, y=y, text=letter, ink="ink", bold=True, halo=True))
    return canvas.finish(
        tr(
            "{metric} over the evaluations of {count} experiments.",
            metric=metric_name(COMPOSITE),
            count=len(comparison.sides),
        )
    )


_ANCHORS: tuple[Anchor, ...] = ("start", "middle", "end")


def _curves(sides: Sequence[Side]) -> list[list[float]]:
    return [[row[COMPOSITE] for row in side.numbers.history if COMPOSITE in row] for side in sides]


def _thinned(values: Sequence[float], most: int) -> list[float]:
    if len(values) <= most:
        return list(values)
    return [values[int(i * (len(values) - 1) / (most - 1))] for i in range(most)]
