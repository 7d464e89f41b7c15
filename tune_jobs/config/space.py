"""The search space: parameters with their distributions. Pure and seeded.

Distributions are those of W&B (https://docs.wandb.ai/guides/sweeps/sweep-config-keys). Every parameter has an
inverse distribution function `at`, from a random number in [0, 1) to a value: the same seed gives the same sweep.
"""

import itertools
import math
import random
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from typing_extensions import TypeAliasType

Value = TypeAliasType("Value", "bool | int | float | str | tuple[Value, ...] | None")  # may contain itself
RangeDistribution = Literal[
    "uniform", "int_uniform", "q_uniform", "log_uniform_values", "q_log_uniform_values", "inv_log_uniform_values"
]
BellDistribution = Literal["normal", "q_normal", "log_normal", "q_log_normal"]
_SLACK = 1e-9  # relative; YAML and logarithms may change the last digits of a bound


@dataclass(frozen=True, kw_only=True, slots=True)
class Constant:
    """A parameter with the same value in every trial.

    Attributes:
        name: A field of RunConfig.
        value: Its value.
    """

    name: str
    value: Value

    @property
    def size(self) -> int:
        """One."""
        return 1

    def values(self) -> tuple[Value, ...]:
        """Returns the one value."""
        return (self.value,)

    def at(self, fraction: float) -> Value:
        """Returns the value."""
        return self.value

    def contains(self, value: object) -> bool:
        """Returns whether this is the value."""
        return _same(value, self.value)

    def to_log(self, value: Value) -> float:
        """Returns 0: a constant has no scale."""
        return 0.0

    def spec(self) -> dict[str, object]:
        """Returns the parameter as in a sweep file."""
        return {"value": as_written(self.value)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Categorical:
    """A parameter with a few values.

    Attributes:
        name: A field of RunConfig.
        options: The values, in the order of the file.
        probabilities: One for each option, with sum 1; None for equal probabilities.
    """

    name: str
    options: tuple[Value, ...]
    probabilities: tuple[float, ...] | None = None

    @property
    def size(self) -> int:
        """Number of values."""
        return len(self.options)

    def values(self) -> tuple[Value, ...]:
        """Returns all values in order."""
        return self.options

    def at(self, fraction: float) -> Value:
        """Returns the value at a fraction of the cumulative probability.

        >>> Categorical(name="num_beams", options=(1, 4), probabilities=(0.9, 0.1)).at(0.89)
        1
        """
        if self.probabilities is None:
            return self.options[min(int(fraction * len(self.options)), len(self.options) - 1)]
        likely = [pair for pair in zip(self.options, self.probabilities, strict=True) if pair[1] > 0]
        for option, reached in zip(likely, itertools.accumulate(chance for _, chance in likely), strict=True):
            if fraction < reached:
                return option[0]
        return likely[-1][0]

    def contains(self, value: object) -> bool:
        """Returns whether this is one of the values."""
        return any(_same(value, option) for option in self.options)

    def to_log(self, value: Value) -> float:
        """Returns the index of the value: categories have no other scale."""
        return float(next(index for index, option in enumerate(self.options) if _same(value, option)))

    def spec(self) -> dict[str, object]:
        """Returns the parameter as in a sweep file."""
        chances = {} if self.probabilities is None else {"probabilities": list(self.probabilities)}
        return {"values": [as_written(option) for option in self.options], **chances}


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """A number between two bounds, both included.

    Quantised values (`q_...`) are the multiples of q inside the bounds; W&B's rounding can leave the bounds.
    A whole q gives whole numbers.

    Attributes:
        name: A field of RunConfig.
        distribution: W&B's name; `inv_log_uniform_values` equals `log_uniform_values` (log(1/x) is uniform exactly
            when log x is) but `at` starts from the upper bound, as in W&B.
        low: The lower bound, as a value (never an exponent).
        high: The upper bound.
        q: Step between quantised values.
    """

    name: str
    distribution: RangeDistribution
    low: float
    high: float
    q: float | None = None

    @property
    def log(self) -> bool:
        """Whether the logarithm of the values is uniform."""
        return "log" in self.distribution

    @property
    def whole(self) -> bool:
        """Whether values are whole numbers."""
        return self.distribution == "int_uniform" or isinstance(self.q, int)

    @property
    def size(self) -> int | None:
        """Number of values; None for a continuous range."""
        if self.distribution == "int_uniform":
            return int(self.high) - int(self.low) + 1
        if self.q is None:
            return None
        first, last = self._multiples(self.q)
        return last - first + 1

    def values(self) -> tuple[Value, ...]:
        """Returns all values, ascending; only for a countable range."""
        if self.distribution == "int_uniform":
            return tuple(range(int(self.low), int(self.high) + 1))
        assert self.q is not None, f"{self.name} is continuous"
        first, last = self._multiples(self.q)
        return tuple(_multiple(times, self.q) for times in range(first, last + 1))

    def at(self, fraction: float) -> Value:
        """Returns the value at a fraction of the distribution.

        >>> Range(name="learning_rate", distribution="log_uniform_values", low=1e-5, high=1e-3).at(0.5)
        0.0001
        >>> Range(name="warmup_ratio", distribution="q_uniform", low=0.0, high=0.2, q=0.05).at(0.7)
        0.15
        """
        if self.distribution == "int_uniform":
            return int(self.low) + min(int(fraction * (self.high - self.low + 1)), int(self.high) - int(self.low))
        if self.distribution == "inv_log_uniform_values":
            fraction = 1 - fraction
        low, high = self.to_log(self.low), self.to_log(self.high)
        value = self.from_log(low + fraction * (high - low))
        if self.q is None:
            return value
        first, last = self._multiples(self.q)
        return _multiple(min(max(round(value / self.q), first), last), self.q)

    def contains(self, value: object) -> bool:
        """Returns whether a number is between the bounds and a multiple of the step, if there is one."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        slack = _SLACK * max(abs(self.low), abs(self.high))
        if not self.low - slack <= value <= self.high + slack:
            return False
        step = 1 if self.distribution == "int_uniform" else self.q
        return step is None or math.isclose(value / step, round(value / step), rel_tol=_SLACK, abs_tol=_SLACK)

    def to_log(self, value: Value) -> float:
        """Returns the position on the axis where values are uniform: the logarithm, or the value itself."""
        assert isinstance(value, (int, float))
        return math.log(value) if self.log else float(value)

    def from_log(self, position: float) -> float:
        """Inverts to_log; exact at the bounds."""
        value = float(f"{math.exp(position):.12g}") if self.log else position
        return min(max(value, self.low), self.high)

    def spec(self) -> dict[str, object]:
        """Returns the parameter as in a sweep file."""
        step = {} if self.q is None else {"q": self.q}
        return {"distribution": self.distribution, "min": self.low, "max": self.high, **step}

    def _multiples(self, q: float) -> tuple[int, int]:
        return math.ceil(self.low / q - _SLACK), math.floor(self.high / q + _SLACK)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bell:
    """A normally distributed number, without bounds.

    Attributes:
        name: A field of RunConfig.
        distribution: `log_normal` is the exponential of a normal value.
        mu: Mean (of the logarithm for `log_normal`).
        sigma: Standard deviation, above 0.
        q: Values are rounded to multiples of it; a whole q gives whole numbers.
    """

    name: str
    distribution: BellDistribution
    mu: float = 0.0
    sigma: float = 1.0
    q: float | None = None

    @property
    def log(self) -> bool:
        """Whether the logarithm is normally distributed."""
        return "log" in self.distribution

    @property
    def whole(self) -> bool:
        """Whether values are whole numbers."""
        return isinstance(self.q, int)

    @property
    def size(self) -> None:
        """None: there are no bounds."""
        return

    def values(self) -> tuple[Value, ...]:
        """Never called: a grid refuses a continuous parameter."""
        raise AssertionError(f"{self.name} has no bounds")

    def at(self, fraction: float) -> Value:
        """Returns the value at a fraction of the distribution; 0 (minus infinity) is replaced by a tiny fraction.

        >>> Bell(name="weight_decay", distribution="normal", mu=0.1, sigma=0.01).at(0.5)
        0.1
        """
        position = statistics.NormalDist(self.mu, self.sigma).inv_cdf(max(fraction, 2.0**-53))
        value = math.exp(position) if self.log else position
        return value if self.q is None else _multiple(round(value / self.q), self.q)

    def contains(self, value: object) -> bool:
        """Returns whether the distribution can give a number."""
        if isinstance(value, bool) or not isinstance(value, (int, float)) or (self.log and value < 0):
            return False
        return self.q is None or math.isclose(value / self.q, round(value / self.q), rel_tol=_SLACK, abs_tol=_SLACK)

    def to_log(self, value: Value) -> float:
        """Returns the position on the axis where values are normally distributed."""
        assert isinstance(value, (int, float))
        return math.log(value) if self.log else float(value)

    def spec(self) -> dict[str, object]:
        """Returns the parameter as in a sweep file."""
        step = {} if self.q is None else {"q": self.q}
        return {"distribution": self.distribution, "mu": self.mu, "sigma": self.sigma, **step}


Parameter = Constant | Categorical | Range | Bell


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """All parameters of a sweep.

    Attributes:
        parameters: In the order of the file; names are unique.
    """

    parameters: tuple[Parameter, ...] = ()

    def __getitem__(self, name: str) -> Parameter:
        return next(parameter for parameter in self.parameters if parameter.name == name)

    def __contains__(self, name: str) -> bool:
        return any(parameter.name == name for parameter in self.parameters)

    @property
    def searched(self) -> tuple[Parameter, ...]:
        """The parameters that can differ between trials."""
        return tuple(parameter for parameter in self.parameters if parameter.size != 1)

    @property
    def size(self) -> int | None:
        """Number of different configurations; None where a parameter is continuous.

        >>> Space(parameters=(Categorical(name="num_beams", options=(1, 2, 4)),)).size
        3
        """
        sizes = [parameter.size for parameter in self.parameters]
        return None if None in sizes else math.prod(size for size in sizes if size is not None)

    def sample(self, rng: random.Random) -> dict[str, Value]:
        """Draws one configuration; uses one random number for each parameter that is not constant."""
        return {
            parameter.name: parameter.value if isinstance(parameter, Constant) else parameter.at(rng.random())
            for parameter in self.parameters
        }

    def grid(self) -> Iterator[dict[str, Value]]:
        """Yields every configuration once; the last parameter of the file changes fastest."""
        names = [parameter.name for parameter in self.parameters]
        for values in itertools.product(*(parameter.values() for parameter in self.parameters)):
            yield dict(zip(names, values, strict=True))

    def contains(self, config: Mapping[str, object]) -> bool:
        """Returns whether a configuration has exactly these parameters, each with a valid value."""
        return set(config) == {parameter.name for parameter in self.parameters} and all(
            parameter.contains(config[parameter.name]) for parameter in self.parameters
        )

    def spec(self) -> dict[str, dict[str, object]]:
        """Returns the space as the `parameters` section of a sweep file."""
        return {parameter.name: parameter.spec() for parameter in self.parameters}


def _multiple(times: int, q: float) -> int | float:
    """Returns times * q without binary rounding errors: 3 * 0.1 is 0.3."""
    return times * q if isinstance(q, int) else float(times * Decimal(str(q)))


def _same(left: object, right: object) -> bool:
    """Returns whether two values are equal: 1 and 1.0 are, 1 and True are not."""
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        return len(left) == len(right) and all(_same(a, b) for a, b in zip(left, right, strict=True))
    return left == right and isinstance(left, bool) == isinstance(right, bool)


def as_written(value: object) -> object:
    """Returns a value as a YAML or JSON file holds it: a list for a tuple.

    >>> as_written(("auto", (1, 2)))
    ['auto', [1, 2]]
    """
    return [as_written(item) for item in value] if isinstance(value, tuple) else value
