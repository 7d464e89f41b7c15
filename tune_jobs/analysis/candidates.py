"""Trials with scores, grouped by configuration, and ties between them. Pure."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tune_jobs.config.language import tr
from tune_jobs.records.ledger import TrialRecord
from tuning_common.goal import Goal, best_first, best_of

# KoBART on Korean dialogues, 500 examples: four seeds of one configuration differ by sd 0.31 points of ROUGE-L, 13
# configurations trained twice by sd 0.23 and at most 0.65 points. Differences below half a point are noise.
ROUGE_NOISE_POINTS = 0.5
_NOISE_DIALOGUES = 500
# 97.5 % quantiles of Student's t by degrees of freedom, for sd's that come from a few repeated trainings.
_STUDENT = {2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26, 10: 2.23}


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A trial and its best value of the sweep's metric."""

    trial: TrialRecord
    score: float


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One configuration, with all trials that differ only in their seed.

    Attributes:
        trials: Its trials, best first.
        score: Mean over the trials.
        spread: Standard deviation over the trials; None for one trial or one seed.
    """

    trials: tuple[Scored, ...]
    score: float
    spread: float | None = None

    @property
    def best(self) -> Scored:
        """The best of its trials."""
        return self.trials[0]

    @property
    def runs_text(self) -> str:
        """The number of runs behind the mean score, for people; empty for one."""
        count = len(self.trials)
        if count == 1:
            return ""
        seeds = len(_seeds(self.trials)) == count
        return tr("{count} seeds", count=count) if seeds else tr("{count} runs", count=count)


@dataclass(frozen=True, kw_only=True)
class Noise:
    """The difference that chance can make between two trainings of one configuration.

    Attributes:
        band: In units of the metric; None where it is unknown.
        source: The source of the number, for people.
    """

    band: float | None
    source: str

    def between(self, one: Candidate, other: Candidate) -> float | None:
        """Returns the band for two means over several seeds, which narrows with the root of their number."""
        if self.band is None:
            return None
        return self.band * math.sqrt((1 / len(one.trials) + 1 / len(other.trials)) / 2)


def score_of(trial: TrialRecord, metric: str, goal: Goal) -> float | None:
    """Returns a trial's best value of a metric, None where it has none.

    The trainer names its best values best/*; an earlier evaluation may be better than the last.

    >>> trial = TrialRecord(trial_id="1", name="a", sweep="s", status="stopped", metrics={"eval/loss": 2.0},
    ...                     history=[{"eval/loss": 1.5}, {"eval/loss": 2.0}])
    >>> score_of(trial, "eval/loss", "minimize")
    1.5
    """
    names = (metric, "best/" + metric.split("/", 1)[-1])
    rows: list[Mapping[str, float | None]] = [*trial.history, trial.metrics, trial.best_metrics]
    values = [row.get(name) for row in rows for name in names]
    return best_of(values, lambda value: value, goal)


def group_seeds(scored: Iterable[Scored], goal: Goal) -> tuple[Candidate, ...]:
    """Groups trials that differ only in their seed.

    Averages only finished trials where a candidate has any: trials that were stopped early had less time.

    Returns:
        Candidates, best first; equal ones in order of appearance.
    """
    groups: dict[str, list[Scored]] = {}
    for one in scored:
        alone = not one.trial.sampled or one.trial.lineage  # a pbt trial changes its values: it shares no configuration
        groups.setdefault(one.trial.trial_id if alone else without_seed(one.trial.sampled), []).append(one)
    candidates = [_candidate(group, goal) for group in groups.values()]
    return tuple(best_first(candidates, lambda one: one.score, goal))


def without_seed(sampled: Mapping[str, object]) -> str:
    """Returns a key that trials of one configuration share.

    >>> without_seed({"seed": 1, "lr": 1e-3, "batch_size": 8}) == without_seed({"batch_size": 8, "lr": 1e-3, "seed": 2})
    True
    """
    return repr(sorted((name, repr(value)) for name, value in sampled.items() if name != "seed"))


def find_noise(metric: str, candidates: Sequence[Candidate], *, dialogues: int | None = None) -> Noise:
    """Returns the noise between two trainings.

    Args:
        metric: The sweep's metric.
        candidates: Candidates with several seeds measure the noise of this sweep.
        dialogues: Number of scored dialogues; fewer than 500 widen the published noise with their root.

    Returns:
        With at least two degrees of freedom: the 95 % band of a difference of two runs. Else the published noise of
        fine-tuned models; None for other metrics and for models trained from scratch, where none is published.
    """
    repeated = [one for one in candidates if one.spread is not None]
    freedom = sum(len(one.trials) - 1 for one in repeated)
    if freedom >= 2:
        squares = sum((len(one.trials) - 1) * (one.spread or 0.0) ** 2 for one in repeated)
        spread = math.sqrt(squares / freedom)
        band = _STUDENT.get(freedom, 2.1) * math.sqrt(2) * spread
        runs = sum(len(one.trials) for one in repeated)
        source = tr(
            "{runs} runs of this sweep differ only in their seed, with sd {spread:.2g}", runs=runs, spread=spread
        )
        return Noise(band=band, source=source)
    if candidates and candidates[0].best.trial.trained is not None:
        return Noise(
            band=None,
            source=tr("one trained model wrote all summaries: only other dialogues could change the ranking"),
        )
    if candidates and str(candidates[0].best.trial.resolved.get("model", "")).startswith("tiny-"):
        return Noise(band=None, source=tr("how far models trained from scratch vary between seeds was not measured"))
    if "rouge" in metric:
        band, few = ROUGE_NOISE_POINTS, dialogues is not None and dialogues < _NOISE_DIALOGUES
        source = tr(
            "on {count} dialogues, runs that differ only in their seed differ this much", count=_NOISE_DIALOGUES
        )
        if few and dialogues:
            source = tr(
                "seeds alone make {band:.2f} on {count} dialogues, and these are {dialogues}",
                band=band,
                count=_NOISE_DIALOGUES,
                dialogues=dialogues,
            )
            band *= math.sqrt(_NOISE_DIALOGUES / dialogues)
        return Noise(band=band, source=source)
    return Noise(band=None, source=tr("how far {metric} varies between seeds was not measured", metric=metric))


def is_tied(best: Candidate, other: Candidate, noise: Noise) -> bool:
    band = noise.between(best, other)
    return other is best or abs(best.score - other.score) <= (band if band is not None else 0.0)


def _candidate(group: Sequence[Scored], goal: Goal) -> Candidate:
    whole = [one for one in group if one.trial.status == "finished"] or list(group)
    ordered = best_first(whole, lambda one: one.score, goal)
    scores = [one.score for one in ordered]
    mean = sum(scores) / len(scores)
    spread = None
    if len(_seeds(ordered)) > 1:  # runs with one seed often have no spread
        spread = math.sqrt(sum((s - mean) ** 2 for s in scores) / (len(scores) - 1))
    return Candidate(trials=tuple(ordered), score=mean, spread=spread)


def _seeds(trials: Sequence[Scored]) -> set[object]:
    """Returns the different seeds of trials; an unknown seed counts as different."""
    known = [one.trial.sampled.get("seed", one.trial.seed) for one in trials]
    return {index if seed is None else (seed,) for index, seed in enumerate(known)}
