"""A plan for people."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from cluster.scheduling.shares import MAX_TENANTS
from tune_jobs.planning.guard_rails import Remark
from tune_jobs.planning.impact import Impact
from tune_jobs.planning.plan_values import MemoryGroup, PlannedPhase, PlannedTrial, SweepPlan
from tune_jobs.planning.quota_end import QuotaEnd
from tune_jobs.planning.technique_hints import technique_hints
from tune_jobs.records.trial_spec import Placement
from tune_jobs.search.inputs import ASSUMED_DIALOGUES
from tuning_common.cli import table
from tuning_common.units import counted, format_bytes, format_duration

METHODS = {
    "grid": "grid: every combination, or a random part of them",
    "random": "random: drawn independently, none twice",
    "bayes": "bayes: Optuna's TPE, several at a time, seeded",
    "bohb": "bohb: TPE (Optuna's) with HyperBand's budgets, which is what BOHB combines; not the package of that name",
    "pbt": "pbt: population based training; the bottom copies weights from the top and goes on with changed values",
}
_COLUMNS = 48  # of the picture of the cards
_CARDS_SHOWN = 16
_TRIALS_SHOWN = 12


def as_text(
    plan: SweepPlan,
    remarks: Sequence[Remark],
    rows: Sequence[Impact],
    *,
    experience: str,
    now: datetime,
    quota: QuotaEnd | None = None,
) -> str:
    """Writes a plan for a person.

    Args:
        plan: The plan.
        remarks: Of the guard rails.
        rows: The impact table.
        experience: Which earlier sweep its parts come from; empty without one.
        now: When the sweep would be started.
        quota: Its end inside its member's quota; None where it has none, or nothing is timed.
    """
    sweep = plan.sweep
    total = sum(len(phase.trials) for phase in plan.phases)
    where = plan.inventory.describe() if plan.inventory.cards else _cpus(plan)
    described = ", as described" if plan.described else ""
    head = [f"plan of {sweep.name}: {counted(total, 'trial')} on {where}{described}"]
    head += [sweep.description] if sweep.description else []
    parts = ["\n".join(head), *(_phase_text(plan, phase) for phase in plan.phases), _memory(plan)]
    parts += [_picture(plan)] if plan.inventory.cards else []
    parts += [_time(plan, now, quota), _impact(rows, experience)]
    notes = [f"note: {text}" for text in (*sweep.notes, *plan_notes(plan))]
    parts.append("\n".join([*notes, *([f"warning: {remark}" for remark in remarks] or ["no warnings"])]))
    return "\n\n".join(parts)


def _phase_text(plan: SweepPlan, phase: PlannedPhase) -> str:
    sweep, stop = phase.sweep, phase.sweep.early_terminate
    title = f"phase {phase.name}: {counted(len(phase.trials), 'trial')}; " if phase.name else ""
    lines = [title + phase_method(phase)]
    longest = max((trial.evaluations for trial in phase.trials), default=1)
    if phase.rungs:
        name = "brackets" if stop.type == "hyperband" else "rungs"
        running = sum(1 for trial in phase.trials if not plan.groups[trial.group].refused)
        left = " -> ".join(map(str, (running, *phase.left)))
        strict = ", strict" if stop.strict else ""
        lines.append(
            f"early termination: {stop.type}, eta {stop.reduction:g}{strict}; {name} at evaluations"
            f" {', '.join(map(str, phase.rungs))} of {longest}{_bracket_rule(phase)}; by chance {left} go on"
        )
    elif stop.type == "median":
        lines.append(f"early termination: median of the others, from evaluation {stop.min_iter or 1} of {longest}")
    else:
        lines.append(f"early termination: {stop.type}; {counted(longest, 'evaluation')}")
    shown = phase.trials[:_TRIALS_SHOWN]
    names = [one.name for one in sweep.space.searched]
    names += ["seed"] if phase.kind == "confirm" else []
    ruled = any(trial.trial.notes for trial in shown)
    header = ["trial", *names, *(["as run, by the rules"] if ruled else [])]
    rows = [[trial.name, *_cells(trial, names), *([_changes(trial)] if ruled else [])] for trial in shown]
    drawn = "" if all(trial.known for trial in phase.trials) else ", drawn to stand for those that results will choose"
    more = len(phase.trials) - len(shown)
    lines += [f"trials as sampled{drawn}:", table(header, rows)]
    lines += [f"... and {more} more; --format json has all"] if more else []
    return "\n".join(lines)


def phase_method(phase: PlannedPhase) -> str:
    """Says how a phase chooses its trials."""
    sweep = phase.sweep
    if phase.kind == "confirm":
        return "confirm: the best of the phase before, trained again with several seeds"
    if phase.kind == "generation":
        return f"generation: {METHODS[sweep.method]}, with the best model of the phase before; nothing is trained"
    inside = ", inside the box of the best trials before (not known yet)" if phase.kind == "narrow" else ""
    return f"{METHODS[sweep.method]} (seed {sweep.search.seed}){inside}"


def _cells(trial: PlannedTrial, names: Sequence[str]) -> list[object]:
    resolved = trial.trial.resolved
    return [_value(trial.trial.sampled.get(name, getattr(resolved, name))) for name in names]


def _changes(trial: PlannedTrial) -> str:
    return "; ".join(note.split(": ")[0] for note in trial.trial.notes)


def _bracket_rule(phase: PlannedPhase) -> str:
    stop = phase.sweep.early_terminate
    if stop.type != "hyperband":
        return ""
    if stop.max_iter is not None:
        return f" (max_iter {stop.max_iter} / {stop.eta:g}^k, k = 1..{stop.s})"
    return f" (min_iter {stop.min_iter} x {stop.eta:g}^k)"


def _memory(plan: SweepPlan) -> str:
    rows, also = [], _differences(plan.groups)
    for index, group in enumerate(plan.groups):
        count = sum(1 for phase in plan.phases for trial in phase.trials if trial.group == index)
        config = group.config
        what = (config.model, config.batch_size, f"{config.encoder_max_len}/{config.decoder_max_len}", *also[index])
        if group.refused:
            rows.append([count, *what, "does not fit", "", "", "", ""])
        rows += [[count, *what, *_placement_cells(option.placement)] for option in group.on_cards]
    if not rows:
        return f"memory: without a card trials are placed by CPUs, {plan.sweep.resources.cpus_per_trial:g} each"
    header = [
        "trials",
        "model",
        "batch",
        "tokens",
        *(["with"] if also[0] else []),
        "card",
        "estimate",
        "upper",
        "share",
        "run as",
    ]
    refusals = [f"does not fit: {group.refused}" for group in plan.groups if group.refused]
    several = "a trial on several cards is taken to be as many times as fast as on one (not measured)"
    any_several = any(group.cards > 1 for group in plan.groups)
    return "\n".join(["memory and shares:", table(header, rows), *([several] if any_several else []), *refusals])


def _differences(groups: Sequence[MemoryGroup]) -> list[tuple[str, ...]]:
    """Returns in what else groups differ, a cell for each; no cells where they do not."""
    switches = ("label_smoothing", "dropout", "no_repeat_ngram_size", "gradient_checkpointing")
    values = ("num_beams", "optimizer", "precision", "generation_batch_size", "gradient_accumulation_steps")
    cells: list[list[str]] = [[] for _ in groups]
    for name in (*switches, *values):
        found = [getattr(group.config, name) for group in groups]
        found = [value is None or bool(value) for value in found] if name in switches else found
        if len(set(found)) > 1:
            for cell, value in zip(cells, found, strict=True):
                cell.append(f"{'' if value else 'no '}{name}" if name in switches else f"{name} {value}")
    return [(", ".join(cell),) if cell else () for cell in cells]


def _placement_cells(placement: Placement) -> list[object]:
    return [
        placement.gpu_model,
        format_bytes(float(str(placement.estimate["device_bytes"]))),
        format_bytes(float(str(placement.estimate["upper_bytes"]))),
        f"{placement.bundle.gpus:g}",
        placement.shape.describe(),
    ]


def _picture(plan: SweepPlan) -> str:
    """Draws the trials on each card over time, a digit for their number."""
    cards: dict[tuple[str, int], list[tuple[float, float]]] = {
        (node.name, card.index): [] for node in plan.inventory.nodes for card in node.cards
    }
    starts, makespan = phase_starts(plan), plan.makespan
    for phase in plan.phases:
        begin = starts[phase.name]
        for run in phase.timeline.runs:
            for card in zip(run.nodes, run.cards, strict=True):
                cards[card].append((begin + run.start, begin + run.end))
    lines = []
    for card in sorted(cards)[:_CARDS_SHOWN]:
        digits = [_tenants(cards[card], makespan * (column + 0.5) / _COLUMNS) for column in range(_COLUMNS)]
        lines.append(f"  {card[0]} card {card[1]}  |{''.join(digits)}|")
    width = max((line.index("|") for line in lines), default=0)
    lines = [line[: line.index("|")].ljust(width) + line[line.index("|") :] for line in lines]
    more = len(cards) - len(lines)
    lines += [f"  ... and {more} more cards"] if more > 0 else []
    return "\n".join(["trials on each card from start to end:", *lines])


def _tenants(runs: Sequence[tuple[float, float]], moment: float) -> str:
    count = sum(1 for start, end in runs if start <= moment < end)
    return "." if not count else str(count) if count < 10 else "+"


def _time(plan: SweepPlan, now: datetime, quota: QuotaEnd | None) -> str:
    if not plan.timed:
        lines = [
            f"time: not measured, so counted in epochs of a trial: {plan.makespan:.3g} from start to end"
            f" ({plan.makespan_at_most:.3g} when nothing is stopped); with their shares {plan.gpu_time:.3g} card-epochs"
            f" ({plan.gpu_time_at_most:.3g})"
        ]
        lines += [f"  not measured: {text}" for text in plan.unknown]
        lines.append("  `--measure` times a few real steps here; any earlier run in this output folder is used too")
        return "\n".join(lines)
    cards = f"{plan.gpu_time / 3600:.3g} GPU-hours ({plan.gpu_time_at_most / 3600:.3g} when nothing is stopped)"
    gpus = f"; {cards}" if plan.inventory.cards else ""
    lines = [
        f"time: {format_duration(plan.makespan)} ({format_duration(plan.makespan_at_most)} when nothing is stopped)"
        f"{gpus}; started now it would end {plan_end(plan, now):%a %d %b %H:%M %Z}".rstrip()
    ]
    lines += [f"  {quota.describe()}"] if quota is not None else []
    lines += [f"  basis: {text}" for text in plan.basis]
    return "\n".join(lines)


def _impact(rows: Sequence[Impact], experience: str) -> str:
    with_part = any(row.part is not None for row in rows)
    header = ["order", "parameter", "in this sweep", "effect where it was measured", *(["here"] if with_part else [])]
    body = [[row.order, row.parameter, row.searched, row.effect, *([_part(row)] if with_part else [])] for row in rows]
    sources = sorted({row.source for row in rows if row.source != "not measured"})
    lines = ["what is worth searching first:", table(header, body)]
    lines += [f"  source: {text}" for text in sources]
    lines += [f"  here: importance in {experience}; in brackets what chance alone gives"] if with_part else []
    return "\n".join(lines)


def _part(row: Impact) -> str:
    return "" if row.part is None else f"{row.part:.2f} ({row.chance or 0.0:.2f})"


def plan_notes(plan: SweepPlan) -> list[str]:
    """Lists what a plan takes for granted."""
    notes = [f"{path} is not there: steps are counted for {ASSUMED_DIALOGUES:,} dialogues" for path in plan.absent]
    notes += plan.cut_texts
    if plan.sweep.trained_model is not None:
        notes.append("nothing is trained: each trial is one evaluation of the trained model")
    if plan.inventory.simulated:
        notes.append("the cards are simulated")
    options = [option for phase in plan.phases for trial in phase.trials for option in trial.options]
    if plan.timed and any(option.alternative.model and option.alternative.busy is None for option in options):
        notes.append(
            "trials that share a card are taken not to slow each other down: how busy they keep it is not known"
        )
    most = plan.sweep.resources.max_trials_per_gpu or MAX_TENANTS
    if plan.sweep.resources.part == "auto" and any(0 < option.alternative.gpus < 1 for option in options):
        notes.append(f"at most {most} trials share a card; fewer, where their reports show that a card gets more done")
    if plan.timed and len(plan.inventory.pools) > 1:
        notes.append("a card is taken to be as fast as the one on which a trial was measured, or as described")
    return notes + technique_hints(plan)


def phase_starts(plan: SweepPlan) -> dict[str, float]:
    """Returns when each phase starts; they follow each other."""
    starts, passed = {}, 0.0
    for phase in plan.phases:
        starts[phase.name] = passed
        passed += phase.timeline.makespan
    return starts


def plan_end(plan: SweepPlan, now: datetime) -> datetime:
    """Returns when a timed plan ends that is started now."""
    return now + timedelta(seconds=plan.makespan)


def _cpus(plan: SweepPlan) -> str:
    return f"{sum(node.cpus for node in plan.inventory.nodes):g} CPUs"


def _value(value: object) -> object:
    return f"{value:.3g}" if isinstance(value, float) else "" if value is None else str(value)
