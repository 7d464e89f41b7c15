"""What is known of a sweep before it runs, and the guard rails' remarks on it for whoever starts it."""

from pathlib import Path

from common.errors import RequestError
from tune_jobs.config.sweep import Sweep
from tune_jobs.planning.guard_rails import KnownFacts, Remark, warnings
from tune_jobs.search.inputs import evaluations_of, known_configs


def facts_of_data(sweep: Sweep) -> KnownFacts:
    """Reads what the data files tell; where one is absent, or a trial is no valid run, nothing is known.

    Checking files and trials is not this function's part: whoever runs the sweep says what is wrong with them.
    """
    from dialsum.data import load_examples

    parts = [phase.sweep for phase in sweep.phases if phase.kind in ("wide", "narrow")] or [sweep]
    try:
        configs = [config for part in parts for config in known_configs(part)]
        sizes = {path: len(load_examples(Path(path))) for path in sorted({config.train_file for config in configs})}
    except RequestError:
        return KnownFacts()
    learned = [min(sizes[config.train_file], config.max_train_samples or 10**12) for config in configs]
    evaluations = [evaluations_of(config, sizes[config.train_file]) for config in configs]
    return KnownFacts(train_examples=min(learned), evaluations=max(evaluations))


def remarks_on(sweep: Sweep, facts: KnownFacts, *, strict: bool) -> tuple[Remark, ...]:
    """Returns the guard rails' remarks.

    Raises:
        RequestError: With all of them, where `strict` refuses a sweep with any.
    """
    found = warnings(sweep, facts)
    if strict and found:
        raise RequestError(f"{sweep.source}: refused by --strict", [str(remark) for remark in found])
    return found
