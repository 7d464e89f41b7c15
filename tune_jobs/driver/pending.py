"""Why a trial waits: what it needs, who holds it, since when. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from cluster.machines.hardware import GPU_MODEL_LABEL
from common.units import format_duration
from tune_jobs.records.trial_spec import Bundle

_NAMED = 6  # holders; more are counted


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A trial that runs, and what it holds."""

    number: int
    bundle: Bundle


def why_pending(bundle: Bundle, waited_s: float, running: tuple[Holder, ...], others: tuple[Bundle, ...] = ()) -> str:
    """Says what a trial of a sweep waits for.

    Args:
        bundle: What it needs.
        waited_s: How long it has waited.
        running: The trials of the sweep that run.
        others: What it would take as well, on other GPU models.

    >>> half = Bundle(cpus=1, gpus=0.5, labels={"gpu-model": "A40"})
    >>> why_pending(half, 75, (Holder(number=3, bundle=half), Holder(number=7, bundle=half)))
    'for 1 min 15 s for 0.5 of a card (A40), where trial 3 holds 0.5 and trial 7 holds 0.5'
    """
    models = [one.labels.get(GPU_MODEL_LABEL) for one in (bundle, *others)]
    holders = [one for one in running if one.bundle.gpus and one.bundle.labels.get(GPU_MODEL_LABEL) in models]
    waited = f"for {format_duration(waited_s)} for"
    if not bundle.gpus:
        side_by_side = f"; {len(running)} of this sweep's trials run" if running else ""
        return f"{waited} {bundle.cpus:g} CPUs of one machine{side_by_side}"
    needed = " or ".join(
        _amount(one.gpus) + (f" ({model})" if model else "")
        for one, model in zip((bundle, *others), models, strict=True)
    )
    if not holders:
        return (
            f"{waited} {needed} and {bundle.cpus:g} CPUs beside it; no trial of this sweep runs there, so others hold"
            " them: see `ray status`"
        )
    named = [f"trial {one.number} holds {one.bundle.gpus:g}" for one in holders[:_NAMED]]
    if len(holders) > _NAMED:
        named.append(f"{len(holders) - _NAMED} more hold the rest")
    return f"{waited} {needed}, where {', '.join(named[:-1])}{' and ' if len(named) > 1 else ''}{named[-1]}"


def _amount(gpus: float) -> str:
    if gpus > 1:
        return f"{gpus:g} whole cards"
    return "a whole card" if gpus == 1 else f"{gpus:g} of a card"


class WaitsSaid:
    """Which trials wait for a place, and whose reason is due to be said.

    A short wait is no news: a trial's reason is due after `after_s`, and again whenever it has waited twice as long.

    >>> waits = WaitsSaid(after_s=10)
    >>> waits.begin(4, now_s=100); [waits.due(now_s) for now_s in (105, 110, 115, 120)]
    [{}, {4: 10}, {}, {4: 20}]
    """

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s
        self._since_s: dict[int, float] = {}
        self._next_s: dict[int, float] = {}

    def begin(self, number: int, now_s: float) -> None:
        """A trial was ordered, or shall start again; one that waits already goes on waiting."""
        if number not in self._since_s:
            self._since_s[number], self._next_s[number] = now_s, now_s + self._after_s

    def end(self, number: int) -> None:
        """It has its place, or needs none any more."""
        self._since_s.pop(number, None)
        self._next_s.pop(number, None)

    def due(self, now_s: float) -> Mapping[int, float]:
        """Returns the trials to speak of, with the seconds that each has waited."""
        due = {number: now_s - self._since_s[number] for number, at_s in self._next_s.items() if now_s >= at_s}
        for number, waited_s in due.items():
            self._next_s[number] = self._since_s[number] + 2 * waited_s
        return due
