"""What a sweep needs before anything runs: the configurations of its trials, its data files and its models."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dialsum.config import RunConfig
from tune_jobs.config.sweep import Phase, Sweep
from tune_jobs.search.grid import planned_trials
from tuning_common.cli import note
from tuning_common.errors import Problems

SAMPLE_FOLDER = Path("outputs/sample_data")
ASSUMED_DIALOGUES = 10_000  # about as many as the Korean DialogSum has to learn from


@dataclass(frozen=True, kw_only=True)
class DataSizes:
    """Dialogues of each file.

    Attributes:
        of: File -> dialogues.
        absent: Files that are not there; steps are counted for ASSUMED_DIALOGUES.
    """

    of: Mapping[str, int]
    absent: tuple[str, ...] = ()

    def train(self, config: RunConfig) -> int:
        """Dialogues that a run learns from."""
        return min(self._dialogues(config.train_file), config.max_train_samples or 10**12)

    def dev(self, config: RunConfig) -> int:
        """Dialogues that each evaluation scores."""
        return min(self._dialogues(config.dev_file), config.max_eval_samples or 10**12)

    def _dialogues(self, file: str) -> int:
        """Finds a file also where its path is given in full."""
        if file in self.of:
            return self.of[file]
        same = (count for known, count in self.of.items() if Path(known).absolute() == Path(file))
        return next(same, ASSUMED_DIALOGUES)


@dataclass(frozen=True, kw_only=True)
class SweepInputs:
    """The configurations of a sweep's trials and the sizes of its data, resolved and read once before a run.

    Attributes:
        configs: By phase, "" for a sweep without phases: of all trials where they are known beforehand, else of one
            for each model.
        sizes: Of the data files.
        trains: Whether trials train; False where they only write summaries with a trained model.
    """

    configs: Mapping[str, tuple[RunConfig, ...]]
    sizes: DataSizes
    trains: bool = True

    def of_phases(self, phases: Iterable[Phase] = ()) -> tuple[RunConfig, ...]:
        """Returns the configurations of some phases; of the whole sweep where none is given."""
        names = [phase.name for phase in phases] or list(self.configs)
        return tuple(config for name in names for config in self.configs[name])

    @property
    def longest_trial(self) -> int:
        """Evaluations of the longest trial that the sweep can have; one where nothing is trained."""
        if not self.trains:
            return 1
        return max(count_evaluations(config, self.sizes.train(config)) for config in self.of_phases())


def prepare_inputs(
    sweep: Sweep, configs: Mapping[str, tuple[RunConfig, ...]] | None = None, *, for_plan: bool = False
) -> SweepInputs:
    """Resolves the configurations of a sweep, reads every data file and looks up every model, once for all phases.

    Writes the sample dialogues where the sweep uses them and they are not there yet.

    Args:
        sweep: Plain or staged.
        configs: Of configs_by_phase, where they were resolved before.
        for_plan: Whether files may be absent; then models are not looked up: a plan says which trials can run.

    Raises:
        RequestError: With every problem of every file and model, and of every trial that is known beforehand.
    """
    from dialsum.data import load_examples
    from dialsum.models import resolve

    configs = configs_by_phase(sweep) if configs is None else configs
    every = [config for part in configs.values() for config in part]
    trains = sweep.trained_model is None  # the training data of a trained model may be gone
    files = sorted({path for config in every for path in _files(config, trains=trains)})
    _write_sample_data(every, trains=trains)
    absent = tuple(path for path in files if not Path(path).exists()) if for_plan else ()
    problems = Problems()
    columns = {path: config.columns for config in every for path in _files(config, trains=trains)}
    columns_of_test = {config.test_file: config.columns for config in every}
    sizes: dict[str, int] = {}

    def count(path: str) -> None:
        sizes[path] = len(load_examples(Path(path), columns=columns[path]))

    for path in [path for path in files if path not in absent]:
        problems.collect(partial(count, path))
    if trains and not for_plan:
        for path in sorted({config.test_file for config in every if config.test_file}):
            read = partial(load_examples, Path(path), require_summary=False, columns=columns_of_test[path])
            problems.collect(read)
    for model in [] if for_plan else sorted({config.model for config in every}):
        problems.collect(partial(resolve, model))
    problems.raise_if_any(sweep.source)
    return SweepInputs(configs=configs, sizes=DataSizes(of=sizes, absent=absent), trains=trains)


def configs_by_phase(sweep: Sweep) -> dict[str, tuple[RunConfig, ...]]:
    """Returns the configurations of a sweep as far as they are known; see SweepInputs.configs.

    Raises:
        RequestError: With every trial that is no valid run.
    """
    if sweep.phases:
        return {phase.name: _known_configs(phase.sweep) for phase in sweep.phases}
    return {"": _known_configs(sweep)}


def count_evaluations(config: RunConfig, num_examples: int) -> int:
    """Counts the evaluations of a run that is never stopped early.

    >>> count_evaluations(RunConfig(num_epochs=3), 100)
    3
    >>> count_evaluations(RunConfig(num_epochs=2, batch_size=10, eval_steps=4), 100)
    5
    """
    return max(1, count_steps(config, num_examples) // (config.eval_steps or _steps_an_epoch(config, num_examples)))


def count_steps(config: RunConfig, num_examples: int) -> int:
    """Counts the optimizer steps of a run that is never stopped early.

    >>> count_steps(RunConfig(num_epochs=2, batch_size=10), 95)
    20
    """
    return config.max_steps or _steps_an_epoch(config, num_examples) * config.num_epochs


def _steps_an_epoch(config: RunConfig, num_examples: int) -> int:
    return -(-min(num_examples, config.max_train_samples or num_examples) // config.batch_size)


def _known_configs(sweep: Sweep) -> tuple[RunConfig, ...]:
    """Lists all trials where they are known beforehand, else one for each model.

    A search that decides by results, or a phase that confirms winners, may still set epochs or files: constants are
    known, and what is searched is taken at its largest, so that the longest trial is among them.
    """
    is_listed = bool(sweep.search.points) or sweep.space.size is not None
    if sweep.method == "random" or (sweep.method == "grid" and is_listed):
        return tuple(trial.resolved for trial in planned_trials(sweep))
    almost_one = 1 - 2**-53
    sampled = {parameter.name: parameter.at(almost_one) for parameter in sweep.space.parameters}
    models = sweep.space["model"].values() if "model" in sweep.space else (sweep.base.model,)
    return tuple(sweep.resolve({**sampled, "model": model}).resolved for model in models)


def _files(config: RunConfig, *, trains: bool) -> tuple[str, ...]:
    return (config.train_file, config.dev_file) if trains else (config.dev_file,)


def _write_sample_data(configs: Sequence[RunConfig], *, trains: bool) -> None:
    for config in configs:
        files = [Path(path) for path in _files(config, trains=trains)]
        if all(path.parent == SAMPLE_FOLDER for path in files) and not all(path.exists() for path in files):
            from dialsum.data import write_examples
            from dialsum.sample_data.generate import generate

            for name, examples in zip(("train", "dev"), generate(seed=0), strict=True):
                write_examples(SAMPLE_FOLDER / f"{name}.jsonl", examples)
            note(f"sample dialogues written to {SAMPLE_FOLDER}")
            return
