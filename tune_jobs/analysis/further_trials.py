"""What further trials of a random search would probably buy, from the scores of its own trials. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tune_jobs.config.language import tr
from tuning_common.goal import Goal

LEAST_SCORES = 20
_ABOVE = 0.05  # estimated chance of a gain above the band: an estimate for small chances, so half of 10 %


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
        return tr(
            "{count} more random trials would probably improve the best score by {mean:.2g}"
            " (90 % band 0 to {high:.2g})",
            count=self.trials,
            mean=self.mean,
            high=self.high,
        )


def further_gain(scores: Sequence[float], trials: int, goal: Goal = "maximize") -> Gain | None:
    """Predicts what further trials of a random search gain, from the order statistics of its scores.

    Mean: the step from n to n + k trials is predicted by the step from m to n trials, where m : n = n : n + k. Trials
    of a random search may come in any sequence, so the best of m has a known distribution over the ranks of all n.
    The curve of the expected best score over the logarithm of the trials flattens where scores have an upper limit, so
    the mean is rather too high than too low.

    Band: one of k further trials exceeds the best by more than its distance from rank r with a chance of about
    k / (n r) where the upper tail of the scores is exponential, and with a smaller one where they have an upper limit.
    The band ends where that is 5 %; simulated gains of exponential scores lie inside in 92 % of all cases.

    Sources: Dodge et al., Show Your Work, EMNLP 2019 (the expected best score from order statistics); Lourie, Cho and
    He, Show Your Work with Confidence, NAACL 2024 (bands of that curve; beyond n trials one without assumptions on the
    tail has no upper limit). Coverage on real trainings: benchmarks/search.md.

    Args:
        scores: Of all trials, each drawn independently of the others, in any sequence.
        trials: Further trials.
        goal: Whether high or low scores are good.

    Returns:
        None for fewer than LEAST_SCORES scores.

    >>> gain = further_gain([20 - number / 10 for number in range(30)], trials=10)
    >>> gain.text if gain else ""
    '10 more random trials would probably improve the best score by 0.035 (90 % band 0 to 0.6)'
    """
    count = len(scores)
    if count < LEAST_SCORES:
        return None
    ranked = sorted(scores, reverse=goal == "maximize")
    earlier = max(1, round(count * count / (count + trials)))
    subsets = math.comb(count, earlier)
    chances = (  # of each rank, from 0, to be that of the best of the earlier trials
        math.comb(count - 1 - rank, earlier - 1) / subsets for rank in range(count - earlier + 1)
    )
    mean = sum(chance * abs(ranked[0] - score) for chance, score in zip(chances, ranked, strict=False))
    rank = min(math.ceil(trials / (_ABOVE * count)), count)  # from 1
    return Gain(trials=trials, mean=mean, high=abs(ranked[0] - ranked[rank - 1]))
