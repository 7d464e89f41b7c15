"""Frees disk space: checkpoints of ended trials, weights beyond each sweep's best models, weights of repetitions, old
caches.

`plan_cleaning` decides and `remove` removes only what was decided. Three things are never removed: a sweep's winner,
files of a sweep that runs or can be resumed, and files outside of the two named folders, also behind a link.
"""

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tune_jobs.after.reproduction import REPETITIONS, RESULT_FILE
from tune_jobs.analysis.candidates import score_of
from tune_jobs.analysis.experiments import folder_of
from tune_jobs.analysis.sweep_analysis import analyse
from tune_jobs.records.ledger import ExperimentFolder, Ledger, SweepFolder, TrialRecord
from tune_jobs.records.sweep_lock import is_held
from tuning_common.bounds import lies_inside
from tuning_common.errors import RequestError
from tuning_common.goal import best_first

Kind = Literal["checkpoints", "weights", "repetitions", "cache"]
KINDS: tuple[Kind, ...] = ("checkpoints", "weights", "repetitions", "cache")
_CACHES = ("encodings", "tokenizers")  # content-addressed caches of dialsum, which it rebuilds


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """A file or folder that may be removed.

    Attributes:
        path: A folder or a file.
        kind: The kind of leftover.
        size_bytes: Total size.
    """

    path: Path
    kind: Kind
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class CleanPlan:
    """What would be removed, and what unexpectedly stays.

    Attributes:
        leftovers: Sorted by kind.
        kept: One sentence for each thing that stays.
    """

    leftovers: tuple[Leftover, ...]
    kept: tuple[str, ...]


def plan_cleaning(output: Path, cache: Path, *, keep: int, cache_days: float, now: float) -> CleanPlan:
    """Decides what may be removed; removes nothing.

    Args:
        output: The folder with sweep_results/, experiments/ and perhaps reproductions/.
        cache: The folder of encodings and tokenizers.
        keep: Number of models that each sweep keeps, the best first; at least 1. The winner is kept in addition.
        cache_days: Cache entries older than this may be removed.
        now: Unix seconds.

    Raises:
        RequestError: When the folder holds no sweep, or fewer than one model should be kept.
    """
    if keep < 1:
        raise RequestError(f"--keep must be at least 1, but is {keep}: the best model is never removed")
    sweeps = sorted(path.parent for path in (output / "sweep_results").glob("*/all_results.jsonl"))
    if not sweeps:
        raise RequestError(f"{output} holds no sweep_results/*/all_results.jsonl; give the output folder of sweeps")
    kept: list[str] = []
    ledgers: dict[Path, Ledger] = {}
    for sweep in sweeps:
        try:
            ledgers[sweep] = SweepFolder(sweep).load()
        except OSError as error:  # the owners of the experiments are unknown
            raise RequestError(f"{sweep}: its ledger cannot be read, so nothing is removed", [str(error)]) from None
    guarded = {path.resolve() for sweep, ledger in ledgers.items() for path in _best_folders(sweep, ledger, keep)}
    guarded |= {Path(model).resolve().parent.parent for model in _started_from(ledgers.values())}
    found: list[Leftover] = []
    for sweep, ledger in ledgers.items():
        reason = _why_untouched(sweep, ledger)
        if reason:
            kept.append(f"{sweep.name} {reason}, so nothing of it is removed")
            guarded |= {folder_of(sweep, trial).resolve() for trial in ledger.trials}
    for sweep, ledger in ledgers.items():
        if _why_untouched(sweep, ledger):
            continue
        found += _leftover([sweep / "tune"], "checkpoints", output, kept)
        for trial in ledger.trials:
            folder = ExperimentFolder(folder_of(sweep, trial))
            if trial.status == "running" or _is_guarded_run(folder.path, ledgers):
                continue
            found += _leftover(sorted(folder.path.glob("checkpoint-*")), "checkpoints", output, kept)
            if folder.path.resolve() not in guarded:
                found += _leftover([folder.best_model], "weights", output, kept)
    for repetition in sorted((output / REPETITIONS).glob("*/")):
        found += _leftover(_of_repetition(repetition, guarded, kept), "repetitions", output, kept)
    if not any(is_held(sweep) for sweep in sweeps):
        old = [
            entry
            for name in _CACHES
            for entry in (sorted((cache / name).iterdir()) if (cache / name).is_dir() else [])
            if now - entry.lstat().st_mtime > cache_days * 86400
        ]
        found += _leftover(old, "cache", cache, kept)
    unique = {leftover.path.resolve(): leftover for leftover in found}
    return CleanPlan(
        leftovers=tuple(sorted(unique.values(), key=lambda one: (KINDS.index(one.kind), str(one.path)))),
        kept=tuple(dict.fromkeys(kept)),
    )


def remove(leftovers: Sequence[Leftover]) -> list[str]:
    """Removes leftovers; returns a sentence for each one that could not be removed."""
    failed = []
    for leftover in leftovers:
        try:
            if leftover.path.is_dir() and not leftover.path.is_symlink():
                shutil.rmtree(leftover.path)  # rmtree follows no links, not even new ones
            else:
                leftover.path.unlink()
        except OSError as error:
            failed.append(f"{leftover.path} could not be removed: {error.strerror or error}")
    return failed


def _leftover(paths: Iterable[Path], kind: Kind, root: Path, kept: list[str]) -> list[Leftover]:
    found = []
    for path in paths:
        if not path.exists() and not path.is_symlink():
            continue
        if lies_inside(path, root):
            found.append(Leftover(path=path, kind=kind, size_bytes=_size(path)))
        else:
            kept.append(f"{path} is or lies behind a link, or outside of {root}: left alone")
    return found


def _of_repetition(folder: Path, guarded: "set[Path]", kept: list[str]) -> list[Path]:
    """Returns what may be removed of a repetition: its weights, and leftovers of a killed run.

    Its numbers, summaries and result stay. Its weights also stay if they are the only copy: the experiment is one of
    the best or unknown, and its own weights are gone.
    """
    result = folder / RESULT_FILE
    if not result.exists():
        kept.append(f"{folder} has no {result.name}: it runs, or was ended by force; it is left alone")
        return []
    found = [*sorted(folder.glob("checkpoint-*")), folder / "cache"]
    try:
        original = Path(json.loads(result.read_text(encoding="utf-8"))["experiment"])
    except (OSError, ValueError, KeyError, TypeError):
        kept.append(f"{result} cannot be read, so the weights beside it stay")
        return found
    if folder.resolve() in guarded:  # another trial started from them
        return found
    here = next((one for one in (original, folder.parents[1] / "experiments" / original.name) if one.exists()), None)
    is_judged = here is not None and here.resolve() not in guarded
    if is_judged or (here is not None and any(ExperimentFolder(here).best_model.glob("*.safetensors"))):
        return [*found, ExperimentFolder(folder).best_model]
    if any(ExperimentFolder(folder).best_model.glob("*.safetensors")):
        kept.append(f"{folder} holds the only weights of {original.name}, which stay")
    return found


def _best_folders(sweep: Path, ledger: Ledger, keep: int) -> list[Path]:
    """Returns the folders of the winner and of the best single trials."""
    analysis = analyse(ledger)
    metric, goal = analysis.sweep.metric, analysis.sweep.goal
    pairs = [(score_of(trial, metric, goal), trial) for trial in ledger.trials]
    ranked = best_first([pair for pair in pairs if pair[0] is not None], lambda pair: pair[0], goal)
    best: list[TrialRecord] = [trial for _, trial in ranked[:keep]]
    if analysis.winner is not None:
        best.append(analysis.winner.trial)
    return [folder_of(sweep, trial) for trial in best]


def _started_from(ledgers: Iterable[Ledger]) -> list[str]:
    """Returns the local models that trials started from."""
    models = {str(trial.resolved.get("model") or "") for ledger in ledgers for trial in ledger.trials}
    return [model for model in models if model and Path(model).is_dir()]


def _why_untouched(sweep: Path, ledger: Ledger) -> str:
    if is_held(sweep):
        return "runs"
    if ledger.torn:
        return f"has lines in its ledger that cannot be read ({ledger.torn[0]})"
    meant = ledger.sweep.trials if ledger.sweep is not None else None
    ended = sum(1 for trial in ledger.trials if trial.status != "running")
    if ended < len(ledger.trials) or (meant is not None and ended < meant):
        return "has not ended and can be resumed"
    return ""


def _is_guarded_run(folder: Path, ledgers: "dict[Path, Ledger]") -> bool:
    """Returns whether an experiment also belongs to a sweep whose files stay."""
    return any(
        folder.resolve() == folder_of(sweep, trial).resolve()
        for sweep, ledger in ledgers.items()
        if _why_untouched(sweep, ledger)
        for trial in ledger.trials
    )


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file() and not one.is_symlink()]
    return sum(one.lstat().st_size for one in files)
