"""Brings a fresh scheduler and sampler to where an earlier driver left them, by its journal. Pure."""

from collections.abc import Mapping
from typing import cast

from tune_jobs.driver.recovery import LOST
from tune_jobs.records.journal import Journal, TrialHistory
from tune_jobs.search.early_stopping import EarlyStopping, Exploit, Ruling
from tune_jobs.search.samplers import CompletedTrial, Outcome, Sampled, Sampler
from tuning_common.goal import Goal, best_of


def replay(journal: Journal, sampler: Sampler, scheduler: EarlyStopping, goal: Goal) -> dict[int, Exploit]:
    """Repeats what the journal holds through the public methods of both, in its order.

    Args:
        journal: Of the earlier drivers; an empty one only adds the trials of a list.
        sampler: Fresh.
        scheduler: Fresh.
        goal: Whether high or low values are good.

    Returns:
        Exploits that were decided and not carried out.
    """
    exploits: dict[int, Exploit] = {}
    sampled_of: dict[int, Sampled] = {}
    if sampler.is_list:  # all were added before the first report
        for number in sampler.order:
            scheduler.add(number, sampler.suggest(number) or {})
    for event in journal.earlier:
        number = cast("int", event["number"])
        trial = journal.trials.get(number)
        if trial is None or is_half_refused(trial):
            continue
        ruling = Ruling()
        if event["event"] == "submitted":
            is_new, sampled_of[number] = number not in sampled_of, _sampled(event)
            if is_new and not sampler.is_list:
                scheduler.add(number, sampled_of[number])
        elif event["event"] == "reported":
            evaluation = cast("int", event["evaluation"])
            ruling = scheduler.report(number, result_for_scheduler(trial, evaluation, cast("float", event["value"])))
        elif event["event"] == "copied":
            exploits.pop(number, None)
            sampled_of[number] = _sampled(event)
        elif event["event"] == "started" and number in exploits:  # it could not be carried out
            del exploits[number]
            scheduler.keep(number, sampled_of[number])
        elif event["event"] == "reopened" and scheduler.is_finished(number):
            scheduler.add(number, sampled_of[number])
        elif event["event"] == "ended":
            ruling = _end(event, trial, sampler, scheduler, goal)
        exploits |= {exploit.number: exploit for exploit in ruling.exploits}
    return exploits


def is_half_refused(trial: TrialHistory) -> bool:
    """Returns whether a driver was killed between the two events of a refused trial; it is suggested again."""
    return trial.status is None and "config" not in trial.spec


def _end(
    event: Mapping[str, object], trial: TrialHistory, sampler: Sampler, scheduler: EarlyStopping, goal: Goal
) -> Ruling:
    if event.get("failure") not in LOST:  # those are tried again
        sampler.observe(trial.number, completed_trial(trial, goal))
    if event["status"] == "refused":
        return scheduler.remove(trial.number)
    return scheduler.fail(trial.number) if event.get("failure") else scheduler.complete(trial.number)


def _sampled(event: Mapping[str, object]) -> Sampled:
    return cast("Sampled", cast("Mapping[str, object]", event["spec"])["sampled"])


def result_for_scheduler(trial: TrialHistory, evaluation: int, value: float) -> dict[str, object]:
    """Returns what a scheduler of Ray Tune receives for one evaluation; the same live and in a replay."""
    return {
        str(trial.spec["metric"]): value,
        "training_iteration": evaluation,
        "time_total_s": trial.evaluations[evaluation].run_s,
    }


def completed_trial(trial: TrialHistory, goal: Goal) -> CompletedTrial:
    """Returns what a sampler receives for a trial that has ended."""
    best = best_of(trial.values, lambda one: one[1], goal)
    outcome: Outcome = "stopped" if trial.status == "stopped" else "finished"
    if trial.failure is not None:
        # Only a training that broke down says something about its configuration: no lost process, no full card.
        outcome = "failed" if trial.failure in ("work_failed", "diverged") else "out_of_memory"
    return CompletedTrial(
        sampled=cast("Sampled", trial.spec["sampled"]),
        outcome=outcome,
        value=best[1] if best is not None else None,
        step=len(trial.evaluations),
    )
