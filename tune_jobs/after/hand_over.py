"""Copies a trained model, its card, its summaries and a submission into one self-contained folder."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from dialsum.adapters import ADAPTER_FILE
from dialsum.config import RunConfig, load_run_config
from tune_jobs.after.model_card import DataFacts, ModelCardFacts, build_card, cost_rows
from tune_jobs.analysis.experiments import Experiment, folder_of
from tune_jobs.analysis.sweep_analysis import find_cost
from tune_jobs.records.ledger import ExperimentFolder, Ledger, SweepFolder, TrialRecord
from tune_jobs.records.redaction import Redactor
from tune_jobs.records.snapshot import Snapshot, load_snapshot
from tune_jobs.report.findings import Findings
from tune_jobs.report.formatting import trials_text
from tuning_common.errors import RequestError
from tuning_common.files import write_text

CARD = "README.md"
_FILES = ("train_file", "dev_file", "test_file")
_MADE_WITH = ("torch", "transformers", "tokenizers", "kiwipiepy", "rouge-score")


@dataclass(frozen=True, kw_only=True)
class HandOver:
    """The result of a hand-over.

    Attributes:
        folder: The folder with everything.
        model: The model with its card.
        predictions: Summaries of the dev data; None if there are none.
        submission: CSV in the format of the Korean task; None if there is neither given data nor a test file.
        summaries: Number of summaries in the submission.
    """

    folder: Path
    model: Path
    predictions: Path | None
    submission: Path | None
    summaries: int


def write_card(experiment: Experiment, ledger: Ledger | None = None) -> Path:
    """Writes README.md into the folder of a model.

    Args:
        experiment: The experiment with the model.
        ledger: The ledger of its sweep, for the cost of the search.

    Raises:
        RequestError: When the experiment has no model, or no numbers.
    """
    path = ExperimentFolder(experiment.folder).best_model / CARD
    write_text(path, _card(_facts(experiment, ledger)))
    return path


def _card(facts: ModelCardFacts) -> str:
    return Redactor.of_environment(os.environ).hide(build_card(facts))


def write_winner_card(findings: Findings) -> Path | None:
    """Writes the card of a sweep's winner; returns None if there is no winner or its weights are not here."""
    winner = findings.analysis.winner
    if winner is None:
        return None
    experiment = Experiment(folder=folder_of(findings.sweep.path, winner.trial), trial=winner.trial)
    if not (ExperimentFolder(experiment.folder).best_model / "config.json").exists():
        return None
    return write_card(experiment, findings.analysis.ledger)


def hand_over(
    experiment: Experiment, output: Path, data: Path | None, cache_dir: Path, *, merge: bool = False
) -> HandOver:
    """Copies a model with its card and its summaries into one folder.

    Args:
        experiment: The experiment with the model.
        output: A new folder.
        data: Dialogues to summarize for the submission; None uses the run's own test file.
        cache_dir: The folder of cached encodings.
        merge: Whether an adapter is merged into its base, so that the model needs no other.

    Raises:
        RequestError: When the experiment has no model (to merge: no adapter), the data cannot be read, or the output
            folder is not empty.
    """
    folder = ExperimentFolder(experiment.folder)
    if output.exists() and any(output.iterdir()):
        raise RequestError(f"{output} is not empty; give another --output")
    facts = _facts(*_with_ledger(experiment))
    if merge and not facts.adapter:
        raise RequestError(f"--merge: {folder.path} has no adapter; all weights of its model were trained")
    written = _summaries(folder, data, cache_dir)
    model = output / "model"
    if merge:
        from dialsum.finished import save_merged

        save_merged(folder.path, model, cache_dir)
    else:
        shutil.copytree(folder.best_model, model)
        if (model / ADAPTER_FILE).exists():
            (model / "config.json").unlink()  # with it, transformers would expect the base's weights here
    for path in (output / CARD, model / CARD):
        write_text(path, _card(replace(facts, adapter=facts.adapter and not merge)))
    shutil.copyfile(folder.config, output / folder.config.name)
    predictions = output / "predictions.jsonl"
    if folder.predictions.exists():
        shutil.copyfile(folder.predictions, predictions)
    submission = output / "submission.csv"
    if written is not None:
        from dialsum.finished import submission as submission_csv

        write_text(submission, submission_csv(*written))
    return HandOver(
        folder=output,
        model=model,
        predictions=predictions if predictions.exists() else None,
        submission=submission if written is not None else None,
        summaries=len(written[0]) if written is not None else 0,
    )


def _summaries(folder: ExperimentFolder, data: Path | None, cache_dir: Path) -> tuple[list[str], list[str]] | None:
    """Returns names and summaries of the given data, else the run's own summaries of its test data."""
    if data is not None:
        from dialsum.data import load_examples

        config = load_run_config(folder.config)
        examples = load_examples(data, require_summary=False, columns=config.columns)
        from dialsum.finished import load_finished, predict

        texts = predict(load_finished(folder.path, cache_dir), examples)
        return [example.fname for example in examples], texts
    from tuning_common.files import read_jsonl

    rows = read_jsonl(folder.path / "test_predictions.jsonl")[0]
    if not rows:
        return None
    return [str(row["fname"]) for row in rows], [str(row["prediction"]) for row in rows]


def _with_ledger(experiment: Experiment) -> tuple[Experiment, Ledger | None]:
    """Finds an experiment's sweep and its record there; a single run has neither."""
    snapshot = load_snapshot(ExperimentFolder(experiment.folder).snapshot)
    sweep = experiment.trial.sweep if experiment.trial is not None else snapshot.sweep if snapshot is not None else ""
    folder = SweepFolder.of(experiment.folder.resolve().parent.parent, sweep)
    if not sweep or not folder.ledger.exists():
        return experiment, None
    ledger = folder.load()
    trial = next((one for one in ledger.trials if one.name == experiment.name), experiment.trial)
    return replace(experiment, trial=trial), ledger


def _facts(experiment: Experiment, ledger: Ledger | None) -> ModelCardFacts:
    from dialsum.models import resolve

    folder = ExperimentFolder(experiment.folder)
    if not (folder.best_model / "config.json").exists():
        if not folder.config.exists():
            raise RequestError(f"{folder.path} does not exist; check the path")
        raise RequestError(
            f"{folder.path}: no model in it; of a sweep only the best ones keep their weights",
            [f"train it again: python -m dialsum train --config {folder.config} --output outputs/again"],
        )
    config = load_run_config(folder.config)
    metrics = _metrics(folder.metrics)
    spec = resolve(str(folder.best_model))
    snapshot = load_snapshot(folder.snapshot)
    trial = experiment.trial
    return ModelCardFacts(
        name=experiment.name,
        config=config,
        kind=spec.kind,
        begins=spec.architecture == "bart",
        prompt=_prompt(config, folder.best_model) if spec.kind == "causal" else ("", ""),
        adapter=(folder.best_model / ADAPTER_FILE).exists(),
        dev=_numbers(metrics.get("best"), "best/"),
        test=_numbers(metrics.get("test"), "test/"),
        scorer=cast("Mapping[str, str] | None", metrics.get("scorer")),
        data={name: _data(config, name, snapshot) for name in _FILES if getattr(config, name)},
        cost=_cost(trial, ledger) if trial is not None else (),
        versions=_versions(snapshot),
        simulated=trial is not None and trial.simulated,
    )


def _prompt(config: RunConfig, model: Path) -> tuple[str, str]:
    """Returns the text around a dialogue; a chat template lies beside the model."""
    from dialsum.prompts import prompt_around
    from dialsum.tokenizers import build_tokenizer

    return prompt_around(config, build_tokenizer(config.with_changes({"model": str(model)}), [], model))


def _metrics(path: Path) -> Mapping[str, object]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"{path}: cannot be read: {type(error).__name__}: {error}") from None
    return cast("Mapping[str, object]", content) if isinstance(content, dict) else {}


def _numbers(values: object, prefix: str) -> dict[str, float]:
    if not isinstance(values, dict):
        return {}
    return {str(name).removeprefix(prefix): float(value) for name, value in values.items()}


def _data(config: RunConfig, name: str, snapshot: Snapshot | None) -> DataFacts:
    """Describes a data file; counts its dialogues only if it has not changed since the training."""
    from dialsum.data import load_examples
    from tune_jobs.records.snapshot import file_state

    path = Path(str(getattr(config, name)))
    kept = snapshot.data.get(name) if snapshot is not None else None
    here = file_state(path) if path.exists() else None
    sha256 = kept.sha256 if kept is not None else here.sha256 if here is not None else ""
    dialogues = None
    if here is not None and here.sha256 == sha256:
        dialogues = len(load_examples(path, require_summary=False, columns=config.columns))
    used = {"train_file": config.max_train_samples, "dev_file": config.max_eval_samples}.get(name)
    return DataFacts(name=path.name, dialogues=dialogues, sha256=sha256, used=used)


def _versions(snapshot: Snapshot | None) -> dict[str, str]:
    packages = snapshot.surroundings.packages if snapshot is not None else {}
    return {name: packages[name] for name in _MADE_WITH if name in packages}


def _cost(trial: TrialRecord, ledger: Ledger | None) -> list[tuple[str, str]]:
    search = ""
    if ledger is not None:
        whole = find_cost(ledger.trials)
        hours = f"{sum(whole.gpu_s.values()) / 3600:.3g} GPU-hours" if whole.on_gpus else ""
        spent = hours or f"{sum(whole.trial_s.values()) / 3600:.3g} hours of training"
        search = f"{trials_text(len(ledger.trials))}, {spent}"
    return cost_rows(
        wall_s=trial.wall_s,
        gpu_s=trial.gpu_seconds,
        gpu_model=trial.gpu_model,
        share=trial.share,
        peak_bytes=(trial.measured or {}).get("device_bytes"),
        search=search,
    )
