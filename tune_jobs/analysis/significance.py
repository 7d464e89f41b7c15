"""Tests whether one model is significantly better than another on the same examples. Pure and seeded."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 4000


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """The mean difference of two models over the same examples.

    Attributes:
        mean: First minus second.
        low: 2.5 % of resampled example sets lie below.
        high: 2.5 % lie above.
        count: Examples.
    """

    mean: float
    low: float
    high: float
    count: int

    @property
    def is_clear(self) -> bool:
        """Whether the sign would hold on other examples of the same kind."""
        return self.low > 0 or self.high < 0


def paired_bootstrap(one: Sequence[float], other: Sequence[float], *, seed: int = 0) -> PairedDifference:
    """Compares two models by their scores on the same examples.

    Resamples the examples with replacement (Koehn 2004, https://aclanthology.org/W04-3250) and scores both models on
    each sample, so that examples that are hard for both make no difference.

    Args:
        one: Score of the first model on each example.
        other: Score of the second model, in the same order.
        seed: The same seed gives the same interval.

    >>> found = paired_bootstrap([3.0, 5.0, 4.0], [1.0, 2.0, 3.0])
    >>> found.mean, found.is_clear, paired_bootstrap([1.0, 0.0], [0.0, 1.0]).is_clear
    (2.0, True, False)
    """
    assert len(one) == len(other) > 0, f"{len(one)} and {len(other)} scores do not pair up"
    differences = np.asarray(one, dtype=np.float64) - np.asarray(other, dtype=np.float64)
    generator = np.random.default_rng(seed)
    draws = generator.integers(0, len(differences), size=(RESAMPLES, len(differences)), dtype=np.int32)
    low, high = np.quantile(differences[draws].mean(axis=1), (0.025, 0.975))
    return PairedDifference(mean=float(differences.mean()), low=float(low), high=float(high), count=len(differences))
