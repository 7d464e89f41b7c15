"""Parameter importances by Optuna's PED-ANOVA, with their uncertainty.

PED-ANOVA (Watanabe, Bansal and Hutter, https://arxiv.org/abs/2304.10255) measures how far the settings of the good
trials differ from those of all trials. It is Optuna's default and needs no other package; fANOVA needs scikit-learn.
An importance from a dozen trials is rough, so two numbers come with it: an interval from resampled trials, and
the level that shuffled scores reach, where no parameter matters.
"""

import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from tune_jobs.analysis.candidates import Scored
from tune_jobs.config.language import tr
from tune_jobs.config.parameters import Parameter

LEAST_TRIALS = 8
_GOOD_TRIALS = 5  # Optuna's minimum number of "good" trials
_MOST_TRIALS = 200  # more trials slow down the resampling without visibly narrower intervals
_RESAMPLES = 60
_SEED = 20


@dataclass(frozen=True, kw_only=True)
class Importance:
    """The importance of one parameter.

    Attributes:
        name: The parameter.
        part: 0 to 1; the sum over all parameters is 1.
        low: Lower end of the interval that contains 90 % of resampled sweeps.
        high: Upper end.
        chance: 95 % of sweeps with shuffled scores stay below this.
    """

    name: str
    part: float
    low: float
    high: float
    chance: float

    @property
    def stands_out(self) -> bool:
        """Whether it is above the level of chance."""
        return self.part > self.chance


@dataclass(frozen=True, kw_only=True)
class Importances:
    """Importances, highest first, or the reason why there are none.

    Attributes:
        parameters: Empty where a reason is given.
        trials: Number of trials behind them.
        reason: Text for people; empty where there are importances.
    """

    parameters: tuple[Importance, ...] = ()
    trials: int = 0
    reason: str = ""


def find_importances(scored: Sequence[Scored], parameters: Sequence[Parameter], *, maximize: bool) -> Importances:
    """Estimates importances with their uncertainty; deterministic.

    Args:
        scored: Trials with a score. Stopped trials count with their best score so far: the method only needs to know
            that they are not among the good ones.
        parameters: Searched parameters. Those that some trials lack are left out.
        maximize: Whether high scores are good.
    """
    common = [one for one in parameters if all(one.name in scored_one.trial.sampled for scored_one in scored)]
    if len(common) < 2 and scored:
        return Importances(reason=_why_too_few(parameters, common))
    if len(scored) < LEAST_TRIALS:
        if len(scored) == 1:
            return Importances(reason=tr("1 trial has a score; importances need {least} or more", least=LEAST_TRIALS))
        reason = tr(
            "{count} trials have a score; importances need {least} or more", count=len(scored), least=LEAST_TRIALS
        )
        return Importances(reason=reason)
    losses = [-one.score if maximize else one.score for one in scored]
    if max(losses) - min(losses) <= 0:
        return Importances(reason=tr("all trials have the same score, so no parameter made a difference"))
    chance_source = random.Random(_SEED)
    rows = [[_axis_value(one, scored_one.trial.sampled[one.name]) for one in common] for scored_one in scored]
    chosen = list(range(len(rows)))
    if len(chosen) > _MOST_TRIALS:
        chosen = chance_source.sample(chosen, _MOST_TRIALS)
    parts = _parts(common, rows, losses, chosen, chosen)
    resampled = [
        _parts(common, rows, losses, again, again)
        for again in (chance_source.choices(chosen, k=len(chosen)) for _ in range(_RESAMPLES))
    ]
    shuffled = [
        _parts(common, rows, losses, chosen, mixed)
        for mixed in (chance_source.sample(chosen, len(chosen)) for _ in range(_RESAMPLES))
    ]
    found = [
        Importance(
            name=parameter.name,
            part=parts[i],
            low=_quantile([draw[i] for draw in resampled], 0.05),
            high=_quantile([draw[i] for draw in resampled], 0.95),
            chance=_quantile([draw[i] for draw in shuffled], 0.95),
        )
        for i, parameter in enumerate(common)
    ]
    return Importances(parameters=tuple(sorted(found, key=lambda one: -one.part)), trials=len(chosen))


def _why_too_few(parameters: Sequence[Parameter], common: Sequence[Parameter]) -> str:
    if not parameters:
        return tr("no parameter took more than one value")
    if len(parameters) == 1:
        name = parameters[0].name
        return tr("only {name} took more than one value, so there is nothing to compare it with", name=name)
    if common:
        return tr("one parameter is in every trial, so there is nothing to compare")
    return tr("no parameter is in every trial, so there is nothing to compare")


def _axis_value(parameter: Parameter, value: object) -> float | int:
    position = parameter.position(value)
    return round(position * parameter.high) if parameter.scale == "category" else position


def _parts(
    parameters: Sequence[Parameter],
    rows: Sequence[Sequence[float | int]],
    losses: Sequence[float],
    settings_of: Sequence[int],
    losses_of: Sequence[int],
) -> list[float]:
    """Returns each parameter's part; the k-th trial has the settings and the loss at the k-th given indices."""
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
    from optuna.importance import PedAnovaImportanceEvaluator

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    axes: dict[str, BaseDistribution] = {
        one.name: CategoricalDistribution(tuple(range(len(one.values))))
        if one.scale == "category"
        else FloatDistribution(0.0, 1.0)
        for one in parameters
    }
    study = optuna.create_study(direction="minimize")
    study.add_trials(
        [
            optuna.trial.create_trial(params=dict(zip(axes, rows[i], strict=True)), distributions=axes, value=losses[j])
            for i, j in zip(settings_of, losses_of, strict=True)
        ]
    )
    good = min(0.5, max(0.1, _GOOD_TRIALS / len(settings_of)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        raw = optuna.importance.get_param_importances(
            study, evaluator=PedAnovaImportanceEvaluator(target_quantile=good), normalize=False
        )
    total = sum(raw.values())
    return [raw.get(name, 0.0) / total if total > 0 else 0.0 for name in axes]


def _quantile(values: Sequence[float], fraction: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(fraction * len(ordered)), len(ordered) - 1)]
