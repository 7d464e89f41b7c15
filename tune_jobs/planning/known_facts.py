"""What is known of a sweep before it runs, and the guard rails' remarks on it for whoever starts it."""

from tune_jobs.config.sweep import Sweep
from tune_jobs.planning.guard_rails import KnownFacts, Remark, warnings
from tune_jobs.search.inputs import SweepInputs, count_evaluations
from tuning_common.errors import RequestError


def facts_of(sweep: Sweep, inputs: SweepInputs) -> KnownFacts:
    """Returns what the data files tell; nothing where one is absent or nothing is trained."""
    if inputs.sizes.absent or not inputs.trains:
        return KnownFacts()
    configs = inputs.of_phases(phase for phase in sweep.phases if phase.kind in ("wide", "narrow"))
    learned = [(config, inputs.sizes.train(config)) for config in configs]
    return KnownFacts(
        train_examples=min(dialogues for _, dialogues in learned),
        evaluations=max(count_evaluations(config, dialogues) for config, dialogues in learned),
    )


def remarks_on(sweep: Sweep, facts: KnownFacts, *, strict: bool) -> tuple[Remark, ...]:
    """Returns the guard rails' remarks.

    Raises:
        RequestError: With all of them, where `strict` refuses a sweep with any.
    """
    found = warnings(sweep, facts)
    if strict and found:
        raise RequestError(f"{sweep.source}: refused by --strict", [str(remark) for remark in found])
    return found
