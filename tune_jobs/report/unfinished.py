"""Adds running trials to a ledger: they are in the sweep's journal but not yet in the ledger."""

from dataclasses import replace

from tune_jobs.records.journal import FILE_NAME, Journal
from tune_jobs.records.ledger import Ledger, SweepFolder
from tune_jobs.records.outcomes import record_of


def with_unfinished(folder: SweepFolder, ledger: Ledger) -> Ledger:
    """Adds the trials that have started and not ended; returns the ledger unchanged if there is no journal."""
    path = folder.path / FILE_NAME
    if ledger.sweep is None or not path.exists():
        return ledger
    known = {trial.trial_id for trial in ledger.trials}
    started = [
        record_of(trial, goal=ledger.sweep.goal)
        for trial in Journal(path).trials.values()
        if trial.status is None and trial.starts and str(trial.number) not in known
    ]
    return replace(ledger, trials=(*ledger.trials, *started))
