"""The history of population based training: copies of weights, and the values of each trial over time. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from tune_jobs.config.language import tr
from tune_jobs.config.parameters import show_value, to_number
from tune_jobs.records.ledger import TrialRecord
from tuning_common.goal import Goal, best_of

_NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+(?:e[+-]?\d+)?|e[+-]?\d+)(?!\w)")  # with a point or an exponent


@dataclass(frozen=True, kw_only=True)
class Copy:
    """A trial's copy of another trial's weights, with changed values.

    Attributes:
        trial_id: The trial that copied.
        donor_id: The trial that it copied from.
        evaluation: The copier's evaluation at the copy.
        donor_evaluation: The donor's evaluation of the copied checkpoint.
        before: The copier's values before the copy.
        after: The copier's values after the copy.
        changes: Changes of the donor's values, for people.
    """

    trial_id: str
    donor_id: str
    evaluation: int
    donor_evaluation: int
    before: Mapping[str, object]
    after: Mapping[str, object]
    changes: tuple[str, ...]


def copies_of(trial: TrialRecord) -> tuple[Copy, ...]:
    """Returns a trial's copies in order.

    >>> past = [{"donor": 2, "evaluation": 3, "donor_evaluation": 3, "changes": ["a"], "before": {"dropout": 0.1}}]
    >>> now = {"dropout": 0.2}
    >>> trial = TrialRecord(trial_id="1", name="x", sweep="s", status="finished", sampled=now, lineage=past)
    >>> [(copy.donor_id, copy.before, copy.after) for copy in copies_of(trial)]
    [('2', {'dropout': 0.1}, {'dropout': 0.2})]
    """
    befores = [cast("Mapping[str, object]", copy.get("before", {})) for copy in trial.lineage]
    afters = [*befores[1:], trial.sampled]
    stage, dash, _ = trial.trial_id.rpartition("-")  # a staged search prefixes the trial number with the phase
    return tuple(
        Copy(
            trial_id=trial.trial_id,
            donor_id=f"{stage}{dash}{copy.get('donor')}",
            evaluation=_whole(copy.get("evaluation")),
            donor_evaluation=_whole(copy.get("donor_evaluation", copy.get("evaluation"))),
            before=before,
            after=after,
            changes=tuple(str(text) for text in cast("Sequence[object]", copy.get("changes", ()))),
        )
        for copy, before, after in zip(trial.lineage, befores, afters, strict=False)
    )


def values_at(trial: TrialRecord, evaluation: int) -> Mapping[str, object]:
    """Returns the values of a trial at an evaluation."""
    return next((copy.before for copy in copies_of(trial) if evaluation <= copy.evaluation), trial.sampled)


def all_values(trial: TrialRecord) -> list[Mapping[str, object]]:
    """Returns all values that a trial was trained with, in order."""
    return [*(copy.before for copy in copies_of(trial)), trial.sampled]


def best_evaluation(trial: TrialRecord, metric: str, goal: Goal) -> int | None:
    """Returns the evaluation with the best value of a metric, the first of equals; None where there is none."""
    rows = enumerate(trial.history, start=1)
    best = best_of(rows, lambda pair: pair[1].get(metric), goal)
    return None if best is None else _whole(best[1].get("iteration"), default=best[0])


def as_it_scored(trial: TrialRecord, metric: str, goal: Goal) -> TrialRecord:
    """Returns a trial with its values at its best score.

    The ledger has its values at the end, which may differ after a copy. Only pbt trials change.
    """
    evaluation = best_evaluation(trial, metric, goal) if trial.lineage else None
    if evaluation is None:
        return trial
    values = values_at(trial, evaluation)
    kept = {name: value for name, value in values.items() if trial.resolved.get(name) == trial.sampled.get(name)}
    return replace(trial, sampled=dict(values), resolved=trial.resolved | kept)


@dataclass(frozen=True, kw_only=True)
class Leg:
    """Consecutive evaluations in which one trial trained the weights of the winner.

    Attributes:
        trial_id: The trial that trained them.
        first: The evaluation before; 0 at the start.
        last: The last evaluation.
        values: The trial's values then.
    """

    trial_id: str
    first: int
    last: int
    values: Mapping[str, object]


def weight_history(trial_id: str, evaluation: int, trials: Mapping[str, TrialRecord]) -> tuple[Leg, ...]:
    """Returns the trials and values that trained a trial's weights up to an evaluation.

    Args:
        trial_id: The trial with the weights.
        evaluation: Its evaluation.
        trials: All trials of the population, by trial_id.

    >>> past = [{"donor": 2, "evaluation": 3, "donor_evaluation": 4, "changes": [], "before": {"dropout": 0.5}}]
    >>> one = TrialRecord(trial_id="1", name="a", sweep="s", status="finished", sampled={"dropout": 0.2}, lineage=past)
    >>> two = TrialRecord(trial_id="2", name="b", sweep="s", status="finished", sampled={"dropout": 0.1})
    >>> legs = weight_history("1", 6, {"1": one, "2": two})
    >>> [(leg.trial_id, leg.first, leg.last, leg.values["dropout"]) for leg in legs]
    [('2', 0, 4, 0.1), ('1', 3, 6, 0.2)]
    """
    legs: list[Leg] = []
    steps = 1 + sum(len(trial.lineage) for trial in trials.values())  # an upper bound, also for a torn ledger
    while trial_id in trials and len(legs) < steps:
        trial = trials[trial_id]
        copy = next((one for one in reversed(copies_of(trial)) if one.evaluation < evaluation), None)
        first = copy.evaluation if copy is not None else 0
        legs.append(Leg(trial_id=trial_id, first=first, last=evaluation, values=values_at(trial, evaluation)))
        if copy is None:
            break
        trial_id, evaluation = copy.donor_id, copy.donor_evaluation
    return tuple(reversed(legs))


def describe_copy(copy: Copy) -> str:
    """Returns the changes of a copy as text.

    >>> copy = Copy(trial_id="1", donor_id="2", evaluation=3, donor_evaluation=3, before={"dropout": 0.1},
    ...             after={"dropout": 0.12}, changes=("dropout 0.15 -> 0.12: x 0.8",))
    >>> describe_copy(copy)
    'dropout 0.15 → 0.12: x 0.8'
    """
    changes = [_NUMBER.sub(lambda found: show_value(float(found[0])), text) for text in copy.changes]
    return "; ".join(changes).replace("->", "→") or tr("values unchanged")


def _whole(value: object, default: int = 0) -> int:
    number = to_number(value)
    return default if number is None else int(number)
