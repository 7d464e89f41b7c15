"""What a sweep needs before anything runs: data files, models, and how long its trials are."""

from functools import partial
from pathlib import Path

from common.cli import note
from common.errors import Problems
from dialsum.config import RunConfig
from tune_jobs.config.sweep import Sweep
from tune_jobs.search.grid import planned_trials

SAMPLE_FOLDER = Path("outputs/sample_data")


def ensure_sample_data(sweep: Sweep) -> None:
    """Writes the sample dialogues when a sweep trains on them and they are not there yet."""
    for config in known_configs(sweep):
        files = [Path(path) for path in _files(sweep, config)]
        if all(path.parent == SAMPLE_FOLDER for path in files) and not all(path.exists() for path in files):
            from dialsum.data import write_examples
            from dialsum.sample_data.generate import generate

            for name, examples in zip(("train", "dev"), generate(seed=0), strict=True):
                write_examples(SAMPLE_FOLDER / f"{name}.jsonl", examples)
            note(f"sample dialogues written to {SAMPLE_FOLDER}")


def check_inputs(sweep: Sweep) -> None:
    """Reads every data file and looks up every model once, before a cluster is started.

    Raises:
        RequestError: With every problem of every file, and of every trial that is known beforehand.
    """
    from dialsum.data import load_examples
    from dialsum.models import resolve

    configs = known_configs(sweep)
    problems = Problems()
    for path in sorted({path for config in configs for path in _files(sweep, config)}):
        problems.collect(partial(load_examples, Path(path)))
    for model in sorted({config.model for config in configs}):
        problems.collect(partial(resolve, model))
    problems.raise_if_any(sweep.source)


def _files(sweep: Sweep, config: RunConfig) -> tuple[str, ...]:
    """The training data of a trained model may be gone."""
    return (config.dev_file,) if sweep.trained_model is not None else (config.train_file, config.dev_file)


def longest_trial(sweep: Sweep) -> int:
    """Counts the evaluations of the longest trial that the sweep can have; one where nothing is trained.

    Each epoch has one unless eval_steps says otherwise; then the number of examples decides.
    """
    from dialsum.data import load_examples

    if sweep.trained_model is not None:
        return 1
    sizes: dict[str, int] = {}
    longest = 1
    for config in known_configs(sweep):
        if config.train_file not in sizes:
            sizes[config.train_file] = len(load_examples(Path(config.train_file)))
        longest = max(longest, evaluations_of(config, sizes[config.train_file]))
    return longest


def evaluations_of(config: RunConfig, num_examples: int) -> int:
    """Counts the evaluations of a run that is never stopped early.

    >>> evaluations_of(RunConfig(num_epochs=3), 100)
    3
    >>> evaluations_of(RunConfig(num_epochs=2, batch_size=10, eval_steps=4), 100)
    5
    """
    examples = min(num_examples, config.max_train_samples or num_examples)
    steps_an_epoch = -(-examples // config.batch_size)
    steps = config.max_steps or steps_an_epoch * config.num_epochs
    return max(1, steps // (config.eval_steps or steps_an_epoch))


def known_configs(sweep: Sweep) -> list[RunConfig]:
    """Returns the configurations of all trials where they are known beforehand, else of one trial for each model.

    A search that decides by results may still set epochs or files: constants are known, and what is searched is taken
    at its largest, so that the longest trial is among them.
    """
    if sweep.method in ("grid", "random"):
        return [trial.resolved for trial in planned_trials(sweep)]
    almost_one = 1 - 2**-53
    sampled = {parameter.name: parameter.at(almost_one) for parameter in sweep.space.parameters}
    models = sweep.space["model"].values() if "model" in sweep.space else (sweep.base.model,)
    return [sweep.resolve({**sampled, "model": model}).resolved for model in models]
