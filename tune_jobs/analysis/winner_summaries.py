"""What the summaries themselves say: examples of the winner's, and whether they are better than those of the second."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dialsum.baselines import lead
from dialsum.config import Language
from tune_jobs.analysis.candidates import Candidate
from tune_jobs.analysis.significance import PairedDifference, paired_bootstrap
from tune_jobs.analysis.summaries import Summary, read_summaries, score_summaries
from tune_jobs.analysis.sweep_analysis import Analysis
from tune_jobs.records.ledger import ExperimentFolder, TrialRecord

_SAME = 0.02  # points; a file whose mean differs more from the ledger's score is of another evaluation


@dataclass(frozen=True, kw_only=True)
class WinnerSummaries:
    """The summaries of the best candidate, and how they compare with the second's.

    Attributes:
        dialogues: How many the scores come from; None where that is not known.
        against_second: The best candidate against the second, on the same dialogues, each dialogue by its mean over
            the seeds; None where there are no summaries of both.
        examples: The winner's best, middle and worst summary.
        summaries: All of the winner's.
        lead_score: What the first three turns of each dialogue would score; None where there are no summaries.
    """

    dialogues: int | None = None
    against_second: PairedDifference | None = None
    examples: tuple[Summary, ...] = ()
    summaries: tuple[Summary, ...] = ()
    lead_score: float | None = None


def read_winner_summaries(analysis: Analysis) -> WinnerSummaries:
    """Reads the summaries of the best two candidates, as far as their experiment folders are at hand."""
    if analysis.winner is None:
        return WinnerSummaries()
    best, metric = analysis.winner, analysis.sweep.metric
    summaries = _scored(best.trial, metric, best.score)
    if not summaries:
        return WinnerSummaries(dialogues=_as_number(best.trial.resolved.get("max_eval_samples")))
    return WinnerSummaries(
        dialogues=len(summaries),
        against_second=_against_second(analysis),
        examples=_examples(summaries),
        summaries=tuple(summaries),
        lead_score=_mean([replace(one, prediction=lead(one.dialogue)) for one in summaries], best.trial, metric),
    )


def _scored(trial: TrialRecord, metric: str, score: float) -> list[Summary]:
    """Scores each summary of a trial; nothing where they are not those that the ledger's score comes from."""
    summaries = read_summaries(ExperimentFolder(Path(trial.experiment_dir)).predictions) if trial.experiment_dir else []
    if not summaries or "rouge" not in metric or trial.resolved.get("language") not in ("ko", "en"):
        return []
    scored = _with_scores(summaries, trial, metric)
    mean = sum(one.score for one in scored) / len(scored)
    return scored if abs(mean - score) <= _SAME else []


def _mean(summaries: Sequence[Summary], trial: TrialRecord, metric: str) -> float:
    return sum(one.score for one in _with_scores(summaries, trial, metric)) / len(summaries)


def _with_scores(summaries: Sequence[Summary], trial: TrialRecord, metric: str) -> list[Summary]:
    language: Language = "ko" if trial.resolved.get("language") == "ko" else "en"
    name = metric.split("/", 1)[-1]
    scores = score_summaries(summaries, language, _weights(trial))
    return [replace(one, score=row[name]) for one, row in zip(summaries, scores, strict=True)]


def _weights(trial: TrialRecord) -> tuple[float, float, float]:
    from dialsum.metrics import DEFAULT_WEIGHTS

    given = trial.resolved.get("rouge_weights")
    if isinstance(given, (list, tuple)) and len(given) == 3:
        return float(given[0]), float(given[1]), float(given[2])
    return DEFAULT_WEIGHTS


def _against_second(analysis: Analysis) -> PairedDifference | None:
    if len(analysis.candidates) < 2:
        return None
    best, second = (_mean_by_dialogue(analysis.candidates[place], analysis.sweep.metric) for place in (0, 1))
    if not best or set(best) != set(second):
        return None
    names = sorted(best)
    return paired_bootstrap([best[name] for name in names], [second[name] for name in names])


def _mean_by_dialogue(candidate: Candidate, metric: str) -> dict[str, float]:
    """Each dialogue's mean score over the seeds; empty where one of them has no summaries of the same dialogues."""
    seeds = [
        {summary.fname: summary.score for summary in _scored(one.trial, metric, one.score)} for one in candidate.trials
    ]
    if any(set(scores) != set(seeds[0]) for scores in seeds):
        return {}
    return {name: sum(scores[name] for scores in seeds) / len(seeds) for name in seeds[0]}


def _examples(summaries: Sequence[Summary]) -> tuple[Summary, ...]:
    ranked = sorted(summaries, key=lambda one: -one.score)
    places = dict.fromkeys((0, len(ranked) // 2, len(ranked) - 1))
    return tuple(ranked[place] for place in places)


def _as_number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
