"""Writes a sweep as a study of Optuna, for optuna-dashboard and Optuna's own plots."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tune_jobs.analysis.candidates import score_of
from tune_jobs.analysis.lineage import as_it_scored
from tune_jobs.config.parameters import to_number
from tune_jobs.records.ledger import Ledger, SweepRecord, TrialOutcome, TrialRecord
from tuning_common.errors import RequestError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution, CategoricalChoiceType
    from optuna.trial import FrozenTrial

State = Literal["COMPLETE", "PRUNED", "FAIL", "RUNNING"]
_STATES: Mapping[TrialOutcome, State] = {
    "finished": "COMPLETE", "stopped": "PRUNED", "failed": "FAIL", "oom": "FAIL", "refused": "FAIL",
    "running": "RUNNING",
}  # fmt: skip
_ATTRIBUTES = ("name", "phase", "seed", "gpu_model", "share", "node", "card", "wall_s", "gpu_seconds", "retries")


def write_study(ledger: Ledger, path: Path) -> str:
    """Writes every trial of a sweep into a journal file of Optuna, which may hold other studies.

    Args:
        ledger: The sweep's; with trials that run.
        path: Made where it is not there.

    Returns:
        The study's name: the sweep's.

    Raises:
        RequestError: When the ledger does not describe its sweep, or the file holds its study, or is no such file.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    sweep = ledger.sweep
    if sweep is None:
        raise RequestError("the ledger does not describe its sweep (metric and goal), so it cannot be exported")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        storage = JournalStorage(JournalFileBackend(str(path)))
        study = optuna.create_study(storage=storage, study_name=sweep.sweep, direction=sweep.goal)
    except optuna.exceptions.DuplicatedStudyError:
        raise RequestError(
            f"{path} holds a study {sweep.sweep!r} already; give another file, or remove this one"
        ) from None
    except (ValueError, LookupError, TypeError) as error:  # JSON lines of something else
        raise RequestError(f"{path} is not a journal of Optuna ({type(error).__name__}); give another file") from None
    described = {"metric": sweep.metric, "method": sweep.method, "member": sweep.member, "source": sweep.source}
    for name, value in described.items():
        study.set_user_attr(name, value)
    trials = [as_it_scored(trial, sweep.metric, sweep.goal) for trial in ledger.trials]
    distributions = _distributions(sweep, trials)
    study.add_trials([_trial(trial, sweep, distributions) for trial in trials])
    return sweep.sweep


def _trial(trial: TrialRecord, sweep: SweepRecord, distributions: Mapping[str, "BaseDistribution"]) -> "FrozenTrial":
    import optuna

    metric = sweep.metric.replace("best/", "eval/")
    value = score_of(trial, metric, sweep.goal)
    state = _STATES[trial.status]
    if state == "COMPLETE" and (value is None or math.isnan(value)):
        state = "FAIL"
    own = {name: of for name, of in distributions.items() if name in trial.sampled}
    fixed = {name: value for name, value in trial.sampled.items() if name not in own}
    frozen = optuna.trial.create_trial(
        state=optuna.trial.TrialState[state],
        value=value if state == "COMPLETE" else None,
        params={name: _choice(trial.sampled[name]) for name in own},
        distributions=own,
        user_attrs={
            "trial": trial.trial_id,
            "outcome": trial.status,
            **{name: getattr(trial, name) for name in _ATTRIBUTES},
            **({"best": value} if value is not None else {}),
            **({"error": f"{trial.error.type}: {trial.error.message}"} if trial.error else {}),
            **{f"fixed/{name}": value for name, value in fixed.items()},
        },
        intermediate_values={
            int(row["iteration"] or 0): float(row[metric] or 0.0)
            for row in trial.history
            if row.get(metric) is not None
        },
    )
    began_at = trial.started_at or trial.ended_at or sweep.started_at
    if began_at is not None:  # else Optuna's own, the present
        over_at = None if trial.status == "running" else trial.ended_at or began_at
        frozen.datetime_start = datetime.fromtimestamp(began_at)
        frozen.datetime_complete = None if over_at is None else datetime.fromtimestamp(over_at)
    return frozen


def _distributions(sweep: SweepRecord, trials: Sequence[TrialRecord]) -> dict[str, "BaseDistribution"]:
    """Returns a distribution for each searched parameter: one of all trials, as Optuna wants it."""
    names = dict.fromkeys(name for trial in trials for name in trial.sampled)
    found = {}
    for name in names:
        values = [trial.sampled[name] for trial in trials if name in trial.sampled]
        if name in sweep.parameters or any(value != values[0] for value in values):
            found[name] = distribution_of(sweep.parameters.get(name, {}), values)
    return found


def distribution_of(spec: Mapping[str, object], values: Sequence[object]) -> "BaseDistribution":
    """Returns Optuna's distribution for a parameter.

    Its bounds are those of the sweep file, widened where a trial is outside (pbt, points from elsewhere). Bounds of a
    distribution that has none, such as `normal`, are those of the values.

    Args:
        spec: As in the sweep file; empty where it is unknown.
        values: Those of the trials.

    >>> distribution_of({"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-3}, [3e-5, 2e-3])
    FloatDistribution(high=0.002, log=True, low=1e-05, step=None)
    >>> distribution_of({"distribution": "q_uniform", "min": 0.0, "max": 0.2, "q": 0.05}, [0.15])
    FloatDistribution(high=0.2, log=False, low=0.0, step=0.05)
    >>> distribution_of({"values": [[0.3, 0.7], None]}, [None])
    CategoricalDistribution(choices=('[0.3, 0.7]', None))
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    known = [to_number(value) for value in values]
    numbers = [value for value in known if value is not None]
    listed = spec.get("values", [])
    if "values" in spec or not numbers or len(numbers) < len(values):
        choices = [*(listed if isinstance(listed, list) else []), *values]
        return CategoricalDistribution(tuple(dict.fromkeys(map(_choice, choices))))
    bounds = [number for name in ("min", "max") if (number := to_number(spec.get(name))) is not None]
    low, high = min([*numbers, *bounds]), max([*numbers, *bounds])
    kind = str(spec.get("distribution"))
    log = "log" in kind and low > 0
    if all(isinstance(value, int) for value in values) and (kind == "int_uniform" or isinstance(spec.get("q"), int)):
        return IntDistribution(int(low), int(high), log=log)
    step = to_number(spec.get("q"))
    if (
        step is None
        or log
        or any(abs((one - low) / step - round((one - low) / step)) > 1e-9 for one in (*numbers, high))
    ):
        return FloatDistribution(low, high, log=log)
    return FloatDistribution(low, high, step=step)


def _choice(value: object) -> "CategoricalChoiceType":
    """Returns a value that Optuna keeps as it is: lists become text."""
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
