"""Compares two runs of one configuration: same, within noise, or different. Pure except for reading files."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dialsum.config import METRIC_GOALS, RunConfig
from tune_jobs.analysis.candidates import Candidate, Scored, find_noise
from tune_jobs.analysis.significance import PairedDifference
from tune_jobs.records.ledger import ExperimentFolder, TrialRecord
from tune_jobs.records.run_numbers import RunNumbers
from tuning_common.files import read_jsonl
from tuning_common.goal import best_first
from tuning_common.units import counted

REPETITIONS = "reproductions"  # beside experiments/
RESULT_FILE = "reproduction.json"
Outcome = Literal["same", "within noise", "different"]
_COMPARED = ("eval/", "train/loss", "train/grad_norm", "train/learning_rate")  # times and memory always differ


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """The first number that differs.

    Attributes:
        evaluation: Number of the evaluation, from 1; 0 for the test scores.
        name: Name of the metric.
        before: Value in the first run; None if it is new.
        again: Value in the repetition; None if it is gone.
    """

    evaluation: int
    name: str
    before: float | None
    again: float | None


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The result of comparing a run with its repetition.

    Attributes:
        outcome: "same" means equal bit for bit.
        reason: Explanation of the outcome.
        metric: The metric by which "within noise" is decided.
        before: Best value of the first run.
        again: Best value of the repetition.
        numbers: How many numbers were compared.
        deviation: The first difference; None if all numbers are equal.
        same_summaries: How many of the best model's summaries are equal; None if one side has none.
        summaries: How many summaries there are.
        same_weights: Whether the best models are equal bit for bit; None if one side has no weights.
    """

    outcome: Outcome
    reason: str
    metric: str
    before: float
    again: float
    numbers: int
    deviation: Deviation | None
    same_summaries: int | None
    summaries: int
    same_weights: bool | None


def judge(
    before: RunNumbers,
    again: RunNumbers,
    *,
    config: RunConfig,
    paired: PairedDifference | None = None,
    dialogues: int | None = None,
    summaries: tuple[int, int] | None = None,
    same_weights: bool | None = None,
) -> Judgement:
    """Compares a run with its repetition.

    Args:
        before: The first run.
        again: The repetition.
        config: The configuration of both. Its metric is compared; its model determines the published noise.
        paired: The repetition against the first run on the same dialogues; None if a side has no summaries.
        dialogues: How many dialogues were scored.
        summaries: How many summaries are equal, and how many there are.
        same_weights: See Judgement.
    """
    other_scorer = before.scorer is not None and again.scorer is not None and before.scorer != again.scorer
    if other_scorer:  # scores of different scorers are never compared
        before, again, paired = _without_scores(before), _without_scores(again), None
    metric = config.metric if config.metric in before.history[0] else "eval/loss"
    old, new = (_best(run, metric) for run in (before, again))
    deviation, numbers = first_deviation(before, again)
    if deviation is None and summaries is not None and summaries[0] < summaries[1]:
        outcome, reason = _by_noise(metric, config.model, old, new, paired, dialogues)
        reason = (
            f"all numbers are equal, but {summaries[1] - summaries[0]} of {summaries[1]} summaries differ; {reason}"
        )
    elif deviation is None:
        made = counted(len(before.history), "evaluation")
        outcome, reason = "same", f"all {numbers} numbers of {made} are equal bit for bit"
    else:
        outcome, reason = _by_noise(metric, config.model, old, new, paired, dialogues)
    if other_scorer:
        reason += "; scores are left out, as another scorer computed them"
    return Judgement(
        outcome=outcome,
        reason=reason,
        metric=metric,
        before=old,
        again=new,
        numbers=numbers,
        deviation=deviation,
        same_summaries=summaries[0] if summaries else None,
        summaries=summaries[1] if summaries else 0,
        same_weights=same_weights,
    )


def _best(run: RunNumbers, metric: str) -> float:
    values = [row[metric] for row in run.history if metric in row]
    return best_first(values, float, METRIC_GOALS[metric])[0]


def first_deviation(before: RunNumbers, again: RunNumbers) -> tuple[Deviation | None, int]:
    """Finds the first number that differs, and counts the compared numbers.

    >>> one, other = ({"eval/loss": 2.0, "time/total_s": 9.0}, {"eval/loss": 2.5, "time/total_s": 1.0})
    >>> runs = [RunNumbers(history=(row,), test=None, scorer=None) for row in (one, other)]
    >>> first_deviation(*runs)
    (Deviation(evaluation=1, name='eval/loss', before=2.0, again=2.5), 1)
    """
    found: Deviation | None = None
    numbers = 0
    rows = max(len(before.history), len(again.history))
    pairs = [(number, _row(before, number), _row(again, number)) for number in range(1, rows + 1)]
    for number, one, other in [*pairs, (0, before.test or {}, again.test or {})]:
        for name in sorted({**one, **other}):
            if number and not name.startswith(_COMPARED):
                continue
            numbers += 1
            if found is None and one.get(name) != other.get(name):
                found = Deviation(evaluation=number, name=name, before=one.get(name), again=other.get(name))
    return found, numbers


def same_summaries(one: Path, other: Path) -> tuple[int, int] | None:
    """Counts equal summaries of two predictions.jsonl; returns None if one of them is empty."""
    before, again = (read_jsonl(ExperimentFolder(folder).predictions)[0] for folder in (one, other))
    if not before or not again:
        return None
    texts = {str(row.get("fname")): row.get("prediction") for row in again}
    return sum(texts.get(str(row.get("fname"))) == row.get("prediction") for row in before), max(
        len(before), len(again)
    )


def same_weights(one: Path, other: Path) -> bool | None:
    """Compares the weights of two best models; returns None if one of them is gone."""
    folders = [ExperimentFolder(folder).best_model for folder in (one, other)]
    names = [sorted(path.name for path in folder.glob("*.safetensors")) for folder in folders]
    if not all(names):
        return None
    return names[0] == names[1] and all(_sha256(folders[0] / name) == _sha256(folders[1] / name) for name in names[0])


def _by_noise(
    metric: str, model: str, old: float, new: float, paired: PairedDifference | None, dialogues: int | None
) -> tuple[Outcome, str]:
    trial = TrialRecord(trial_id="", name="", sweep="", status="finished", resolved={"model": model})
    candidate = Candidate(trials=(Scored(trial=trial, score=old),), score=old)
    noise = find_noise(metric, [candidate], dialogues=dialogues)
    apart = abs(new - old)
    if noise.band is not None:
        outcome: Outcome = "within noise" if apart <= noise.band else "different"
        return outcome, f"{apart:.3g} apart, and {noise.band:.2g} may be chance: {noise.source}"
    if paired is not None:
        interval = f"on other {paired.count} dialogues it would be {paired.low:+.2f} to {paired.high:+.2f} (95%)"
        return "different" if paired.is_clear else "within noise", f"{apart:.3g} apart; {interval}"
    return "different", f"{apart:.3g} apart, and {noise.source}"


def _without_scores(run: RunNumbers) -> RunNumbers:
    rows = [{name: value for name, value in row.items() if "rouge" not in name} for row in run.history]
    return RunNumbers(history=tuple(rows), test=None, scorer=run.scorer)


def _row(run: RunNumbers, number: int) -> Mapping[str, float]:
    return run.history[number - 1] if number <= len(run.history) else {}


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
