"""Sweeps of generation settings: the trained model that all trials share, and what its trials need."""

import dataclasses
from pathlib import Path

from dialsum.config import RunConfig, load_run_config
from tune_jobs.analysis.sweep_analysis import analyse
from tune_jobs.config.sweep import Sweep
from tune_jobs.records.ledger import ExperimentFolder, SweepFolder
from tuning_common.errors import RequestError


def trained_experiment(path: Path) -> ExperimentFolder:
    """Finds the experiment that `trained_model` names.

    Args:
        path: An experiment folder, or the folder of a finished sweep, whose winner is taken.

    Raises:
        RequestError: When there is no trained model.
    """
    if (path / "models").is_dir():
        return _with_model(ExperimentFolder(path), str(path))
    sweep = SweepFolder(path)
    if not sweep.ledger.exists():
        raise RequestError(
            f"trained_model {path}: neither a finished sweep (no {sweep.ledger.name}) nor an experiment (no models/); "
            "run its sweep first, or give outputs/sweep_results/NAME or outputs/experiments/NAME"
        )
    winner = analyse(sweep.load()).winner
    if winner is None:
        raise RequestError(f"trained_model {path}: no trial of this sweep has a score")
    folder = Path(winner.trial.trained or winner.trial.experiment_dir)
    return _with_model(ExperimentFolder(folder), f"{path}: its winner {winner.trial.name}")


def _with_model(experiment: ExperimentFolder, what: str) -> ExperimentFolder:
    missing = [file for file in (experiment.config, experiment.best_model / "config.json") if not file.exists()]
    if missing:
        raise RequestError(f"trained_model {what} has no trained model: {missing[0]} is not there")
    return experiment


def with_trained_base(sweep: Sweep) -> Sweep:
    """Returns the sweep over the trained model's own configuration: same dialogues, lengths, language and scores.

    Raises:
        RequestError: When there is no trained model.
    """
    assert sweep.trained_model is not None
    experiment = trained_experiment(Path(sweep.trained_model))
    config = load_run_config(experiment.config)
    # One process summarizes, with all of the model, also where several trained it.
    base = config.with_changes({"model": str(experiment.best_model.resolve()), "fsdp": False})
    return dataclasses.replace(sweep, base=base, trained_model=str(experiment.path.resolve()))


def as_placed(sweep: Sweep, config: RunConfig) -> RunConfig:
    """Returns the configuration whose memory a trial needs: one that only generates holds no optimizer and no batch.

    >>> from tune_jobs.config.space import Space
    >>> sweep = Sweep(name="a", source="", method="grid", space=Space())
    >>> as_placed(sweep, RunConfig(batch_size=32)).batch_size
    32
    >>> as_placed(dataclasses.replace(sweep, trained_model="x"), RunConfig(batch_size=32)).batch_size
    1
    """
    if sweep.trained_model is None:
        return config
    return config.with_changes(
        {"optimizer": "sgd", "batch_size": 1, "gradient_accumulation_steps": 1, "gradient_checkpointing": False}
    )
