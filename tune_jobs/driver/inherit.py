"""Carries out an exploit of a population: copies the donor's checkpoint and changes the trial's specification."""

import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from tune_jobs.config.rules import ResolvedTrial
from tune_jobs.config.space import as_written
from tune_jobs.driver.specs import FILE_FIELDS
from tune_jobs.records.journal import TrialHistory
from tune_jobs.records.trial_spec import TrialSpec
from tune_jobs.records.trial_state import HISTORY_FILE, INHERITED_FILE, drop_checksums, evaluations_of
from tune_jobs.search.early_stopping import Exploit
from tune_jobs.search.samplers import Sampled
from tuning_common.bounds import remove_folder
from tuning_common.errors import RequestError
from tuning_common.files import write_json

FOLDER = "population"  # of a sweep: checkpoints on their way from one trial to another

Inherit = Callable[[TrialHistory, TrialHistory, Exploit], Mapping[str, object] | None]
"""Called with trial, donor and exploit; returns the journal's "copied" event, None where it cannot be carried out."""


def inherit_into(folder: Path, resolve: Callable[[Sampled], ResolvedTrial]) -> Inherit:
    """Returns the function that carries out exploits of one sweep.

    Weights are copied at once, by links where the storage has them: Tune keeps a trial's last two checkpoints only,
    and the donor's would often be gone when the other trial starts.

    Args:
        folder: The sweep's results, in storage that all nodes see.
        resolve: Applies the sweep's rules to sampled values.
    """

    def carry_out(trial: TrialHistory, donor: TrialHistory, exploit: Exploit) -> Mapping[str, object] | None:
        try:
            resolved = resolve(exploit.sampled)
        except RequestError:  # a value without bounds went too far: the trial continues as it is
            return None
        evaluation = trial.last_evaluation
        target = folder / FOLDER / f"{trial.number}_{evaluation}" / "checkpoint"
        if not _copied(donor.checkpoint, target, folder):
            return None
        made = evaluations_of(target) or exploit.donor_evaluation
        write_json(target / INHERITED_FILE, {"donor": donor.number, "evaluation": made})
        with suppress(OSError, ValueError):  # damaged: the trial finds it
            drop_checksums(target, [HISTORY_FILE])
        own = trial.checkpoint / HISTORY_FILE if trial.checkpoint else None
        if own is not None and own.exists():
            shutil.copyfile(own, target / HISTORY_FILE)
        return {
            "donor": donor.number,
            "evaluation": evaluation,
            "donor_evaluation": made,
            "changes": list(exploit.changes),
            "before": trial.spec["sampled"],
            "spec": _changed(trial, resolved).to_dict(),
            "folder": str(target),
        }

    return carry_out


def _changed(trial: TrialHistory, resolved: ResolvedTrial) -> TrialSpec:
    spec = TrialSpec.from_dict(trial.spec)
    kept = {name: spec.config[name] for name in FILE_FIELDS}
    sampled = {name: as_written(value) for name, value in resolved.sampled.items()}
    return replace(spec, sampled=sampled, config=resolved.resolved.to_dict() | kept, notes=list(resolved.notes))


def _copied(checkpoint: Path | None, target: Path, sweep_folder: Path) -> bool:
    remove_folder(target.parent, sweep_folder)  # of a driver that died before it wrote the copy down
    if checkpoint is None:
        return False
    ignored = shutil.ignore_patterns(HISTORY_FILE, INHERITED_FILE)
    try:
        shutil.copytree(checkpoint, target, copy_function=_link, ignore=ignored)
    except (OSError, shutil.Error):  # Tune has just replaced it
        remove_folder(target.parent, sweep_folder)
        return False
    return True


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)
