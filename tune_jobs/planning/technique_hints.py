"""Where a technique of training that a sweep asks for does not pay in it, by benchmarks/techniques.md. Pure."""

from tune_jobs.planning.plan_values import PlannedTrial, SweepPlan

COMPILE_S = 8  # CPU seconds at least that it added to a trial of a small model, with the code of an earlier one at hand
_SOURCE = "benchmarks/techniques.md; GPUs are not measured"


def technique_hints(plan: SweepPlan) -> list[str]:
    """Returns a hint for each technique that does not pay in some trials of a plan.

    Args:
        plan: Any plan.
    """
    trials = [trial for phase in plan.phases for trial in phase.trials]
    compiled = [trial for trial in trials if trial.trial.resolved.torch_compile and trial.steps]
    on_cpu = not plan.inventory.cards or (plan.inventory.simulated and not plan.described)
    short = sum(map(_trains_shorter_than_compilation, compiled))
    checkpointed = sum(plan.groups[trial.group].needless_checkpointing for trial in trials if trial.steps)
    hints = []
    if compiled and on_cpu:
        hints.append(f"torch_compile: on a CPU compiled steps of small models were no quicker ({_SOURCE})")
    elif short:
        hints.append(
            f"torch_compile: {short} trials train for fewer seconds than compilation took of a small model, {COMPILE_S}"
            f" s or more ({_SOURCE})"
        )
    if checkpointed:
        hints.append(
            f"gradient_checkpointing: {checkpointed} trials would get the same shares without it, and take fewer"
            f" seconds ({_SOURCE})"
        )
    return hints


def _trains_shorter_than_compilation(trial: PlannedTrial) -> bool:
    """Returns whether even steps in no time could not make up for it, on any card."""
    dialogues = trial.steps * trial.trial.resolved.batch_size
    seconds = [
        one.speed.train_s * dialogues / one.alternative.bundles for one in trial.options if one.speed is not None
    ]
    return bool(seconds) and len(seconds) == len(trial.options) and max(seconds) < COMPILE_S
