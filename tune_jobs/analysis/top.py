"""The current state of the sweeps in an output folder, from their journals."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from tune_jobs.config.language import duration_text, tr
from tune_jobs.config.naming import brief_settings
from tune_jobs.records.card_sharing import learned_co_tenants
from tune_jobs.records.journal import FILE_NAME, Journal, TrialHistory
from tune_jobs.records.ledger import SweepFolder, SweepRecord
from tune_jobs.records.sweep_lock import is_held
from tuning_common.cli import joined, narrow_table, shortened
from tuning_common.goal import best_of
from tuning_common.units import format_bytes

Place = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class TrialNow:
    """One trial that has not ended.

    Attributes:
        number: Number in the sweep.
        name: Experiment name.
        state: "running", "paused" or "waiting"; "interrupted" where its driver has ended.
        evaluations: Number of evaluations so far.
        last: The metric's last value.
        best: The metric's best value.
        gpus: Number of GPUs, or its share of one.
        place: Node and card; None without a card or before the first report.
        tenants: Number of running trials of all sweeps on its card.
        estimated_bytes: Predicted bytes, with margin.
        measured_bytes: Measured peak.
        tokens_per_second: Training speed at its last evaluation.
        note: Why it waits.
        settings: Its sampled values.
    """

    number: int
    name: str
    state: str
    evaluations: int
    last: float | None
    best: float | None
    gpus: float
    place: Place | None
    tenants: int
    estimated_bytes: float | None
    measured_bytes: float | None
    tokens_per_second: float | None
    note: str
    settings: str = ""


@dataclass(frozen=True, kw_only=True)
class SweepNow:
    """One sweep.

    Attributes:
        sweep: Its name.
        member: Team member who runs it.
        metric: The metric that ranks trials.
        is_running: Whether a driver has locked its folder.
        planned: Number of planned trials.
        ended: Number of ended trials, by outcome.
        best: The best value so far.
        best_trial: The trial with the best value.
        out_of_memory: Number of attempts that exceeded their share and were placed again.
        retries: Number of attempts after a failure.
        gpu_s: GPU-seconds so far.
        quiet_s: Seconds since its last event; None before the first.
        trials: Trials that have not ended.
        co_tenants: How many trials a card of each GPU model takes best, as their rates show.
    """

    sweep: str
    member: str | None
    metric: str
    is_running: bool
    planned: int | None
    ended: Mapping[str, int]
    best: float | None
    best_trial: int | None
    out_of_memory: int
    retries: int
    gpu_s: float
    quiet_s: float | None
    trials: tuple[TrialNow, ...]
    co_tenants: tuple[str, ...] = ()


def read_sweeps(output_dir: Path, now_s: float) -> list[SweepNow]:
    """Reads every sweep of an output folder that has a journal, running ones first.

    Args:
        output_dir: The `tracking.output_dir` of the sweeps.
        now_s: Unix seconds.
    """
    found: list[tuple[SweepRecord, Journal, bool]] = []
    for path in sorted((output_dir / "sweep_results").glob(f"*/{FILE_NAME}")):
        record = SweepFolder(path.parent).load().sweep
        if record is not None:
            found.append((record, Journal(path), is_held(path.parent)))
    tenants = Counter(
        _card(trial)
        for _, journal, is_running in found
        for trial in journal.trials.values()
        if is_running and trial.running
    )
    sweeps = [_sweep(record, journal, is_running, tenants, now_s) for record, journal, is_running in found]
    return sorted(sweeps, key=lambda sweep: (not sweep.is_running, sweep.quiet_s or 0.0, sweep.sweep))


def text_of(sweeps: Sequence[SweepNow], columns: int) -> str:
    """Formats sweeps for a terminal: some lines each, and a table of the trials that have not ended.

    Args:
        sweeps: In the sequence in which they are shown.
        columns: Width of the terminal; a narrow one shows fewer columns of the table and shorter reasons.
    """
    return "\n\n".join("\n".join(_lines(sweep, columns)) for sweep in sweeps)


def _sweep(
    record: SweepRecord, journal: Journal, is_running: bool, tenants: Mapping[Place | None, int], now_s: float
) -> SweepNow:
    by_number = sorted(journal.trials.values(), key=lambda trial: trial.number)  # of equals the earlier one is best
    values = [(value, trial.number) for trial in by_number for _, value in trial.values]
    best, best_trial = best_of(values, lambda pair: pair[0], record.goal) or (None, None)
    trials = journal.trials.values()
    last_at = max((trial.last_at for trial in trials if trial.last_at is not None), default=None)
    return SweepNow(
        sweep=record.sweep,
        member=record.member,
        metric=record.metric,
        is_running=is_running,
        planned=record.trials,
        ended=dict(Counter(str(trial.status) for trial in trials if trial.status is not None)),
        best=best,
        best_trial=best_trial,
        out_of_memory=sum(trial.retries.count("out_of_memory") for trial in trials),
        retries=sum(len(trial.retries) for trial in trials),
        gpu_s=sum(trial.gpu_s for trial in trials),
        quiet_s=None if last_at is None else max(0.0, now_s - last_at),
        trials=tuple(_trial(trial, record, is_running, tenants) for trial in trials if trial.status is None),
        co_tenants=tuple(learned_co_tenants(journal.earlier).lines()),
    )


def _trial(trial: TrialHistory, record: SweepRecord, is_running: bool, tenants: Mapping[Place | None, int]) -> TrialNow:
    values = [value for _, value in trial.values]
    best = best_of(values, lambda value: value, record.goal)
    seen = trial.evaluations[max(trial.evaluations)].metrics if trial.evaluations else {}
    state = "running" if trial.running else "paused" if trial.pauses else "waiting"
    place = _place(trial) if trial.running else None
    estimate = cast("Mapping[str, object]", trial.spec.get("estimate") or {})
    return TrialNow(
        number=trial.number,
        name=str(trial.spec["name"]),
        state=state if is_running or state != "running" else "interrupted",
        evaluations=len(values),
        last=values[-1] if values else None,
        best=best,
        gpus=cast("float", trial.bundle.get("gpus", 0.0)) if trial.running else 0.0,
        place=place,
        tenants=tenants[_card(trial)] if place is not None else 0,
        estimated_bytes=_number(estimate, "upper_bytes"),
        measured_bytes=_number(seen, "trial/held_bytes") or _number(seen, "memory/reserved_bytes"),
        tokens_per_second=_number(seen, "train/tokens_per_second"),
        note=trial.waits_for,
        settings=brief_settings(cast("Mapping[str, object]", trial.spec.get("sampled") or {})),
    )


def _place(trial: TrialHistory) -> Place | None:
    seen = trial.evaluations[max(trial.evaluations)].metrics if trial.evaluations else {}
    return (str(seen["trial/node"]), str(seen["trial/card"])) if "trial/card" in seen else None


def _card(trial: TrialHistory) -> Place | None:
    """Returns a unique key of the trial's card: two raylets of one host may use the same card numbers."""
    place = _place(trial)
    seen = trial.evaluations[max(trial.evaluations)].metrics if trial.evaluations else {}
    return place and (str(seen.get("trial/raylet", place[0])), place[1])


def _number(values: Mapping[str, object], name: str) -> float | None:
    value = values.get(name)
    return float(value) if isinstance(value, (int, float)) else None


def _lines(sweep: SweepNow, columns: int) -> list[str]:
    whose = f" ({sweep.member})" if sweep.member else ""
    quiet = "" if sweep.quiet_s is None else tr(", last event {time} ago", time=duration_text(sweep.quiet_s))
    states = Counter(trial.state for trial in sweep.trials)
    planned = "?" if sweep.planned is None else sweep.planned
    counts = [tr("{count} of {total} trials ended", count=sum(sweep.ended.values()), total=planned)]
    texts = _state_texts()
    counts += [tr("{count} {end}", count=number, end=texts[state]) for state, number in sorted(states.items())]
    counts += [
        tr("{count} {end}", count=number, end=texts[outcome])
        for outcome, number in sorted(sweep.ended.items())
        if outcome != "finished"
    ]
    parts = [tr("{hours:.2f} GPU-hours", hours=sweep.gpu_s / 3600)]
    if sweep.best is not None:
        best = tr(
            "best {metric} {score:.3f} (trial {number})", metric=sweep.metric, score=sweep.best, number=sweep.best_trial
        )
        parts.insert(0, best)
    if sweep.retries:
        parts.append(tr("failed attempts {count}, out of memory {oom}", count=sweep.retries, oom=sweep.out_of_memory))
    title = f"{sweep.sweep}{whose}: {tr('running') if sweep.is_running else tr('not running')}{quiet}"
    lines = [shortened(title, columns), *joined(counts, ", ", columns), *joined(parts, " | ", columns)]
    lines += [shortened(line, columns) for line in sweep.co_tenants]
    if sweep.trials:
        header = [tr("trial"), tr("status"), tr("evals"), tr("last"), tr("best"), "GPUs", tr("card")]
        header += [tr("tenants"), tr("estimated"), tr("measured"), tr("tokens/s"), tr("settings, or why it waits")]
        rows = [_row(trial) for trial in sweep.trials]
        lines.append(narrow_table(header, rows, columns, _EXPENDABLE))
    return lines


_EXPENDABLE = (7, 10, 8, 9, 6, 3)  # tenants, tokens/s, estimated, measured, card, last: in this sequence


def _state_texts() -> dict[str, str]:
    return {
        "waiting": tr("waiting"),
        "running": tr("running"),
        "paused": tr("paused"),
        "interrupted": tr("interrupted"),
        "finished": tr("finished"),
        "stopped": tr("stopped early"),
        "failed": tr("failed"),
        "refused": tr("refused"),
        "oom": tr("out of memory"),
    }


def _row(trial: TrialNow) -> list[object]:
    return [
        trial.number,
        _state_texts()[trial.state],
        trial.evaluations,
        "-" if trial.last is None else f"{trial.last:.3f}",
        "-" if trial.best is None else f"{trial.best:.3f}",
        f"{trial.gpus:g}" if trial.gpus else "-",
        "-" if trial.place is None else ":".join(trial.place),
        str(trial.tenants or "-"),
        "-" if trial.estimated_bytes is None else format_bytes(trial.estimated_bytes),
        "-" if trial.measured_bytes is None else format_bytes(trial.measured_bytes),
        "-" if trial.tokens_per_second is None else f"{trial.tokens_per_second:,.0f}",
        trial.note or trial.settings or trial.name,
    ]
