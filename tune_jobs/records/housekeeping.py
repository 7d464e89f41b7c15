"""What stays on the disk of a sweep's trials: numbers of all, weights of the best, checkpoints of none that is over."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from common.files import write_json
from tune_jobs.records.ledger import ExperimentFolder
from tune_jobs.running.journal import TrialHistory
from tune_jobs.running.progress import ENDED, SweepProgress

KEPT_MODELS = 5  # of one sweep; hundreds of models fill any disk


def leave_in_order(trial: TrialHistory) -> None:
    """Removes what only a resume would need, and writes the numbers of a trial that could not do so itself."""
    if trial.checkpoint is not None:
        forget_checkpoints(trial.checkpoint)
    if "folder" not in trial.order:
        return
    folder = ExperimentFolder(Path(str(trial.order["folder"])))
    for leftover in folder.path.glob("checkpoint-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    rows = [trial.evaluations[number].metrics for number in sorted(trial.evaluations)]
    if rows and not folder.metrics.exists():
        write_json(folder.metrics, {"last": rows[-1], "history": rows})


def forget_checkpoints(checkpoint: Path) -> None:
    """Removes a checkpoint and its neighbours: all that one start of a trial left in the sweep's storage."""
    shutil.rmtree(checkpoint.parent, ignore_errors=True)  # its folder at Tune


def keep_best_models(trials: Mapping[int, TrialHistory], progress: SweepProgress) -> None:
    """Removes the weights of trials that are over and not among the best KEPT_MODELS."""
    over = [trial for trial in progress.trials.values() if trial.status in ENDED and trial.best is not None]
    sign = -1 if progress.goal == "maximize" else 1
    for trial in sorted(over, key=lambda trial: (sign * (trial.best or 0.0), trial.number))[KEPT_MODELS:]:
        folder = Path(str(trials[trial.number].order["folder"]))
        shutil.rmtree(ExperimentFolder(folder).best_model.parent, ignore_errors=True)
