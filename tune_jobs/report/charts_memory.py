"""The chart of memory: estimates, enforced upper bounds and measured peaks."""

from collections.abc import Sequence
from dataclasses import dataclass

from tune_jobs.config.language import tr
from tune_jobs.config.parameters import to_number
from tune_jobs.records.ledger import TrialRecord
from tune_jobs.report.axes import Axis, draw_x_axis, draw_y_axis
from tune_jobs.report.drawing import Canvas, Cross, Dot, Drawing, Label, Polyline, Rectangle, shorten, text_width
from tune_jobs.report.formatting import NARROW, inner_plot, plain_value, trials_text
from tuning_common.units import format_bytes

MOST_KINDS = 12  # more different estimates are drawn as a cloud of points instead of bars
_GIB = 2.0**30


@dataclass(frozen=True, kw_only=True)
class MemoryPoint:
    """A trial's memory on its device, in bytes; `measured` is None on simulated cards and on the CPU."""

    trial: TrialRecord
    estimate: float
    upper: float
    measured: float | None


def memory_points(trials: Sequence[TrialRecord]) -> list[MemoryPoint]:
    """Returns the trials that have an estimate, with their measured peak if there is one.

    Device bytes are compared with device bytes. If only torch's reserved bytes were measured, they are compared with
    the predicted reserved bytes.
    """
    points = []
    for trial in trials:
        estimate, measured = trial.estimate or {}, trial.measured or {}
        device, upper = to_number(estimate.get("device_bytes")), to_number(estimate.get("upper_bytes"))
        if device is None or upper is None:
            continue
        peak = to_number(measured.get("device_bytes"))
        reserved = [to_number(estimate.get(f"{phase}_reserved_bytes")) for phase in ("train", "generate")]
        known = [size for size in reserved if size is not None]
        if peak is None and measured.get("reserved_bytes") and known:
            upper, device = upper * max(known) / device, max(known)
            peak = to_number(measured.get("reserved_bytes"))
        points.append(MemoryPoint(trial=trial, estimate=device, upper=upper, measured=peak or None))
    return points


@dataclass(frozen=True, kw_only=True)
class MemoryKind:
    """Trials with the same estimate, and a text that describes them."""

    text: str
    points: tuple[MemoryPoint, ...]


def find_kinds(points: Sequence[MemoryPoint]) -> list[MemoryKind]:
    """Groups trials by estimate, the largest first."""
    found: dict[tuple[str, int], list[MemoryPoint]] = {}
    for point in points:
        model = point.trial.resolved.get("model", point.trial.sampled.get("model", ""))
        micro = (point.trial.plan or {}).get("micro_batch")
        text = " ".join(
            part for part in (plain_value(model), tr("micro-batch {micro}", micro=micro) if micro else "") if part
        )
        found.setdefault((text or point.trial.name, round(point.upper)), []).append(point)
    kinds = [MemoryKind(text=text, points=tuple(same)) for (text, _), same in found.items()]
    return sorted(kinds, key=lambda kind: -kind.points[0].upper)


def memory_ratios(points: Sequence[MemoryPoint]) -> list[float]:
    """Returns measured ÷ estimate of every measured trial, in ascending sequence."""
    return sorted(point.measured / point.estimate for point in points if point.measured is not None)


def draw_memory(points: Sequence[MemoryPoint], width: float) -> Drawing:
    """Draws estimates with their margin, and measured peaks on them; a cross is a trial above its upper bound."""
    kinds = find_kinds(points)
    measured = any(point.measured is not None for point in points)
    return _draw_cloud(points, width) if measured and len(kinds) > MOST_KINDS else _draw_bars(kinds[:MOST_KINDS], width)


def _draw_bars(kinds: Sequence[MemoryKind], width: float) -> Drawing:
    names = [f"{kind.text} ×{len(kind.points)}" if len(kind.points) > 1 else kind.text for kind in kinds]
    above = width < NARROW  # on a phone, labels are above their bars to leave space for the bars
    left = 8.0 if above else min(max(text_width(name) for name in names) + 16.0, width * 0.46)
    row = 44.0 if above else 34.0
    canvas = Canvas(width=width, height=62.0 + row * max(len(kinds), 1 if above else 3))
    plot = inner_plot(width, canvas.height, left=left, top=4.0 if above else 10.0)
    most = max(max(point.upper, point.measured or 0.0) for kind in kinds for point in kind.points)
    axis = Axis(low=0.0, high=most / _GIB, start=plot.left, end=plot.right)
    draw_x_axis(canvas, plot, axis.ticks(3 if width < NARROW else 5), tr("GiB on the device"))
    for i, (name, kind) in enumerate(zip(names, kinds, strict=True)):
        y = plot.top + (i + (0.7 if above else 0.5)) * plot.height / len(kinds)
        label = (
            Label(x=plot.left, y=y - 19, text=shorten(name, plot.width), ink="ink", halo=True)
            if above
            else Label(x=plot.left - 8, y=y, text=shorten(name, left - 12), anchor="end", ink="ink")
        )
        point = kind.points[0]
        tip = _estimate_text(point)
        x, reach = axis.at(point.estimate / _GIB), axis.at(point.upper / _GIB)
        canvas.add(
            label,
            Rectangle(x=plot.left, y=y - 8, width=x - plot.left, height=16, ink="finished", opacity=0.75, tip=tip),
            Rectangle(x=x, y=y - 8, width=reach - x, height=16, ink="finished", opacity=0.35, tip=tip),
        )
        canvas.extend(
            _measured_symbol(one, axis.at((one.measured or 0.0) / _GIB), y) for one in kind.points if one.measured
        )
    return canvas.finish(tr("Memory of {count} different kinds of trials, estimated and measured.", count=len(kinds)))


def _draw_cloud(points: Sequence[MemoryPoint], width: float) -> Drawing:
    canvas = Canvas(width=width, height=300.0)
    plot = inner_plot(width, canvas.height, left=48.0, top=22.0)
    known = [point for point in points if point.measured is not None]
    high = max(max(point.upper, point.measured or 0.0) for point in known) / _GIB * 1.05
    across = Axis(low=0.0, high=high, start=plot.left, end=plot.right)
    up = Axis(low=0.0, high=high, start=plot.bottom, end=plot.top)
    draw_y_axis(canvas, plot, up.ticks())
    draw_x_axis(canvas, plot, across.ticks(), tr("estimate, GiB"))
    canvas.add(Polyline(points=((across.at(0), up.at(0)), (across.at(high), up.at(high))), ink="muted", dashed=True))
    canvas.add(Label(x=2.0, y=8.0, text=tr("measured, GiB"), ink="ink"))
    canvas.extend(
        _measured_symbol(point, across.at(point.estimate / _GIB), up.at((point.measured or 0.0) / _GIB))
        for point in known
    )
    return canvas.finish(tr("Measured against estimated memory of {trials}.", trials=trials_text(len(known))))


def _estimate_text(point: MemoryPoint) -> str:
    return tr(
        "estimate {estimate}, at most {upper}", estimate=format_bytes(point.estimate), upper=format_bytes(point.upper)
    )


def _measured_symbol(point: MemoryPoint, x: float, y: float) -> Dot | Cross:
    assert point.measured is not None
    measured = tr("measured {memory}", memory=format_bytes(point.measured))
    tip = f"{point.trial.name}\n{measured}\n{_estimate_text(point)}"
    if point.measured > point.upper:
        return Cross(x=x, y=y, radius=4.5, ink="failed", tip=tip, trial=point.trial.trial_id)
    return Dot(x=x, y=y, radius=4.0, ink="accent", tip=tip, trial=point.trial.trial_id)
