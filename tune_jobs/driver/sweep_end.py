"""The end of a sweep: its winner, the files that a person reads first, and the next sweep that follows from it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tune_jobs.records.ledger import SweepFolder, TrialRecord
from tune_jobs.records.progress import SweepProgress
from tuning_common.cli import note

if TYPE_CHECKING:
    from tune_jobs.analysis.sweep_analysis import Analysis


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a sweep, plain or staged, ended with.

    Attributes:
        folder: Its results.
        metric: That ranks its trials.
        best: The trial that won; None where no trial has a score.
        score: Its score, of a staged sweep the mean over its seeds; None without one.
        interrupted: Whether it was stopped before the end, so that --resume continues.
        simulated: Whether its cards were simulated.
    """

    folder: SweepFolder
    metric: str
    best: TrialRecord | None
    score: float | None
    interrupted: bool
    simulated: bool


@dataclass(frozen=True, kw_only=True)
class SweepOutcome(Outcome):
    """What a plain sweep ended with.

    Attributes:
        progress: All trials.
        analysis: What the reports show; None where they could not be built.
        hurried: Whether a job server or a batch system waits for the process to end, so that no report was built.
    """

    progress: SweepProgress
    analysis: "Analysis | None" = None
    hurried: bool = False


def outcome_of(folder: SweepFolder, progress: SweepProgress, *, is_over: bool, hurried: bool) -> SweepOutcome:
    """Finds the winner and builds the reports.

    Args:
        folder: The sweep's results.
        progress: At its end.
        is_over: Whether every trial has ended.
        hurried: Whether a job server or a batch system waits for the process to end: then no report is built.
    """
    winner = progress.best()
    records = {record.trial_id: record for record in folder.load().trials}
    best = records.get(str(winner.number)) if winner else None
    if best is not None:
        folder.write_best_config(best)
    if best is not None and is_over:
        _leave_next_sweep(folder)
    analysis = reported(folder) if records and not hurried else None
    if analysis is not None and analysis.winner is not None:
        if best is None or best.trial_id != analysis.winner.trial.trial_id:  # for example the best mean over seeds
            folder.write_best_config(analysis.winner.trial)
        best = analysis.winner.trial
    return SweepOutcome(
        folder=folder,
        metric=progress.frame.metric,
        best=best,
        score=None if best is None else best.best_metrics.get(progress.frame.metric),
        interrupted=not is_over,
        simulated=progress.frame.simulated,
        progress=progress,
        analysis=analysis,
        hurried=hurried,
    )


def _leave_next_sweep(folder: SweepFolder) -> None:
    from tune_jobs.search.next_sweep import leave_next_sweep

    try:
        leave_next_sweep(folder)
    except Exception as error:  # as for the report
        note(f"no next sweep was proposed ({type(error).__name__}: {error})")


def reported(folder: SweepFolder) -> "Analysis | None":
    """Builds the reports; their winner counts several seeds of one configuration together."""
    try:
        from tune_jobs.after.hand_over import write_winner_card
        from tune_jobs.report.build import build_report
        from tune_jobs.report.findings import find_findings
        from tune_jobs.report.review import write_review
        from tune_jobs.tracking.mirroring import keep_report_address

        keep_report_address(folder)
        findings = find_findings(folder.path, is_running=False)
        report = build_report(folder.path, findings)
        if write_review(findings) is None:
            note(f"{folder.review} was edited and stays as it is; python -m tune_jobs review writes it anew")
        write_winner_card(findings)
    except Exception as error:  # hours of training are worth more than their picture
        note(f"the report failed ({type(error).__name__}: {error}); try: python -m tune_jobs report {folder.path}")
        return None
    for remark in report.remarks:
        note(remark)
    return report.analysis
