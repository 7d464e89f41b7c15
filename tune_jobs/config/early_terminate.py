"""The `early_terminate` section of a sweep file, and its rungs."""

import math
from collections.abc import Mapping
from dataclasses import field
from types import MappingProxyType
from typing import Annotated, Self, cast

from pydantic import Field, model_validator

from dialsum.config import Count
from tune_jobs.config.sections import Method
from tune_jobs.config.space import Value
from tuning_common.strict import model

KEYS = MappingProxyType(  # keys by type, beside `type`; any other type is a class of ray.tune.schedulers
    {
        "asha": ("min_iter", "max_iter", "eta", "brackets"),
        "hyperband": ("s", "eta", "max_iter", "min_iter", "strict"),
        "median": ("min_iter", "min_trials"),
        "none": (),
    }
)
_ASHA_CLASSES = ("ASHAScheduler", "AsyncHyperBandScheduler")
MOST_BRACKETS = 100
LEAST_REDUCTION = 1.1  # closer to 1, every evaluation would be a rung
Brackets = Annotated[int, Field(ge=1, le=MOST_BRACKETS)]


@model
class EarlyTerminate:
    """The rule that stops bad trials early. An iteration is one evaluation, counted from 1.

    Attributes:
        type: A key of KEYS, or a class of ray.tune.schedulers, which takes only `arguments`.
        min_iter: The first rung (median: no trial is stopped earlier).
        max_iter: Iterations of the longest trial, for counting rungs; None: those of the trial.
        eta: One in eta trials passes a rung.
        brackets: asha: number of brackets; each starts one rung later than the one before.
        s: hyperband: number of brackets, counted down from max_iter.
        strict: hyperband: compare a trial's value at the bracket, not its best so far; stops more trials.
        min_trials: median: number of other trials that must have reached the same iteration.
        arguments: The arguments of a class of Ray.
    """

    type: str = "asha"
    min_iter: Count | None = None
    max_iter: Count | None = None
    eta: Annotated[float, Field(ge=LEAST_REDUCTION, le=1000)] = 3.0
    brackets: Brackets = 1
    s: Brackets | None = None
    strict: bool = False
    min_trials: Count = 3
    arguments: Mapping[str, Value] = field(default_factory=dict)

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.type == "hyperband":
            self._check_brackets()
        if self.type == "asha" and self.min_iter and self.max_iter and self.min_iter >= self.max_iter:
            raise ValueError(f"min_iter {self.min_iter} leaves no rung below max_iter {self.max_iter}")
        return self

    @property
    def is_ray_class(self) -> bool:
        """Whether the type names a class of ray.tune.schedulers."""
        return self.type not in KEYS

    @property
    def reduction(self) -> float | None:
        """The reduction factor: one in this many trials passes a rung. None without rungs."""
        if self.type in ("asha", "hyperband"):
            return self.eta
        if self.type in _ASHA_CLASSES:
            return self._number("reduction_factor", 4)
        return self._number("reduction_factor", 3) if self.type == "HyperBandScheduler" else None

    def rungs(self, last: int) -> tuple[int, ...]:
        """Returns the iterations at which trials are compared, of all brackets, for display.

        Uses the documented formulas; the scheduler makes the decisions.

        Args:
            last: Number of evaluations of a trial that is never stopped.

        >>> EarlyTerminate(type="hyperband", max_iter=27, s=2).rungs(last=27)
        (3, 9)
        >>> EarlyTerminate(type="HyperBandScheduler", arguments={"max_t": 9}).rungs(last=9)
        (1, 3)
        """
        if self.type == "hyperband":
            return wandb_brackets(eta=self.eta, max_iter=self.max_iter, s=self.s, min_iter=self.min_iter, last=last)
        if self.type == "asha":
            end = min(self.max_iter or last, last)
            return geometric_rungs(first=self.min_iter or 1, factor=self.eta, end=end)
        if self.reduction is None or self.arguments.get("time_attr", "training_iteration") != "training_iteration":
            return ()
        if self.type == "HyperBandScheduler":
            return hyperband_rungs(max_t=int(self._number("max_t", 81)), factor=self.reduction, last=last)
        first, max_t = self._number("grace_period", 1), self._number("max_t", 100)
        return geometric_rungs(first=first, factor=self.reduction, end=min(int(max_t), last))

    def to_dict(self) -> dict[str, object]:
        """Returns the section as in a file, without defaults."""
        plain = EarlyTerminate()
        own = {name: getattr(self, name) for name in KEYS.get(self.type, ())}
        changed = {name: value for name, value in own.items() if value != getattr(plain, name)}
        return {"type": self.type, **changed, **self.arguments}

    def _number(self, name: str, default: float) -> float:
        return float(cast("float", self.arguments.get(name, default)))

    def _check_brackets(self) -> None:
        if self.min_iter is not None:
            if self.max_iter is not None or self.s is not None:
                raise ValueError("min_iter counts brackets up, max_iter and s count them down; give one of the two")
        elif self.max_iter is None or self.s is None:
            raise ValueError("type hyperband needs min_iter, or both max_iter and s")
        elif self.max_iter / self.eta < 1:
            raise ValueError(f"max_iter {self.max_iter} / eta {self.eta:g} is below 1: there is no bracket")


def geometric_rungs(*, first: float, factor: float, end: int) -> tuple[int, ...]:
    """Returns the rungs of asynchronous successive halving: evaluations first * factor^k below the end.

    Source: Li et al., A System for Massively Parallel Hyperparameter Tuning, MLSys 2020, algorithm 2. A trial is
    compared at its first evaluation at or above the product.

    >>> geometric_rungs(first=1, factor=3, end=27), geometric_rungs(first=1, factor=2.5, end=9)
    ((1, 3, 9), (1, 3, 7))
    """
    rungs: list[int] = []
    position = first
    while (rung := math.ceil(position)) < end:
        if not rungs or rung > rungs[-1]:
            rungs.append(rung)
        position *= factor
    return tuple(rungs)


def hyperband_rungs(*, max_t: int, factor: float, last: int) -> tuple[int, ...]:
    """Returns the evaluations at which any bracket of Ray's HyperBandScheduler compares or ends its trials.

    >>> hyperband_rungs(max_t=81, factor=3, last=81)
    (1, 3, 9, 27)
    """
    found: set[int] = set()
    for bracket in range(round(math.log(max_t) / math.log(factor)) + 1):
        position = int(max_t * factor**-bracket)
        for _ in range(bracket + 1):
            found.add(position)
            position = int(min(position * factor, max_t))
    return tuple(sorted(rung for rung in found if 1 <= rung < min(max_t, last)))


def wandb_brackets(
    *, eta: float, max_iter: int | None = None, s: int | None = None, min_iter: int | None = None, last: int
) -> tuple[int, ...]:
    """Returns the brackets of W&B's `early_terminate: {type: hyperband}`.

    Source: https://docs.wandb.ai/guides/sweeps/sweep-config-keys. With `max_iter` and `s`: max_iter / eta^k for
    k = 1..s. With `min_iter`: min_iter * eta^k. All are rounded down.

    Args:
        eta: Factor between brackets; 1/eta of the trials pass one.
        max_iter: The longest trial, in iterations.
        s: Number of brackets, counted down from max_iter.
        min_iter: The first bracket, instead of max_iter and s.
        last: Iterations that trials can reach; later brackets are left out.

    >>> wandb_brackets(eta=3, max_iter=27, s=2, last=27), wandb_brackets(eta=3, min_iter=3, last=30)
    ((3, 9), (3, 9, 27))
    """
    if max_iter is not None:
        positions = [max_iter / eta**k for k in range(1, (s or 1) + 1)]
    else:
        first = min_iter or 1
        positions = [first * eta**k for k in range(math.ceil(math.log(max(last / first, 1)) / math.log(eta)) + 1)]
    return tuple(sorted({int(position) for position in positions if position >= 1 and int(position) <= last}))


def default_stop(method: Method) -> EarlyTerminate:
    """Returns the default rule of a search method.

    >>> default_stop("random").type, default_stop("pbt").type
    ('asha', 'none')
    """
    if method == "pbt":
        return EarlyTerminate(type="none")
    return EarlyTerminate(type="hyperband", min_iter=1) if method == "bohb" else EarlyTerminate()
