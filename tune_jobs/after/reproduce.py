"""Runs an experiment again, from its folder alone, and says how it came out."""

import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from common.errors import Problems, RequestError
from common.files import write_json
from common.strict import load_yaml
from common.units import format_duration
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

_FILE_FIELDS = ("train_file", "dev_file", "test_file")


@dataclass(frozen=True, kw_only=True)
class Repetition:
    """What is going to be run again.

    Attributes:
        folder: Of the experiment.
        config: Its resolved configuration, with files where they lie now.
        before: Its numbers.
        evaluations: How many the repetition makes: as many as the experiment, which may have been stopped early.
        was_stopped: Whether it was.
        snapshot: None where the experiment has none, or one of another version of this program.
        no_snapshot: Why there is none, for people; empty where there is one.
        changes: What is not as it was; empty also where there is no snapshot.
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
        plan: What was run.
        judgement: How it came out.
        folder: Of the repetition.
    """

    plan: Repetition
    judgement: Judgement
    folder: Path


def plan_reproduction(folder: Path, data_folder: Path | None = None) -> Repetition:
    """Reads an experiment and looks at what has changed since; trains nothing.

    Args:
        folder: outputs/experiments/<experiment>.
        data_folder: Where its data files and its local model lie now, under their old names.

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


def reproduce(plan: Repetition, output: Path, tell: Callable[[str], None] = lambda text: None) -> Reproduction:
    """Trains again, in this process, and compares.

    Args:
        plan: See plan_reproduction.
        output: A folder that is not there yet.
        tell: Hears of the progress.

    Raises:
        RequestError: When the output folder is there already.
        WorkError: When the training fails.
    """
    from dialsum.trainer import train

    if output.exists() and any(output.iterdir()):
        raise RequestError(f"{output} is not empty; give another --output")
    if plan.snapshot is not None and plan.snapshot.surroundings.variables.get("CUDA_VISIBLE_DEVICES") == "":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a simulated card: it was trained on the CPU
    cache = output / "cache"  # a tokenizer or an encoding from an older cache would prove nothing
    whole = plan.config.with_changes({"fsdp": False})  # one process holds all of the model, and learns the same
    try:
        train(whole, output, reporter=_Repetition(plan, tell), cache_dir=cache)
    except SystemExit:
        pass  # the stop that the experiment itself came to
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
    """Names the folder of a repetition.

    >>> default_output(Path("outputs/experiments/a"), datetime(2026, 11, 24, 9, 5)).as_posix()
    'outputs/reproductions/a_1124_090500'
    """
    return Path("outputs") / REPETITIONS / f"{folder.resolve().name}_{now:%m%d_%H%M%S}"


def summary(done: Reproduction) -> dict[str, object]:
    """Returns plain values for JSON."""
    return {
        "experiment": str(done.plan.folder),
        "reproduction": str(done.folder),
        **asdict(done.judgement),
        "has_snapshot": done.plan.snapshot is not None,
        "changes": [asdict(change) for change in done.plan.changes],
    }


def _snapshot(folder: Path) -> tuple[Snapshot | None, str]:
    """An experiment can be run again without its snapshot: then only what has changed is not known."""
    try:
        snapshot = load_snapshot(folder)
    except RequestError as error:
        return None, str(error)
    return snapshot, "" if snapshot is not None else "the experiment has no snapshot"


class _Repetition(NullReporter):
    """Tells how far a run is, and ends it after as many evaluations as the experiment had where that was stopped."""

    def __init__(self, plan: Repetition, tell: Callable[[str], None]) -> None:
        self._plan, self._tell = plan, tell
        self._done = 0
        self._started_s = time.monotonic()

    def report(self, metrics: Mapping[str, float], checkpoint: Path | None) -> None:
        """Counts, and ends the run after the last."""
        self._done += 1
        left = max(self._plan.evaluations - self._done, 0)
        eta_s = (time.monotonic() - self._started_s) / self._done * left
        ahead = f", about {format_duration(eta_s)} to go" if left else ""
        self._tell(f"evaluation {self._done} of {self._plan.evaluations}: loss {metrics['eval/loss']:.4f}{ahead}")
        if self._plan.was_stopped and not left:
            raise SystemExit


def _evaluations(config: RunConfig, before: RunNumbers) -> tuple[int, bool]:
    """A trial that was stopped early has fewer evaluations than its configuration would make."""
    from dialsum.data import load_examples

    whole = count_evaluations(config, len(load_examples(Path(config.train_file))))
    return len(before.history), before.test is None and len(before.history) < whole


def _edits(folder: Path, config: RunConfig) -> tuple[Change, ...]:
    path = ExperimentFolder(folder).snapshot / CONFIG_FILE
    return find_edits(load_yaml(path).mapping(), config.to_dict()) if path.exists() else ()


def _find_files(config: RunConfig, snapshot: Snapshot | None, data_folder: Path | None) -> RunConfig:
    """Takes each file from the data folder where it lies there, else from its old place."""
    problems = Problems()
    moved: dict[str, object] = {}
    for name in _FILE_FIELDS:
        path = getattr(config, name)
        if path is None:
            continue
        there = data_folder / Path(path).name if data_folder is not None else None
        if there is not None and there.exists():
            moved[name] = str(there)
        elif not Path(path).exists():
            where = f" and not in {data_folder}" if data_folder is not None else "; where is it now? --data-folder DIR"
            problems.add(f"{name} {path} is not there{where}")
    model = data_folder / Path(config.model).name if data_folder is not None else None
    if model is not None and model.is_dir():
        moved["model"] = str(model)
    elif snapshot is not None and snapshot.model is not None and not Path(config.model).is_dir():
        problems.add(f"the model to start from, {config.model}, is not there; where is it now? --data-folder DIR")
    problems.raise_if_any("the experiment cannot be run again")
    return config.with_changes(moved)


def _paired(plan: Repetition, output: Path) -> PairedDifference | None:
    shared = shared_summaries([output, plan.folder], plan.config.language, plan.config.rouge_weights)
    if not shared:
        return None
    again, before = ([one.scores[side]["rouge_combined_f1"] for one in shared] for side in (0, 1))
    return paired_bootstrap(again, before)
