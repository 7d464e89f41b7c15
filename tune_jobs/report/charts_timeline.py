"""Charts of the machines: where and when trials ran, and their cost."""

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tune_jobs.analysis.sweep_analysis import Analysis
from tune_jobs.config.language import duration_text, tr
from tune_jobs.config.parameters import to_number
from tune_jobs.records.ledger import OUTCOMES, TrialOutcome, TrialRecord
from tune_jobs.report.axes import Axis, Plot, draw_x_axis, duration_ticks
from tune_jobs.report.drawing import Canvas, Drawing, DrawnShape, Label, Rectangle, shorten, text_width
from tune_jobs.report.formatting import NARROW, gpu_time, outcome_text, percent, trial_tip, trials_text
from tune_jobs.report.symbols import is_winner, legend, outcome_bar

_ROW, _TALL_ROW = 46.0, 76.0  # height of one card in the timeline; of a few cards
_FEW_LANES = 3
_MOST_TIPS = 1500  # with more bars, each is too thin to hover over


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One interval in which a trial ran on one card.

    Attributes:
        trial: The trial.
        start_at: Unix seconds.
        end_at: Unix seconds.
        share: Share of the card that it held; 0 without a card.
        outcome: How the interval ended; for the last one, the trial's outcome.
        offset: Start of the bar within its lane, as a fraction of the lane.
        height: Height of the bar, as a fraction of the lane.
    """

    trial: TrialRecord
    start_at: float
    end_at: float
    share: float
    outcome: TrialOutcome
    offset: float = 0.0
    height: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Lane:
    """One card, or one machine without cards, in the timeline.

    Attributes:
        name: Shown name.
        bars: The intervals in which trials ran there.
        busy: Mean fraction of the lane in use from the sweep's start to its end; None if unknown.
        shares: Whether heights are shares of a card, not equal parts of a machine.
    """

    name: str
    bars: tuple[Bar, ...]
    busy: float | None
    shares: bool


def find_lanes(analysis: Analysis) -> list[Lane]:
    """Returns a lane for each card, with the trials that ran on it."""
    devices: dict[TrialDevice, list[Bar]] = {}
    for card in analysis.sweep.cards:
        devices[_device(card.get("node"), card.get("card"), card.get("gpu_model"))] = []
    for trial in analysis.ledger.trials:
        for device, bar in _intervals(trial):
            devices.setdefault(_matching_device(device, devices), []).append(bar)
    span_s = analysis.cost.span_s
    lanes = []
    for device, bars in sorted(devices.items()):
        shares = bool(device.card) and all(0 < bar.share <= 1 for bar in bars)
        packed = _pack(bars, by_share=shares)
        taken = sum((bar.end_at - bar.start_at) * bar.height for bar in packed)
        name, is_single = _name_of(device, has_cards=bool(analysis.sweep.cards))
        busy = (taken / span_s if span_s > 0 else 0.0) if is_single else None
        lanes.append(Lane(name=name, bars=packed, busy=busy, shares=shares))
    return lanes


class TrialDevice(NamedTuple):
    """The card or machine on which a trial ran. A host with a raylet for each GPU model repeats card numbers."""

    node: str
    card: str
    gpu_model: str


def _device(node: object, card: object, gpu_model: object) -> TrialDevice:
    name = str(node or "")
    return TrialDevice(
        tr("this machine") if name.startswith("127.") else name, str(card or "").strip(), str(gpu_model or "")
    )


def _matching_device(device: TrialDevice, devices: Collection[TrialDevice]) -> TrialDevice:
    """Completes a device without a GPU model if exactly one known device has its node and card."""
    same = [other for other in devices if other[:2] == device[:2]]
    return same[0] if not device.gpu_model and len(same) == 1 else device


def _name_of(device: TrialDevice, *, has_cards: bool) -> tuple[str, bool]:
    """Returns the name of a lane, and whether it is a single card or machine."""
    if device.card:
        name = tr("{node} · card {card}", node=device.node, card=device.card)
        return name + (f" · {device.gpu_model}" if device.gpu_model else ""), True
    if has_cards:
        return tr("card unknown: no evaluation reported it"), False
    return f"{device.node or tr('this machine')} · CPU", True


def _intervals(trial: TrialRecord) -> list[tuple[TrialDevice, Bar]]:
    """Returns the devices and intervals of a trial; after a pause or a retry it may have run elsewhere.

    Intervals before a pause or before the driver's death have the trial's final outcome.
    """
    attempts: list[dict[str, object]] = trial.attempts or [
        {
            "started_at": trial.started_at, "ended_at": trial.ended_at, "node": trial.node, "card": trial.card,
            "gpu_model": trial.gpu_model, "share": trial.share,
        }
    ]  # fmt: skip
    bars = []
    for attempt in attempts:
        start_at, end_at = to_number(attempt.get("started_at")), to_number(attempt.get("ended_at"))
        if start_at is None or end_at is None:
            continue
        ended = str(attempt.get("ended", ""))
        failed: TrialOutcome = "oom" if ended == "out_of_memory" else "failed"
        cards = str(attempt.get("card") or "").split(",")  # a trial may hold several cards of a host
        bar = Bar(
            trial=trial,
            start_at=start_at,
            end_at=end_at,
            share=(to_number(attempt.get("share")) or 0.0) / len(cards),
            outcome=trial.status if ended in ("", "paused") else failed,
        )
        model = attempt.get("gpu_model") if cards != [""] else ""  # without a card, the GPU model is no lane of its own
        bars += [(_device(attempt.get("node"), card, model), bar) for card in cards]
    return bars


def draw_timeline(analysis: Analysis, width: float) -> Drawing:
    """Draws which trial held which share of which card, and when."""
    lanes = [
        lane
        for lane in find_lanes(analysis)
        if lane.busy is not None or any(bar.end_at - bar.start_at > 0.5 for bar in lane.bars)
    ]
    bars = [bar for lane in lanes for bar in lane.bars]
    keys, top_of_lanes = legend(analysis, width, {bar.outcome for bar in bars}, bars=True)
    row = _TALL_ROW if len(lanes) <= _FEW_LANES else _ROW
    canvas = Canvas(width=width, height=top_of_lanes + len(lanes) * (row + 26.0) + 50.0)
    canvas.extend(keys)
    plot = Plot(left=2.0, top=0.0, right=width - 6.0, bottom=canvas.height - 46.0)
    begin = min(bar.start_at for bar in bars)
    span_s = max(max(bar.end_at for bar in bars) - begin, 1e-9)
    axis = Axis(low=0.0, high=span_s, start=plot.left, end=plot.right)
    ticks = duration_ticks(span_s, 4 if width < NARROW else 8)
    draw_x_axis(canvas, plot, [(axis.at(at_s), text) for at_s, text in ticks], tr("since the start"), grid=False)
    for i, lane in enumerate(lanes):
        top = top_of_lanes + i * (row + 26.0) + 22.0
        busy = tr("{part} taken", part=percent(lane.busy)) if lane.busy is not None else ""
        name = shorten(lane.name, plot.width - text_width(busy) - 16)
        canvas.add(
            Label(x=plot.left, y=top - 11, text=name, ink="ink"),
            Label(x=plot.right, y=top - 11, text=busy, anchor="end"),
            Rectangle(x=plot.left, y=top, width=plot.width, height=row, ink="band", radius=2.0),
        )
        for bar in lane.bars:
            x1, x2 = axis.at(bar.start_at - begin), axis.at(bar.end_at - begin)
            frame = Plot(left=x1, right=x2, top=top + bar.offset * row, bottom=top + (bar.offset + bar.height) * row)
            shapes = _bar_shapes(analysis, bar, frame)
            canvas.extend(shapes if len(bars) <= _MOST_TIPS else (_without_tip(shape) for shape in shapes))
    time = duration_text(analysis.cost.span_s)
    simulated = analysis.sweep.simulated
    return canvas.finish(
        tr("What ran where, over {time}, simulated cards.", time=time)
        if simulated
        else tr("What ran where, over {time}.", time=time)
    )


def _without_tip(shape: DrawnShape) -> DrawnShape:
    return dataclasses.replace(shape, tip="", trial="")


def _bar_shapes(analysis: Analysis, bar: Bar, inside: Plot) -> list[DrawnShape]:
    trial = bar.trial
    share = "\n" + tr("share {share:g}", share=bar.share) if bar.share else ""
    tip = trial_tip(analysis, trial) + share + ("\n" + tr("simulated card") if trial.simulated else "")
    frame = {"x": inside.left, "y": inside.top, "width": max(inside.width - 0.6, 0.8), "height": inside.height}
    shapes = outcome_bar(bar.outcome, **frame, tip=tip, trial=trial.trial_id)
    if is_winner(analysis, trial.trial_id):
        won = Rectangle(**frame, ink="accent", outline="surface", radius=1.5, tip=tip, trial=trial.trial_id)
        shapes = [won, *shapes[1:]]
    return shapes


def _pack(bars: Sequence[Bar], *, by_share: bool) -> tuple[Bar, ...]:
    """Gives each bar, sorted by start, the lowest free part of its lane."""
    ordered = sorted(bars, key=lambda bar: bar.start_at)
    concurrent = _most_concurrent(ordered)
    placed: list[Bar] = []
    running: list[Bar] = []
    for bar in ordered:
        running = [other for other in running if _runs_at(other, bar.start_at)]
        height = bar.share if by_share else 1.0 / concurrent
        free = 0.0
        for low, high in sorted((other.offset, other.offset + other.height) for other in running):
            if free + height <= low + 1e-3:
                break
            free = max(free, high)
        placed.append(dataclasses.replace(bar, offset=min(free, max(1.0 - height, 0.0)), height=height))
        running.append(placed[-1])
    return tuple(placed)


def _most_concurrent(ordered: Sequence[Bar]) -> int:
    running: list[Bar] = []
    most = 1
    for bar in ordered:
        running = [other for other in running if _runs_at(other, bar.start_at)] + [bar]
        most = max(most, len(running))
    return most


def _runs_at(bar: Bar, moment: float) -> bool:
    """Returns whether a bar still runs at a moment; tolerates half a second of clock difference."""
    return bar.end_at - moment > 0.5


def draw_cost(analysis: Analysis, width: float) -> Drawing:
    """Draws the time that trials used, by outcome."""
    cost = analysis.cost
    used = cost.gpu_s if cost.on_gpus else cost.trial_s
    show = gpu_time if cost.on_gpus else duration_text
    rows: list[tuple[TrialOutcome, float]] = [(outcome, used[outcome]) for outcome in OUTCOMES if used.get(outcome)]
    total = sum(seconds for _, seconds in rows)
    texts = [f"{show(seconds)} · {percent(seconds / total)}" for _, seconds in rows]
    canvas = Canvas(width=width, height=30.0 + 34.0 * max(len(rows), 1))
    left = 104.0
    end = width - max(text_width(text) for text in texts) - 16.0
    axis = Axis(low=0.0, high=max(seconds for _, seconds in rows), start=left, end=end)
    for i, ((outcome, seconds), text) in enumerate(zip(rows, texts, strict=True)):
        y = 20.0 + 34.0 * i
        tip = f"{trials_text(analysis.count(outcome))} {outcome_text(outcome)}: {text}"
        long = max(axis.at(seconds) - left, 1.0)
        canvas.add(
            Label(x=left - 8, y=y, text=outcome_text(outcome), anchor="end", ink="ink"),
            *outcome_bar(outcome, x=left, y=y - 9, width=long, height=18.0, tip=tip),
            Label(x=axis.at(seconds) + 8, y=y, text=text),
        )
    kind = tr("GPU time by outcome") if cost.on_gpus else tr("time by outcome")
    return canvas.finish(f"{kind}: " + ", ".join(f"{outcome_text(outcome)} {show(s)}" for outcome, s in rows) + ".")
