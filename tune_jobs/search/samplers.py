"""Where trials come from: a list (grid, random) or a model of the results so far (Optuna's TPE). Knows no Ray.

Optuna is imported inside functions: listing a grid must not pay for it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from tune_jobs.config.points import points_of
from tune_jobs.config.space import Categorical, Constant, Parameter, Range, Space, Value
from tune_jobs.config.sweep import Sweep
from tune_jobs.search.grid import drawn_configs, sampled_configs
from tuning_common.goal import Goal

if TYPE_CHECKING:
    import optuna

Outcome = Literal["finished", "stopped", "failed", "out_of_memory"]
Sampled = Mapping[str, Value]


@dataclass(frozen=True, kw_only=True)
class CompletedTrial:
    """How a suggested trial ended.

    Attributes:
        sampled: What was suggested.
        outcome: "out_of_memory" is no result: it shows how large a trial is, not how good.
        value: The best value of the metric, None where there was none.
        step: Evaluations behind it; a stopped trial counts less the earlier it was stopped.
    """

    sampled: Sampled
    outcome: Outcome
    value: float | None = None
    step: int = 0


class Sampler(Protocol):
    """Suggests trials one after another; several may be under way at a time."""

    @property
    def total(self) -> int:
        """Trials that will be suggested in all."""
        ...

    @property
    def order(self) -> Sequence[int]:
        """The numbers of all trials, in the order in which they should start."""
        ...

    @property
    def is_list(self) -> bool:
        """Whether results change nothing, so that a trial may be suggested long before it starts."""
        ...

    def suggest(self, number: int) -> Sampled | None:
        """Returns the values of trial `number` (from 1), None when there is none left."""
        ...

    def observe(self, number: int, completed: CompletedTrial) -> None:
        """Takes in how a suggested trial, or one of an earlier process, ended."""
        ...


class ListSampler:
    """Suggests the configurations of a list (see grid.sampled_configs); results change nothing.

    Args:
        configurations: Trials 1, 2, ...
        order: The numbers in which they should start, as in the list where None; see submission.largest_first.
    """

    is_list = True

    def __init__(self, configurations: Iterable[Sampled], order: Sequence[int] | None = None) -> None:
        self._configurations = list(configurations)
        self.order: Sequence[int] = range(1, self.total + 1) if order is None else order

    @property
    def total(self) -> int:
        """The length of the list."""
        return len(self._configurations)

    def suggest(self, number: int) -> Sampled | None:
        """Returns the element in place `number`."""
        return self._configurations[number - 1] if number <= self.total else None

    def observe(self, number: int, completed: CompletedTrial) -> None:
        """Does nothing."""


class TpeSampler:
    """Suggests by a tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011; Optuna's implementation).

    Trials under way count as bad meanwhile ("constant liar"), so that several at a time do not crowd on one spot.

    Args:
        space: What may be tried.
        count: Trials in all.
        goal: Whether high or low values are good.
        seed: same seed and same results in the same order: same suggestions.
        startup_trials: Random trials before the first that the model suggests.
        points: Configurations to try first, as trials 1, 2, ...
        known: Configurations that were tried elsewhere, for example in an earlier phase; they are not suggested again.
        algorithm: Another algorithm of Optuna, for comparisons.
    """

    is_list = False

    def __init__(
        self,
        space: Space,
        count: int,
        *,
        goal: Goal,
        seed: int,
        startup_trials: int = 10,
        points: Iterable[Sampled] = (),
        known: Iterable[CompletedTrial] = (),
        algorithm: "optuna.samplers.BaseSampler | None" = None,
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space, self._count = space, count
        self._distributions = {p.name: _distribution(p) for p in space.parameters if not isinstance(p, Constant)}
        algorithm = algorithm or optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=startup_trials, multivariate=True, constant_liar=True
        )
        self._study = optuna.create_study(sampler=algorithm, direction=goal)
        self._trials: dict[int, optuna.trial.Trial] = {}
        self._points = list(points)
        for completed in known:
            self.observe(0, completed)

    @property
    def total(self) -> int:
        """Trials in all."""
        return self._count

    @property
    def order(self) -> Sequence[int]:
        """As they come: each is suggested by what is known by then."""
        return range(1, self._count + 1)

    def suggest(self, number: int) -> Sampled | None:
        """Asks the model."""
        if number > self._count:
            return None
        if number <= len(self._points):  # by number, so that a resumed sweep tries none of them twice
            point = self._points[number - 1]
            self._study.enqueue_trial({name: self._position(name, point[name]) for name in self._distributions})
        trial = self._study.ask(self._distributions)
        self._trials[number] = trial
        return {parameter.name: self._value(parameter, trial.params) for parameter in self._space.parameters}

    def observe(self, number: int, completed: CompletedTrial) -> None:
        """Updates the model. A failure without a value counts as the worst, an out-of-memory as nothing."""
        import optuna

        state = {
            "finished": optuna.trial.TrialState.COMPLETE,
            "stopped": optuna.trial.TrialState.PRUNED,
            "failed": optuna.trial.TrialState.PRUNED,
            "out_of_memory": optuna.trial.TrialState.FAIL,
        }[completed.outcome]
        if state == optuna.trial.TrialState.COMPLETE and completed.value is None:
            state = optuna.trial.TrialState.PRUNED
        trial = self._trials.pop(number, None)
        if trial is None:
            self._add_earlier(completed, state)
            return
        if state == optuna.trial.TrialState.PRUNED and completed.value is not None:
            trial.report(completed.value, completed.step)
        complete = state == optuna.trial.TrialState.COMPLETE
        self._study.tell(trial, completed.value if complete else None, state=state)

    def _add_earlier(self, completed: CompletedTrial, state: "optuna.trial.TrialState") -> None:
        """Adds a trial of an earlier process, as a resumed sweep does."""
        import optuna

        known = completed.value is not None
        self._study.add_trial(
            optuna.trial.create_trial(
                state=state,
                value=completed.value if state == optuna.trial.TrialState.COMPLETE else None,
                params={name: self._position(name, completed.sampled[name]) for name in self._distributions},
                distributions=self._distributions,
                intermediate_values={completed.step: completed.value} if known else {},
            )
        )

    def _value(self, parameter: Parameter, positions: Mapping[str, object]) -> Value:
        if isinstance(parameter, Constant):
            return parameter.value
        position = positions[parameter.name]
        if isinstance(parameter, Categorical):
            return parameter.options[int(str(position))]
        assert isinstance(position, (int, float))
        if _is_native(parameter):
            return position
        return parameter.at(min(float(position), 1 - 2**-53))

    def _position(self, name: str, value: Value) -> float | int:
        """Where a value lies on the axis that Optuna sees; undoes _value up to quantisation."""
        parameter = self._space[name]
        if isinstance(parameter, Categorical):
            return int(parameter.to_log(value))
        assert isinstance(value, (int, float))
        if _is_native(parameter):
            return value
        return _fraction(parameter, value)


def sampler_of(sweep: Sweep) -> Sampler:
    """Returns where the trials of a plain sweep come from, in the order of its list."""
    if sweep.method in ("grid", "random"):
        return ListSampler(sampled_configs(sweep))
    if sweep.method == "pbt":
        return ListSampler(drawn_configs(sweep, sweep.trials))
    points = points_of(sweep)
    return TpeSampler(
        sweep.space,
        sweep.trials,
        goal=sweep.metric.goal,
        seed=sweep.search.seed,
        startup_trials=sweep.search.startup_trials,
        points=[point.sampled for point in points if point.score is None],
        known=[
            CompletedTrial(sampled=point.sampled, outcome="finished", value=point.score)
            for point in points
            if point.score is not None
        ],
    )


def _is_native(parameter: Parameter) -> bool:
    """Whether Optuna has the distribution itself; others are searched as the fraction that `at` takes."""
    return isinstance(parameter, Range) and (parameter.distribution == "int_uniform" or parameter.q is None)


def _distribution(parameter: Parameter) -> "optuna.distributions.BaseDistribution":
    import optuna

    if isinstance(parameter, Categorical):  # places instead of values: Optuna takes no lists and warns of other types
        return optuna.distributions.CategoricalDistribution(tuple(range(len(parameter.options))))
    if isinstance(parameter, Range) and _is_native(parameter):
        if parameter.distribution == "int_uniform":
            return optuna.distributions.IntDistribution(int(parameter.low), int(parameter.high))
        return optuna.distributions.FloatDistribution(parameter.low, parameter.high, log=parameter.log)
    return optuna.distributions.FloatDistribution(0.0, 1.0)


def _fraction(parameter: Parameter, value: float) -> float:
    """Finds the middle of the fractions at which `at` gives a value: a quantised one has a whole interval of them."""

    def first(reached: Callable[[float], bool]) -> float:
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            at = parameter.at(min(middle, 1 - 2**-53))
            assert isinstance(at, (int, float))
            low, high = (low, middle) if reached(at) else (middle, high)
        return high

    slack = 1e-9 * abs(value)
    return (first(lambda at: at >= value - slack) + first(lambda at: at > value + slack)) / 2
