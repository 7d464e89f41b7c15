"""Charts of the machines: memory as predicted and as measured, what ran where and when, what it cost."""

from collections.abc import Sequence
from dataclasses import dataclass

from common.units import format_bytes, format_duration
from tune_jobs.analysis import Analysis
from tune_jobs.parameters import to_number
from tune_jobs.records import OUTCOMES, TrialOutcome, TrialRecord
from tune_jobs.report.axes import Axis, Plot, draw_x_axis, draw_y_axis, duration_ticks, linear_ticks, number_text
from tune_jobs.report.drawing import Box, Canvas, Cross, Dot, Drawing, Label, Polyline, shorten, text_width
from tune_jobs.report.look import NARROW, OUTCOME_TEXT, inner_plot, trial_tip, trials_text

_GIB = 2.0**30
_ROW = 46.0  # height of one card in the timeline


@dataclass(frozen=True, kw_only=True)
class MemoryPoint:
    """A trial's memory on its device, in bytes; `measured` is None on logical cards and on the CPU."""

    trial: TrialRecord
    estimate: float
    upper: float
    measured: float | None


def memory_points(trials: Sequence[TrialRecord]) -> list[MemoryPoint]:
    """Returns trials with an estimate, and what they really took where that was measured.

    Device bytes are compared with device bytes; where only torch's reserved bytes are known, with the predicted ones.
    """
    points = []
    for trial in trials:
        estimate, measured = trial.estimate or {}, trial.measured or {}
        device, upper = to_number(estimate.get("device_bytes")), to_number(estimate.get("upper_bytes"))
        if device is None or upper is None:
            continue
        seen = to_number(measured.get("device_bytes"))
        reserved = [to_number(estimate.get(f"{phase}_reserved_bytes")) for phase in ("train", "generate")]
        known = [size for size in reserved if size is not None]
        if seen is None and measured.get("reserved_bytes") and known:
            upper, device = upper * max(known) / device, max(known)
            seen = to_number(measured.get("reserved_bytes"))
        points.append(MemoryPoint(trial=trial, estimate=device, upper=upper, measured=seen or None))
    return points


def draw_memory(analysis: Analysis, points: Sequence[MemoryPoint], width: float) -> Drawing:
    """Draws measured peaks against estimates: on the line is exact, above the bar is a trial that outgrew its share."""
    canvas = Canvas(width=width, height=300.0)
    plot = inner_plot(width, canvas.height, left=48.0)
    known = [(point, point.measured) for point in points if point.measured is not None]
    sizes = [size / _GIB for point, seen in known for size in (point.estimate, point.upper, seen)]
    low, high = 0.0, max(sizes) * 1.08
    if min(sizes) > 0.5 * max(sizes):
        low = min(sizes) * 0.9
    across = Axis(low=low, high=high, start=plot.left, end=plot.right)
    up = Axis(low=low, high=high, start=plot.bottom, end=plot.top)
    ticks = linear_ticks(low, high)
    draw_y_axis(canvas, plot, up, [(up.at(tick), number_text(tick)) for tick in ticks])
    draw_x_axis(canvas, plot, [(across.at(tick), number_text(tick)) for tick in ticks], "estimate, GiB")
    canvas.add(
        Polyline(points=((across.at(low), up.at(low)), (across.at(high), up.at(high))), ink="muted", dashed=True)
    )
    canvas.add(Label(x=plot.left + 6, y=plot.top + 4, text="measured, GiB", ink="ink"))
    for point, seen in known:
        x = across.at(point.estimate / _GIB)
        over = seen > point.upper
        tip = (
            f"{point.trial.name}\nmeasured {format_bytes(seen)}\nestimate {format_bytes(point.estimate)}"
            f", at most {format_bytes(point.upper)}"
        )
        canvas.add(
            Polyline(points=((x, up.at(point.estimate / _GIB)), (x, up.at(point.upper / _GIB))), ink="grid", width=3.0),
            Polyline(points=((x - 4, up.at(point.upper / _GIB)), (x + 4, up.at(point.upper / _GIB))), ink="muted"),
        )
        ink = "failed" if over else "accent"
        y = up.at(seen / _GIB)
        shape = Cross if over else Dot
        canvas.add(shape(x=x, y=y, radius=4.0, ink=ink, tip=tip, trial=point.trial.trial_id))
    return canvas.finish(f"Measured against estimated memory of {trials_text(len(known))}.")


def draw_estimates(points: Sequence[MemoryPoint], width: float) -> Drawing:
    """Draws the different estimates as bars, for sweeps in which no device memory was measured."""
    rows = different_estimates(points)[:12]
    names = [f"{text}  ({count})" if count > 1 else text for text, _, count in rows]
    left = min(max(text_width(name) for name in names) + 16.0, width * 0.5)
    canvas = Canvas(width=width, height=62.0 + 26.0 * max(len(rows), 2))
    plot = inner_plot(width, canvas.height, left=left)
    axis = Axis(low=0.0, high=max(point.upper for _, point, _ in rows) / _GIB, start=plot.left, end=plot.right)
    ticks = linear_ticks(0.0, axis.high, 3 if width < NARROW else 5)
    draw_x_axis(canvas, plot, [(axis.at(tick), number_text(tick)) for tick in ticks], "GiB of device memory")
    for i, (name, (_, point, _)) in enumerate(zip(names, rows, strict=True)):
        y = plot.top + (i + 0.5) * plot.height / len(rows)
        tip = f"estimate {format_bytes(point.estimate)}, at most {format_bytes(point.upper)}"
        x, reach = axis.at(point.estimate / _GIB), axis.at(point.upper / _GIB)
        canvas.add(
            Label(x=plot.left - 8, y=y, text=shorten(name, left - 12), anchor="end", ink="ink"),
            Box(x=plot.left, y=y - 7, width=x - plot.left, height=14, ink="accent", radius=2.0, tip=tip),
            Box(x=x, y=y - 7, width=reach - x, height=14, ink="accent", opacity=0.35, tip=tip),
        )
    return canvas.finish(f"Predicted memory of {len(rows)} different kinds of trials.")


def different_estimates(points: Sequence[MemoryPoint]) -> list[tuple[str, MemoryPoint, int]]:
    """Returns each different estimate with words for it and how many trials have it, the largest first."""
    found: dict[tuple[str, int], list[MemoryPoint]] = {}
    for point in points:
        model = point.trial.resolved.get("model", point.trial.sampled.get("model", ""))
        micro = (point.trial.plan or {}).get("micro_batch")
        text = " ".join(part for part in (str(model), f"micro-batch {micro}" if micro else "") if part)
        found.setdefault((text or point.trial.name, round(point.upper)), []).append(point)
    rows = [(text, same[0], len(same)) for (text, _), same in found.items()]
    return sorted(rows, key=lambda row: -row[1].upper)


@dataclass(frozen=True, kw_only=True)
class Lane:
    """One card, or one machine without cards, in the timeline.

    Attributes:
        name: For people.
        bars: (trial, offset, height) with offset and height as parts of the lane.
        busy: Mean part of the lane that was taken, from the sweep's start to its end.
        shares: Whether heights are shares of a card, rather than places side by side.
    """

    name: str
    bars: tuple[tuple[TrialRecord, float, float], ...]
    busy: float
    shares: bool


def find_lanes(analysis: Analysis) -> list[Lane]:
    """Packs trials into the cards on which they ran, as they lay side by side."""
    ran = [t for t in analysis.ledger.trials if t.started_at is not None and t.ended_at is not None]
    homes: dict[tuple[str, str], list[TrialRecord]] = {}
    models: dict[tuple[str, str], str] = {}
    for card in analysis.sweep.cards:
        home = (str(card.get("node", "")), str(card.get("card", "")))
        homes[home] = []
        models[home] = str(card.get("gpu_model", ""))
    for trial in ran:
        homes.setdefault((trial.node or "", trial.card or ""), []).append(trial)
    span_s = analysis.cost.span_s
    lanes = []
    for (node, number), trials in sorted(homes.items()):
        model = models.get((node, number)) or next((t.gpu_model for t in trials if t.gpu_model), None) or ""
        place = f"{node} · card {number}" if number else f"{node or 'this machine'} · CPU"
        shares = bool(number) and all(0 < trial.share <= 1 for trial in trials)
        bars = _pack(trials, by_share=shares)
        taken = sum(((t.ended_at or 0.0) - (t.started_at or 0.0)) * height for t, _, height in bars)
        name = f"{place} · {model}" if model else place
        lanes.append(Lane(name=name, bars=bars, busy=taken / span_s if span_s > 0 else 0.0, shares=shares))
    return lanes


def draw_timeline(analysis: Analysis, width: float) -> Drawing:
    """Draws which trial held which part of which card, and when."""
    lanes = find_lanes(analysis)
    canvas = Canvas(width=width, height=len(lanes) * (_ROW + 26.0) + 50.0)
    plot = Plot(left=2.0, top=0.0, right=width - 6.0, bottom=canvas.height - 46.0)
    begin = min(trial.started_at or 0.0 for lane in lanes for trial, _, _ in lane.bars)
    span_s = max(analysis.cost.span_s, 1e-9)
    axis = Axis(low=0.0, high=span_s, start=plot.left, end=plot.right)
    ticks = duration_ticks(span_s, 3 if width < NARROW else 8)
    draw_x_axis(canvas, plot, [(axis.at(at_s), text) for at_s, text in ticks], "since the start", grid=False)
    for i, lane in enumerate(lanes):
        top = i * (_ROW + 26.0) + 22.0
        busy = f"{lane.busy:.0%} taken"
        name = shorten(lane.name, plot.width - text_width(busy) - 16)
        canvas.add(
            Label(x=plot.left, y=top - 11, text=name, ink="ink"),
            Label(x=plot.right, y=top - 11, text=busy, anchor="end"),
            Box(x=plot.left, y=top, width=plot.width, height=_ROW, ink="band", radius=2.0),
        )
        for trial, offset, height in lane.bars:
            x1, x2 = (axis.at((moment or begin) - begin) for moment in (trial.started_at, trial.ended_at))
            canvas.add(_bar(analysis, trial, x1, x2, top + offset * _ROW, height * _ROW))
    told = ", logical cards" if analysis.sweep.simulated else ""
    return canvas.finish(f"What ran where, over {format_duration(analysis.cost.span_s)}{told}.")


def _bar(analysis: Analysis, trial: TrialRecord, x1: float, x2: float, y: float, height: float) -> Box:
    won = analysis.winner is not None and trial.trial_id == analysis.winner.trial.trial_id
    share = f"\nshare {trial.share:g}" if trial.share else ""
    return Box(
        x=x1,
        y=y,
        width=max(x2 - x1 - 0.6, 0.8),
        height=height,
        ink="accent" if won else trial.status,
        outline="surface",
        radius=1.5,
        hatched=trial.simulated,
        tip=trial_tip(analysis, trial) + share + ("\nsimulated card" if trial.simulated else ""),
        trial=trial.trial_id,
    )


def _pack(trials: Sequence[TrialRecord], *, by_share: bool) -> tuple[tuple[TrialRecord, float, float], ...]:
    """Gives each trial the lowest free part of its lane, in the order of the starts."""
    ordered = sorted(trials, key=lambda trial: trial.started_at or 0.0)
    most = max((sum(1 for u in ordered if _overlap(t, u)) for t in ordered), default=1)
    placed: list[tuple[TrialRecord, float, float]] = []
    for trial in ordered:
        height = trial.share if by_share else 1.0 / most
        taken = sorted((offset, offset + size) for other, offset, size in placed if _overlap(trial, other))
        free = 0.0
        for low, high in taken:
            if free + height <= low + 1e-3:
                break
            free = max(free, high)
        placed.append((trial, min(free, max(1.0 - height, 0.0)), height))
    return tuple(placed)


def _overlap(one: TrialRecord, other: TrialRecord) -> bool:
    """Whether two trials ran at one time; half a second of clock difference is none."""
    latest = max(one.started_at or 0.0, other.started_at or 0.0)
    return min(one.ended_at or 0.0, other.ended_at or 0.0) - latest > 0.5


def draw_cost(analysis: Analysis, width: float) -> Drawing:
    """Draws what trials used, by how they ended."""
    cost = analysis.cost
    used = cost.gpu_s if cost.on_gpus else cost.trial_s
    rows: list[tuple[TrialOutcome, float]] = [(outcome, used[outcome]) for outcome in OUTCOMES if used.get(outcome)]
    total = sum(seconds for _, seconds in rows)
    canvas = Canvas(width=width, height=30.0 + 34.0 * max(len(rows), 1))
    left = 104.0
    axis = Axis(low=0.0, high=max(seconds for _, seconds in rows), start=left, end=width - 120.0)
    for i, (outcome, seconds) in enumerate(rows):
        y = 20.0 + 34.0 * i
        text = f"{format_duration(seconds)}  {seconds / total:.0%}"
        tip = f"{trials_text(analysis.count(outcome))} {OUTCOME_TEXT[outcome]}: {text}"
        canvas.add(
            Label(x=left - 8, y=y, text=OUTCOME_TEXT[outcome], anchor="end", ink="ink"),
            Box(x=left, y=y - 9, width=max(axis.at(seconds) - left, 1.0), height=18, ink=outcome, radius=2.0, tip=tip),
            Label(x=axis.at(seconds) + 8, y=y, text=text),
        )
    kind = "GPU time" if cost.on_gpus else "time"
    return canvas.finish(f"{kind} by outcome: " + ", ".join(f"{o} {format_duration(s)}" for o, s in rows) + ".")
