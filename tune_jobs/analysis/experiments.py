"""Finds experiments by command-line arguments: their folders, or a sweep's folder with names of its trials."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tune_jobs.analysis.sweep_analysis import analyse
from tune_jobs.records.ledger import ExperimentFolder, Ledger, SweepFolder, TrialRecord
from tuning_common.errors import Problems, RequestError
from tuning_common.strict import nearest


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One experiment.

    Attributes:
        folder: outputs/experiments/<experiment>.
        trial: Its record in a sweep's ledger; None where its own folder was given.
    """

    folder: Path
    trial: TrialRecord | None = None

    @property
    def name(self) -> str:
        """Name of its folder."""
        return self.folder.resolve().name


def find_experiments(arguments: Sequence[str]) -> list[Experiment]:
    """Finds the experiments that a command line names.

    Args:
        arguments: Folders of experiments; folders of sweeps, each followed by names or numbers of its trials. A sweep
            without trials means its winner, or its two best configurations where it is the only argument.

    Raises:
        RequestError: With every argument that names nothing.
    """
    problems = Problems()
    groups: list[tuple[Path, list[str]]] = []
    for argument in arguments:
        path = Path(argument)
        if SweepFolder(path).ledger.exists() or ExperimentFolder(path).config.exists():
            groups.append((path, []))
        elif groups and SweepFolder(groups[-1][0]).ledger.exists():
            groups[-1][1].append(argument)
        else:
            state = "holds neither config.yaml nor all_results.jsonl" if path.is_dir() else "is not there"
            problems.add(
                f"{argument} {state}; give outputs/experiments/NAME, or outputs/sweep_results/NAME and its trials"
            )
    found: list[Experiment] = []
    for path, names in groups:
        if not SweepFolder(path).ledger.exists():
            found.append(Experiment(folder=path))
            continue
        ledger = SweepFolder(path).load()
        found += (
            _named(path, ledger, names, problems) if names else _best(path, ledger, 2 if len(arguments) == 1 else 1)
        )
    problems.raise_if_any("which experiments?")
    return found


def output_of(experiment: Experiment) -> Path:
    """Returns the output folder that contains an experiment.

    >>> output_of(Experiment(folder=Path("/nas/outputs/experiments/a"))).as_posix()
    '/nas/outputs'
    >>> output_of(Experiment(folder=Path("again"))).as_posix()
    'outputs'
    """
    if experiment.folder.parent.name != "experiments":
        return Path("outputs")
    output = experiment.folder.parent.parent
    return output.relative_to(Path.cwd()) if output.is_relative_to(Path.cwd()) else output


def find_winner_or_one(arguments: Sequence[str]) -> Experiment:
    """Finds the one experiment that a command line names; a sweep without a trial means its winner.

    Raises:
        RequestError: When it names none, or several.
    """
    first = Path(arguments[0]) if len(arguments) == 1 else None
    if first is not None and SweepFolder(first).ledger.exists():
        return _best(first, SweepFolder(first).load(), 1)[0]
    found = find_experiments(arguments)
    if len(found) > 1:
        raise RequestError(f"{len(found)} experiments are named; give one")
    return found[0]


def folder_of(sweep: Path, trial: TrialRecord) -> Path:
    """Returns the folder of a trial: the ledger's path, or beside the sweep where the output folder was moved."""
    written = Path(trial.experiment_dir)
    if trial.experiment_dir and written.is_dir():
        return written
    return ExperimentFolder.of(sweep.resolve().parent.parent, trial.name).path


def _named(sweep: Path, ledger: Ledger, names: Sequence[str], problems: Problems) -> list[Experiment]:
    found = []
    by_name = {trial.name: trial for trial in ledger.trials}
    by_id = {trial.trial_id.lstrip("0"): trial for trial in ledger.trials}
    for name in names:
        trial = by_name.get(name) or by_id.get(name.lstrip("0"))
        if trial is None:
            known = nearest(name, list(by_name)) or f"; it has {len(by_name)} trials, also named by their numbers"
            problems.add(f"{sweep} has no trial {name}{known}")
        else:
            found.append(Experiment(folder=folder_of(sweep, trial), trial=trial))
    return found


def _best(sweep: Path, ledger: Ledger, count: int) -> list[Experiment]:
    best = [candidate.best.trial for candidate in analyse(ledger).candidates[:count]]
    if len(best) < count:
        have = "none of its configurations has a score" if not best else "only one of its configurations has a score"
        raise RequestError(f"{sweep}: {have}; see the state of its trials: python -m tune_jobs report {sweep}")
    return [Experiment(folder=folder_of(sweep, trial), trial=trial) for trial in best]
