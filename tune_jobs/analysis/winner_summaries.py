"""Summaries of the winner: examples, and their comparison with those of the second."""

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

_SAME = 0.02  # points; a larger difference to the ledger's score means another evaluation


@dataclass(frozen=True, kw_only=True)
class WinnerSummaries:
    """The summaries of the best candidate and their comparison with the second's.

    Attributes:
        dialogues: Number of scored dialogues; None where it is unknown.
        against_second: The best candidate against the second, on the same dialogues, each dialogue by its mean over
            the seeds; None where there are no summaries of both.
        examples: The winner's best, middle and worst summary.
        summaries: All summaries of the winner.
        lead_score: Score of the first three turns of each dialogue; None where there are no summaries.
    """

    dialogues: int | None = None
    against_second: PairedDifference | None = None
    examples: tuple[Summary, ...] = ()
    summaries: tuple[Summary, ...] = ()
    lead_score: float | None = None


def read_winner_summaries(analysis: Analysis) -> WinnerSummaries:
    """Reads the summaries of the best two candidates, where their experiment folders exist."""
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
    """Scores each summary of a trial; empty where they are not of the evaluation in the ledger."""
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
    best, second = (_mean_by_dialogue(analysis.candidates[index], analysis.sweep.metric) for index in (0, 1))
    if not best or set(best) != set(second):
        return None
    names = sorted(best)
    return paired_bootstrap([best[name] for name in names], [second[name] for name in names])


def _mean_by_dialogue(candidate: Candidate, metric: str) -> dict[str, float]:
    """Returns each dialogue's mean score over the seeds; empty where the seeds have different dialogues."""
    seeds = [
        {summary.fname: summary.score for summary in _scored(one.trial, metric, one.score)} for one in candidate.trials
    ]
    if any(set(scores) != set(seeds[0]) for scores in seeds):
        return {}
    return {name: sum(scores[name] for scores in seeds) / len(seeds) for name in seeds[0]}


def _examples(summaries: Sequence[Summary]) -> tuple[Summary, ...]:
    ranked = sorted(summaries, key=lambda one: -one.score)
    chosen = dict.fromkeys((0, len(ranked) // 2, len(ranked) - 1))
    return tuple(ranked[index] for index in chosen)


def _as_number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
