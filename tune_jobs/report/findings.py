"""Reads a sweep's folder and computes everything that its reports show."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from tune_jobs.analysis.experiments import folder_of
from tune_jobs.analysis.importance import Importances, find_importances
from tune_jobs.analysis.sweep_analysis import Analysis, analyse
from tune_jobs.analysis.winner_summaries import WinnerSummaries, read_winner_summaries
from tune_jobs.config.language import tr
from tune_jobs.records.journal import FILE_NAME, Journal
from tune_jobs.records.ledger import ExperimentFolder, Ledger, SweepFolder, TrialRecord
from tune_jobs.records.outcomes import record_of
from tune_jobs.records.snapshot import Snapshot, load_snapshot
from tune_jobs.records.sweep_lock import is_held
from tune_jobs.report.advice import Advice, advise
from tune_jobs.report.summary import wandb_page
from tuning_common.errors import RequestError


@dataclass(frozen=True, kw_only=True)
class Findings:
    """The content of a sweep's reports.

    Attributes:
        sweep: The sweep's folder.
        analysis: The analysis of its ledger.
        importances: The importances of its parameters.
        summaries: The winner's summaries, and their comparison with the second's.
        advice: Recommended actions.
        snapshot: The winner's; None where it has none that can be read.
    """

    sweep: SweepFolder
    analysis: Analysis
    importances: Importances
    summaries: WinnerSummaries
    advice: tuple[Advice, ...]
    snapshot: Snapshot | None = None


def find_findings(folder: Path, *, is_running: bool | None = None) -> Findings:
    """Reads the folder of a sweep, which may still run.

    Args:
        folder: outputs/sweep_results/<sweep>.
        is_running: Whether a driver runs the sweep; None checks the lock of the folder.

    Raises:
        RequestError: When the folder has no ledger, or one that cannot be read.
    """
    sweep = SweepFolder(folder)
    if not sweep.ledger.exists():
        raise RequestError(_no_sweep(folder))
    ledger = with_unfinished(sweep, sweep.load())
    of_winner = read_winner_summaries(analyse(ledger))
    ledger = _with_baseline(ledger, of_winner)
    analysis = analyse(
        ledger,
        dialogues=of_winner.dialogues,
        paired=of_winner.against_second,
        is_running=is_held(folder) if is_running is None else is_running,
    )
    # Repetitions of the best configurations explore nothing and would bias the importances.
    searched = [one for one in analysis.scored if one.trial.phase != "confirm"] or list(analysis.scored)
    importances = find_importances(searched, analysis.parameters, maximize=analysis.maximize)
    trial = analysis.winner.trial if analysis.winner else None
    winner_folder = (trial.trained or trial.experiment_dir) if trial else ""
    winner_path = _display_path(Path(winner_folder)) if winner_folder else ""
    return Findings(
        sweep=sweep,
        analysis=analysis,
        importances=importances,
        summaries=of_winner,
        advice=advise(analysis, importances, _display_path(folder), winner_path),
        snapshot=_snapshot(sweep, trial),
    )


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


def _snapshot(sweep: SweepFolder, trial: TrialRecord | None) -> Snapshot | None:
    try:
        return load_snapshot(ExperimentFolder(folder_of(sweep.path, trial)).snapshot) if trial is not None else None
    except RequestError:  # a damaged snapshot costs a row of the report, not the report
        return None


def _no_sweep(folder: Path) -> str:
    """Returns the message for a folder that is not a sweep's, with sweep folders nearby."""
    name = SweepFolder(folder).ledger.name
    problem = f"{folder}: no {name} in it" if folder.is_dir() else f"{folder} does not exist"
    parents = (folder, folder / "sweep_results", folder.parent)
    near = next((found for parent in parents if (found := sorted(parent.glob(f"*/{name}")))), [])
    if not near:
        return f"{problem}; give the folder of a sweep, outputs/sweep_results/NAME"
    shown = ", ".join(str(ledger.parent) for ledger in near[:5])
    more = f" and {len(near) - 5} more" if len(near) > 5 else ""
    return f"{problem}; give the folder of a sweep: {shown}{more}"


def find_links(sweep: SweepFolder, analysis: Analysis) -> list[tuple[str, str]]:
    """Returns the existing files of a sweep as (name, address relative to the sweep's folder)."""
    named = [
        (tr("Report"), sweep.report_html),
        (tr("Report as text"), sweep.report_markdown),
        (tr("Charts"), sweep.report_picture),
        (tr("Best configuration"), sweep.best_config),
        (tr("Sweep file"), sweep.sweep_file),
        (tr("Ledger"), sweep.ledger),
        (tr("Proposal for the next sweep"), sweep.next_sweep),
        (tr("Code and command"), sweep.snapshot),
        (tr("W&B runs that are kept here"), sweep.path / "wandb"),
    ]
    if analysis.winner is not None:
        winner = ExperimentFolder(folder_of(sweep.path, analysis.winner.trial))
        named += [(tr("Winner's model"), winner.best_model), (tr("Winner's summaries"), winner.predictions)]
        named.append((tr("Winner's snapshot"), winner.snapshot))
    base = sweep.path.resolve()
    page = [(tr("W&B report"), wandb_page(analysis))] if wandb_page(analysis) else []
    return [*page, *((name, _address(path.resolve(), base)) for name, path in named if path.exists())]


def _with_baseline(ledger: Ledger, of_winner: WinnerSummaries) -> Ledger:
    """Adds the lead-3 baseline (the first three utterances of each dialogue) to a sweep that names no baseline."""
    sweep = ledger.sweep
    if sweep is None or sweep.baseline is not None or of_winner.lead_score is None:
        return ledger
    return replace(ledger, sweep=replace(sweep, baseline={"lead-3": of_winner.lead_score}))


def _address(path: Path, base: Path) -> str:
    return quote(os.path.relpath(path, base).replace(os.sep, "/"))


def _display_path(path: Path) -> str:
    """Returns a path relative to the working folder if it lies inside."""
    inside = path.resolve().is_relative_to(Path.cwd())
    return (path.resolve().relative_to(Path.cwd()) if inside else path).as_posix()
