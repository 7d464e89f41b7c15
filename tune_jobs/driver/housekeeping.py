"""What stays on the disk of a sweep's trials: numbers of all, weights of the best, checkpoints of none that is over."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from tune_jobs.analysis.candidates import Scored, group_seeds, without_seed
from tune_jobs.driver.recovery import LOST
from tune_jobs.records.journal import TrialHistory
from tune_jobs.records.journal_events import is_checkpoint
from tune_jobs.records.ledger import ExperimentFolder, SweepFolder, TrialRecord
from tune_jobs.records.progress import ENDED, SweepProgress
from tuning_common.bounds import lies_inside, remove_folder
from tuning_common.files import write_json

KEPT_MODELS = 5  # of one sweep; hundreds of models fill any disk


def leave_in_order(trial: TrialHistory, sweep: SweepFolder) -> None:
    """Removes what only a resume would need, and writes the numbers of a trial that could not do so itself.

    The checkpoints of a trial that failed without a fault of its configuration stay: it can be continued.
    """
    if trial.failure != "error" and trial.failure not in LOST:
        for checkpoints in trial.checkpoint_folders:
            forget_checkpoints(checkpoints, sweep)
    if "folder" not in trial.spec:
        return
    folder = ExperimentFolder(Path(str(trial.spec["folder"])))
    for leftover in folder.path.glob("checkpoint-*"):
        remove_folder(leftover, sweep.output)
    rows = [trial.evaluations[number].metrics for number in sorted(trial.evaluations)]
    if rows and not folder.metrics.exists() and lies_inside(folder.metrics, sweep.output):
        write_json(folder.metrics, {"last": rows[-1], "history": rows})


def forget_checkpoints(folder: Path, sweep: SweepFolder) -> None:
    """Removes the folder of one attempt's checkpoints in the sweep's storage."""
    if is_checkpoint(folder / "checkpoint", sweep.path):
        remove_folder(folder, sweep.path)


def keep_best_models(
    trials: Mapping[int, TrialHistory],
    progress: SweepProgress,
    output: Path,
    to_come: Sequence[Mapping[str, object]] | None,
    light: set[tuple[int, int]],
) -> None:
    """Removes the weights of trials that are over and cannot be the winner any more.

    As the report finds it (candidates.group_seeds), the winner is the best trial of the configuration with the best
    mean over its seeds. So a configuration is judged when its last seed is over: from then on its mean stands, and with
    KEPT_MODELS better ones it can never win. Until then its best trial keeps its weights.

    Args:
        trials: All so far.
        progress: Of the sweep.
        output: The output folder; nothing outside is removed.
        to_come: What will be sampled for the trials that were not tried yet; None where results decide.
        light: Trials without weights, with their attempts, which are left alone; those of this call are added.
    """
    over = [trial for trial in progress.trials.values() if trial.status in ENDED and trial.best is not None]
    scored = [
        Scored(trial=_as_record(trials[trial.number]), score=trial.best) for trial in over if trial.best is not None
    ]
    all_known = len(trials) >= progress.frame.total
    grows = {without_seed(_sampled(trial)) for trial in trials.values() if trial.status is None}
    grows |= {without_seed(sampled) for sampled in to_come or ()}
    kept: set[str] = set()
    judged = 0
    for candidate in group_seeds(scored, progress.frame.goal):
        sampled = candidate.best.trial.sampled
        # Another seed of it may still be drawn; without seeds the same values come twice only by chance.
        unknown = to_come is None and "seed" in sampled and not all_known
        if not unknown and without_seed(sampled) not in grows:
            judged += 1
            if judged > KEPT_MODELS:
                continue
        kept.add(candidate.best.trial.trial_id)
    for trial in (trials[one.number] for one in over):
        if str(trial.number) not in kept and (trial.number, trial.starts) not in light:
            remove_folder(ExperimentFolder(Path(str(trial.spec["folder"]))).best_model.parent, output)
            light.add((trial.number, trial.starts))


def _as_record(trial: TrialHistory) -> TrialRecord:
    """So much of a trial's line in the ledger as shows which configuration it belongs to."""
    return TrialRecord(
        trial_id=str(trial.number),
        name=str(trial.spec["name"]),
        sweep="",
        status="finished" if trial.status == "finished" else "stopped",
        sampled=dict(_sampled(trial)),
        lineage=list(trial.copies),
    )


def _sampled(trial: TrialHistory) -> Mapping[str, object]:
    return cast("Mapping[str, object]", trial.spec.get("sampled", {}))
