"""Charts of the machines: what ran where and when, and what it cost."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from common.units import format_duration
from tune_jobs.analysis.sweep_analysis import Analysis
from tune_jobs.records.ledger import OUTCOMES, TrialOutcome, TrialRecord
from tune_jobs.report.axes import Axis, Plot, draw_x_axis, duration_ticks
from tune_jobs.report.drawing import Box, Canvas, Drawing, Label, shorten, text_width
from tune_jobs.report.look import NARROW, OUTCOME_TEXT, legend, trial_tip, trials_text

_ROW = 46.0  # height of one card in the timeline
_MOST_TIPS = 1500  # bars beyond this are too thin to point at


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
    keys, top_of_lanes = legend(analysis, width)
    canvas = Canvas(width=width, height=top_of_lanes + len(lanes) * (_ROW + 26.0) + 50.0)
    canvas.extend(keys)
    with_tips = sum(len(lane.bars) for lane in lanes) <= _MOST_TIPS
    plot = Plot(left=2.0, top=0.0, right=width - 6.0, bottom=canvas.height - 46.0)
    begin = min(trial.started_at or 0.0 for lane in lanes for trial, _, _ in lane.bars)
    span_s = max(analysis.cost.span_s, 1e-9)
    axis = Axis(low=0.0, high=span_s, start=plot.left, end=plot.right)
    ticks = duration_ticks(span_s, 4 if width < NARROW else 8)
    draw_x_axis(canvas, plot, [(axis.at(at_s), text) for at_s, text in ticks], "since the start", grid=False)
    for i, lane in enumerate(lanes):
        top = top_of_lanes + i * (_ROW + 26.0) + 22.0
        busy = f"{lane.busy:.0%} taken"
        name = shorten(lane.name, plot.width - text_width(busy) - 16)
        canvas.add(
            Label(x=plot.left, y=top - 11, text=name, ink="ink"),
            Label(x=plot.right, y=top - 11, text=busy, anchor="end"),
            Box(x=plot.left, y=top, width=plot.width, height=_ROW, ink="band", radius=2.0),
        )
        for trial, offset, height in lane.bars:
            x1, x2 = (axis.at((moment or begin) - begin) for moment in (trial.started_at, trial.ended_at))
            bar = _bar(analysis, trial, x1, x2, top + offset * _ROW, height * _ROW)
            canvas.add(bar if with_tips else dataclasses.replace(bar, tip="", trial=""))
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
        tip=trial_tip(analysis, trial) + share + ("\nsimulated card" if trial.simulated else ""),
        trial=trial.trial_id,
    )


def _pack(trials: Sequence[TrialRecord], *, by_share: bool) -> tuple[tuple[TrialRecord, float, float], ...]:
    """Gives each trial the lowest free part of its lane, in the order of the starts."""
    ordered = sorted(trials, key=lambda trial: trial.started_at or 0.0)
    beside = _most_beside(ordered)
    placed: list[tuple[TrialRecord, float, float]] = []
    running: list[tuple[TrialRecord, float, float]] = []
    for trial in ordered:
        running = [bar for bar in running if _runs_at(bar[0], trial.started_at or 0.0)]
        height = trial.share if by_share else 1.0 / beside
        free = 0.0
        for low, high in sorted((offset, offset + size) for _, offset, size in running):
            if free + height <= low + 1e-3:
                break
            free = max(free, high)
        placed.append((trial, min(free, max(1.0 - height, 0.0)), height))
        running.append(placed[-1])
    return tuple(placed)


def _most_beside(ordered: Sequence[TrialRecord]) -> int:
    running: list[TrialRecord] = []
    most = 1
    for trial in ordered:
        running = [other for other in running if _runs_at(other, trial.started_at or 0.0)] + [trial]
        most = max(most, len(running))
    return most


def _runs_at(trial: TrialRecord, moment: float) -> bool:
    """Whether a trial that started earlier still runs; half a second of clock difference is none."""
    return (trial.ended_at or 0.0) - moment > 0.5


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
