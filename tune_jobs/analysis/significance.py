"""Whether one model is better than another on the same examples, or was only lucky with them. Pure and seeded."""

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
        """Whether other examples of the same kind would hardly turn the order round."""
        return self.low > 0 or self.high < 0


def paired_bootstrap(one: Sequence[float], other: Sequence[float], *, seed: int = 0) -> PairedDifference:
    """Compares two models by their scores on the same examples.

    The examples are drawn again and again with replacement (Koehn 2004, https://aclanthology.org/W04-3250); both
    models are scored on each draw, so what makes an example hard for both does not count as a difference.

    Args:
        one: Score of the first model on each example.
        other: Of the second, in the same order.
        seed: Same seed, same interval.

    >>> found = paired_bootstrap([3.0, 5.0, 4.0], [1.0, 2.0, 3.0])
    >>> found.mean, found.is_clear, paired_bootstrap([1.0, 0.0], [0.0, 1.0]).is_clear
    (2.0, True, False)
    """
    assert len(one) == len(other) > 0, f"{len(one)} and {len(other)} scores are no pairs"
    differences = np.asarray(one, dtype=np.float64) - np.asarray(other, dtype=np.float64)
    generator = np.random.default_rng(seed)
    draws = generator.integers(0, len(differences), size=(RESAMPLES, len(differences)), dtype=np.int32)
    low, high = np.quantile(differences[draws].mean(axis=1), (0.025, 0.975))
    return PairedDifference(mean=float(differences.mean()), low=float(low), high=float(high), count=len(differences))
