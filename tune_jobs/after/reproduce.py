"""Runs an experiment again from its folder and compares the results."""

import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from dialsum.config import RunConfig, load_run_config
from dialsum.reporter import NullReporter
from tune_jobs.after.reproduction import REPETITIONS, RESULT_FILE, Judgement, judge, same_summaries, same_weights
from tune_jobs.analysis.paired_summaries import shared_summaries
from tune_jobs.analysis.significance import PairedDifference, paired_bootstrap
from tune_jobs.records.ledger import ExperimentFolder
from tune_jobs.records.run_numbers import RunNumbers, read_numbers
from tune_jobs.records.snapshot import CONFIG_FILE, Snapshot, current_state, load_snapshot
from tune_jobs.records.snapshot_changes import Change, find_changes, find_edits
from tune_jobs.search.inputs import count_evaluations
from tuning_common.errors import Problems, RequestError
from tuning_common.files import write_json
from tuning_common.strict import load_yaml
from tuning_common.units import format_duration

_FILE_FIELDS = ("train_file", "dev_file", "test_file")


@dataclass(frozen=True, kw_only=True)
class Repetition:
    """The plan of a repetition.

    Attributes:
        folder: The experiment's folder.
        config: Its resolved configuration, with the present paths of its files.
        before: Its numbers.
        evaluations: Number of evaluations to make: as many as the experiment made.
        was_stopped: Whether the experiment was stopped early.
        snapshot: The experiment's snapshot; None if it has none, or one of another version of this program.
        no_snapshot: Why there is no snapshot; empty if there is one.
        changes: Differences from the snapshot; empty if there is no snapshot.
    """

    folder: Path
    config: RunConfig
    before: RunNumbers
    evaluations: int
    was_stopped: bool
    snapshot: Snapshot | None
    no_snapshot: str
    changes: tuple[Change, ...]


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """An experiment that was run again.

    Attributes:
        plan: The plan that was run.
        judgement: The result of the comparison.
        folder: The folder of the repetition.
    """

    plan: Repetition
    judgement: Judgement
    folder: Path


def plan_reproduction(folder: Path, data_folder: Path | None = None) -> Repetition:
    """Reads an experiment and finds what has changed since; trains nothing.

    Args:
        folder: outputs/experiments/<experiment>.
        data_folder: The folder that has its data files and local model now, under their old names.

    Raises:
        RequestError: When the folder holds no evaluated experiment, or a file of it is gone.
    """
    if not ExperimentFolder(folder).config.exists():
        raise RequestError(
            f"{folder}: no config.yaml in it; give the folder of an experiment, outputs/experiments/NAME"
        )
    before = read_numbers(folder)
    written = load_run_config(ExperimentFolder(folder).config)
    snapshot, reason = _snapshot(ExperimentFolder(folder).snapshot)
    config = _find_files(written, snapshot, data_folder)
    changes: tuple[Change, ...] = ()
    if snapshot is not None:
        changes = (*_edits(folder, written), *find_changes(snapshot, current_state(config.to_dict())))
    evaluations, was_stopped = _evaluations(config, before)
    return Repetition(
        folder=folder,
        config=config,
        before=before,
        evaluations=evaluations,
        was_stopped=was_stopped,
        snapshot=snapshot,
        no_snapshot=reason,
        changes=changes,
    )


def reproduce(plan: Repetition, output: Path, report: Callable[[str], None] = lambda text: None) -> Reproduction:
    """Trains again in this process and compares the results.

    Args:
        plan: The plan, from plan_reproduction.
        output: A new folder.
        report: Called with progress messages.

    Raises:
        RequestError: When the output folder is there already.
        WorkError: When the training fails.
    """
    from dialsum.trainer import train

    if output.exists() and any(output.iterdir()):
        raise RequestError(f"{output} is not empty; give another --output")
    if plan.snapshot is not None and plan.snapshot.surroundings.variables.get("CUDA_VISIBLE_DEVICES") == "":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the card was simulated: train on the CPU again
    cache = output / "cache"  # files of an older cache could hide a difference
    whole = plan.config.with_changes({"fsdp": False})  # one process holds the whole model, with equal results
    try:
        train(whole, output, reporter=_ProgressReporter(plan, report), cache_dir=cache)
    except SystemExit:
        pass  # the reporter stops where the experiment was stopped
    finally:
        for leftover in (cache, *output.glob("checkpoint-*")):
            shutil.rmtree(leftover, ignore_errors=True)
    summaries = same_summaries(plan.folder, output)
    judgement = judge(
        plan.before,
        read_numbers(output),
        config=plan.config,
        paired=_paired(plan, output) if summaries is not None and summaries[0] < summaries[1] else None,
        dialogues=summaries[1] if summaries is not None else None,
        summaries=summaries,
        same_weights=same_weights(plan.folder, output),
    )
    done = Reproduction(plan=plan, judgement=judgement, folder=output)
    write_json(output / RESULT_FILE, summary(done))
    return done


def default_output(folder: Path, now: datetime) -> Path:
    """Returns the default folder of a repetition.

    >>> default_output(Path("outputs/experiments/a"), datetime(2026, 11, 24, 9, 5)).as_posix()
    'outputs/reproductions/a_1124_090500'
    """
    return Path("outputs") / REPETITIONS / f"{folder.resolve().name}_{now:%m%d_%H%M%S}"


def summary(done: Reproduction) -> dict[str, object]:
    """Returns the result as plain values for JSON."""
    return {
        "experiment": str(done.plan.folder),
        "reproduction": str(done.folder),
        **asdict(done.judgement),
        "has_snapshot": done.plan.snapshot is not None,
        "changes": [asdict(change) for change in done.plan.changes],
    }


def _snapshot(folder: Path) -> tuple[Snapshot | None, str]:
    """Loads a snapshot; without one, returns the reason. Only the changes are unknown then."""
    try:
        snapshot = load_snapshot(folder)
    except RequestError as error:
        return None, str(error)
    return snapshot, "" if snapshot is not None else "the experiment has no snapshot"


class _ProgressReporter(NullReporter):
    """Reports the progress of a run, and ends it where the experiment was stopped early."""

    def __init__(self, plan: Repetition, report: Callable[[str], None]) -> None:
        self._plan, self._report = plan, report
        self._done = 0
        self._started_s = time.monotonic()

    def report(self, metrics: Mapping[str, float], checkpoint: Path | None) -> None:
        """Counts an evaluation, and raises SystemExit after the last one of a stopped experiment."""
        self._done += 1
        left = max(self._plan.evaluations - self._done, 0)
        eta_s = (time.monotonic() - self._started_s) / self._done * left
        ahead = f", about {format_duration(eta_s)} to go" if left else ""
        self._report(f"evaluation {self._done} of {self._plan.evaluations}: loss {metrics['eval/loss']:.4f}{ahead}")
        if self._plan.was_stopped and not left:
            raise SystemExit


def _evaluations(config: RunConfig, before: RunNumbers) -> tuple[int, bool]:
    """Returns the number of evaluations, and whether the experiment was stopped before its configuration's end."""
    from dialsum.data import load_examples

    whole = count_evaluations(config, len(load_examples(Path(config.train_file), columns=config.columns)))
    return len(before.history), before.test is None and len(before.history) < whole


def _edits(folder: Path, config: RunConfig) -> tuple[Change, ...]:
    path = ExperimentFolder(folder).snapshot / CONFIG_FILE
    return find_edits(load_yaml(path).mapping(), config.to_dict()) if path.exists() else ()


def _find_files(config: RunConfig, snapshot: Snapshot | None, data_folder: Path | None) -> RunConfig:
    """Returns the configuration with each file's present path: in the data folder, else the old path."""
    problems = Problems()
    moved: dict[str, object] = {}
    for name in _FILE_FIELDS:
        path = getattr(config, name)
        if path is None:
            continue
        candidate = data_folder / Path(path).name if data_folder is not None else None
        if candidate is not None and candidate.exists():
            moved[name] = str(candidate)
        elif not Path(path).exists():
            where = (
                f" and not in {data_folder}"
                if data_folder is not None
                else "; give its new folder with --data-folder DIR"
            )
            problems.add(f"{name} {path} does not exist{where}")
    model = data_folder / Path(config.model).name if data_folder is not None else None
    if model is not None and model.is_dir():
        moved["model"] = str(model)
    elif snapshot is not None and snapshot.model is not None and not Path(config.model).is_dir():
        problems.add(
            f"the model to start from, {config.model}, does not exist; give its new folder with --data-folder DIR"
        )
    problems.raise_if_any("the experiment cannot be run again")
    return config.with_changes(moved)


def _paired(plan: Repetition, output: Path) -> PairedDifference | None:
    shared = shared_summaries([output, plan.folder], plan.config.language, plan.config.rouge_weights)
    if not shared:
        return None
    again, before = ([one.scores[side]["rouge_combined_f1"] for one in shared] for side in (0, 1))
    return paired_bootstrap(again, before)
