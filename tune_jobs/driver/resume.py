"""What a driver checks and adapts before it continues where an earlier one ended."""

from collections.abc import Callable

from tune_jobs.driver.recovery import LOST
from tune_jobs.driver.specs import SweepSpecs
from tune_jobs.records.journal import FILE_NAME, Journal
from tune_jobs.records.ledger import SweepFolder
from tune_jobs.search.samplers import Sampler
from tuning_common.errors import RequestError
from tuning_common.units import counted


def check_paths(folder: SweepFolder) -> None:
    """Refuses a journal that names paths outside of its folder: a driver removes and writes there.

    Raises:
        RequestError: With every such line.
    """
    path = folder.path / FILE_NAME
    foreign = Journal(path).foreign
    if foreign:
        raise RequestError(
            f"{path}: some lines name paths outside of the results, which are not followed; remove these lines, or run"
            " the sweep with --restart",
            [f"line {line}: {text}" for line, text in foreign.items()],
        )


def adopt(journal: Journal, sampler: Sampler, specs: SweepSpecs, notify: Callable[[str], None]) -> None:
    """Gives the trials that can be continued the folders and files of this driver; names what is of no use.

    The results may have been moved or copied, and a submitted sweep's files lie elsewhere each time.

    Args:
        journal: Of the earlier drivers.
        sampler: Knows the numbers of this sweep's trials.
        specs: Makes specifications.
        notify: Shows a line.
    """
    if journal.torn:
        lines = "; ".join(f"line {line} {text}" for line, text in sorted(journal.torn.items())[:3])
        notify(f"{counted(len(journal.torn), 'line')} of {FILE_NAME} could not be used: {lines}")
    numbers = set(sampler.order)
    for number, trial in list(journal.trials.items()):
        if number not in numbers:
            journal.drop(number)
            notify(f"trial {number} of {FILE_NAME} is none of this sweep")
        elif (trial.status is None or trial.failure in LOST) and "config" in trial.spec:
            try:
                trial.spec = specs.here(trial.spec)
            except RequestError as error:
                journal.drop(number)
                notify(f"trial {number} of {FILE_NAME} cannot be continued and starts anew: {error}")
