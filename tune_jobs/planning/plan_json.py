"""A plan for programs: plain values."""

from collections.abc import Sequence
from datetime import datetime

from tune_jobs.config.space import as_written
from tune_jobs.placing.placer import Option
from tune_jobs.placing.throughput import Speed
from tune_jobs.planning.guard_rails import Remark
from tune_jobs.planning.impact import Impact
from tune_jobs.planning.plan_text import phase_method, phase_starts, plan_end, plan_notes
from tune_jobs.planning.plan_values import PlannedPhase, PlannedTrial, SweepPlan
from tune_jobs.planning.quota_end import QuotaEnd
from tune_jobs.planning.timeline import PlannedRun

EPOCHS = "trial-epochs"


def as_json(
    plan: SweepPlan,
    remarks: Sequence[Remark],
    rows: Sequence[Impact],
    *,
    experience: str,
    now: datetime,
    quota: QuotaEnd | None = None,
) -> dict[str, object]:
    """Returns a plan as plain values; arguments as for as_text. Seconds are null where nothing was measured."""
    timed = plan.timed
    starts = phase_starts(plan)
    runs = [
        (run, phase.name)
        for phase in plan.phases
        for run in sorted(phase.timeline.runs, key=lambda run: (run.start, run.name))
    ]
    return {
        "sweep": plan.sweep.name,
        "source": plan.sweep.source,
        "method": plan.sweep.method,
        "metric": plan.sweep.metric.name,
        "cluster": plan.inventory.describe(),
        "described": plan.described,
        "simulated": plan.inventory.simulated,
        "unit": "s" if timed else EPOCHS,
        "time_source": list(plan.basis) if timed else [],
        "not_measured": list(plan.unknown),
        "phases": [_phase_json(plan, phase) for phase in plan.phases],
        "trials": [_trial_json(plan, trial) for phase in plan.phases for trial in phase.trials],
        "estimates": [_group_json(plan, index) for index in range(len(plan.groups))],
        "placements": [_run_json(run, phase, starts[phase], timed) for run, phase in runs],
        "gpu_hours": _hours(plan.gpu_time, timed),
        "gpu_hours_at_most": _hours(plan.gpu_time_at_most, timed),
        "gpu_trial_epochs": None if timed else round(plan.gpu_time, 3),
        "makespan_s": round(plan.makespan, 1) if timed else None,
        "makespan_at_most_s": round(plan.makespan_at_most, 1) if timed else None,
        "makespan_trial_epochs": None if timed else round(plan.makespan, 3),
        "ends_at": plan_end(plan, now).isoformat(timespec="minutes") if timed else None,
        "ends_in_quota": _quota_json(quota),
        "impact": [
            {
                "order": row.order,
                "parameter": row.parameter,
                "effect": row.effect,
                "source": row.source,
                "searched": row.searched,
                "importance": row.part,
                "importance_by_chance": row.chance,
            }
            for row in rows
        ],
        "importance_source": experience or None,
        "warnings": [{"rail": one.rail, "message": one.message, "better": one.better} for one in remarks],
        "notes": [*plan.sweep.notes, *plan_notes(plan)],
    }


def _phase_json(plan: SweepPlan, phase: PlannedPhase) -> dict[str, object]:
    stop = phase.sweep.early_terminate
    return {
        "name": phase.name,
        "kind": phase.kind,
        "method": phase.sweep.method,
        "how": phase_method(phase),
        "trials": len(phase.trials),
        "early_terminate": stop.type,
        "eta": stop.reduction,
        "rungs": list(phase.rungs),
        "likely_left": list(phase.left),
        "makespan_s": round(phase.timeline.makespan, 1) if plan.timed else None,
        "makespan_trial_epochs": None if plan.timed else round(phase.timeline.makespan, 3),
        "most_at_once": phase.timeline.most_at_once,
    }


def _trial_json(plan: SweepPlan, trial: PlannedTrial) -> dict[str, object]:
    group = plan.groups[trial.group]
    return {
        "name": trial.name,
        "phase": trial.phase,
        "number": trial.number,
        "known": trial.known,
        "sampled": {name: as_written(value) for name, value in trial.trial.sampled.items()},
        "resolved": trial.trial.resolved.to_dict(),
        "notes": list(trial.trial.notes),
        "estimate": trial.group,
        "evaluations": trial.evaluations,
        "likely_evaluations": trial.expected_evaluations,
        "epochs": trial.epochs,
        "refused": group.refused or None,
    }


def _group_json(plan: SweepPlan, index: int) -> dict[str, object]:
    group = plan.groups[index]
    config = group.config
    return {
        "model": config.model,
        "batch_size": config.batch_size,
        "encoder_max_len": config.encoder_max_len,
        "decoder_max_len": config.decoder_max_len,
        "trials": sum(1 for phase in plan.phases for trial in phase.trials if trial.group == index),
        "refused": group.refused or None,
        "cards": [_placement_json(option) for option in group.on_cards],
    }


def _placement_json(option: Option) -> dict[str, object]:
    placement, shape = option.placement, option.placement.shape
    return {
        "gpu_model": placement.gpu_model,
        "gpu_share": placement.bundle.gpus,
        "micro_batch": shape.micro_batch,
        "accumulation": shape.accumulation,
        "gradient_checkpointing": shape.gradient_checkpointing,
        "ranks": shape.ranks,
        **placement.estimate,
        **_speed_json(option.speed),
    }


def _speed_json(speed: Speed | None) -> dict[str, object]:
    """Returns the seconds of one card for a dialogue; null where they are not known."""
    if speed is None:
        return {"train_dialogue_s": None, "evaluation_dialogue_s": None, "busy": None, "seconds_source": None}
    return {
        "train_dialogue_s": speed.train_s,
        "evaluation_dialogue_s": speed.evaluate_s,
        "busy": speed.busy,
        "seconds_source": speed.source,
    }


def _run_json(run: PlannedRun, phase: str, phase_start: float, timed: bool) -> dict[str, object]:
    start, end = round(run.start + phase_start, 3), round(run.end + phase_start, 3)
    return {
        "trial": run.name,
        "phase": phase,
        "gpu_model": run.gpu_model or None,
        "node": "+".join(dict.fromkeys(run.nodes)),
        "cards": list(run.cards),
        "gpu_share": run.gpus,
        "start_s": start if timed else None,
        "end_s": end if timed else None,
        "start_trial_epochs": None if timed else start,
        "end_trial_epochs": None if timed else end,
    }


def _quota_json(quota: QuotaEnd | None) -> dict[str, object] | None:
    if quota is None:
        return None
    ends_at = None if quota.ends_at is None else quota.ends_at.isoformat(timespec="minutes")
    return {"member": quota.member, "quota_gpus_now": quota.now_gpus, "ends_at": ends_at}


def _hours(time_s: float, timed: bool) -> float | None:
    return round(time_s / 3600, 4) if timed else None
