"""What further trials of a random search would probably buy, from the scores of its own trials. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tuning_common.goal import Goal

LEAST_SCORES = 20  # with fewer, the band was too narrow too often: see benchmarks/search.md
_BAND = 0.9


@dataclass(frozen=True, kw_only=True, slots=True)
class Gain:
    """What further trials would add to the best score.

    Attributes:
        trials: How many further trials.
        mean: Expected gain, in units of the metric.
        high: Upper end of the 90 % band; its lower end is 0, as the best trial may be known already.
    """

    trials: int
    mean: float
    high: float

    @property
    def text(self) -> str:
        """One sentence for people."""
        return (
            f"{self.trials} more random trials would probably improve the best score by {self.mean:.2g}"
            f" (90 % band 0 to {self.high:.2g})"
        )


def further_gain(scores: Sequence[float], trials: int, goal: Goal = "maximize") -> Gain | None:
    """Predicts what further trials of a random search gain, from the last step of the same proportion.

    With n scores and k further trials, the step from n to n + k is predicted by the step from m to n trials, where
    m : n = n : n + k. Trials of a random search may come in any sequence, so the best of m of them has a known
    distribution over the order statistics of all n. The curve of the expected best score over the logarithm of the
    trials flattens where scores have an upper limit: the mean is rather too high than too low.

    Sources: Dodge et al., Show Your Work, EMNLP 2019 (the expected best score from order statistics); Lourie, Cho and
    He, Show Your Work with Confidence, NAACL 2024 (bands of that curve; beyond n trials a nonparametric one has no
    upper limit, therefore the step before it is taken).

    Args:
        scores: Of all trials, each drawn independently of the others, in any sequence.
        trials: Further trials.
        goal: Whether high or low scores are good.

    Returns:
        None for fewer than LEAST_SCORES scores.

    >>> gain = further_gain([20 - 10 / n for n in range(1, 31)], trials=10)
    >>> gain.text if gain else ""
    '10 more random trials would probably improve the best score by 0.0041 (90 % band 0 to 0.011)'
    """
    count = len(scores)
    if count < LEAST_SCORES:
        return None
    ranked = sorted(scores, reverse=goal == "maximize")
    earlier = max(1, round(count * count / (count + trials)))
    subsets = math.comb(count, earlier)
    mean = reached = high = 0.0
    for rank, score in enumerate(ranked[: count - earlier + 1]):
        chance = math.comb(count - 1 - rank, earlier - 1) / subsets  # that the best of the earlier ones has this rank
        gain = abs(ranked[0] - score)
        mean += chance * gain
        if reached < _BAND:
            high = gain
        reached += chance
    return Gain(trials=trials, mean=mean, high=high)
