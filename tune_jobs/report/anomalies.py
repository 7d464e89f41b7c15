"""Detects anomalies of a sweep with pure rules over its ledger and the winner's summaries."""

import statistics
from collections import Counter
from collections.abc import Sequence

from tune_jobs.analysis.summaries import Summary
from tune_jobs.analysis.sweep_analysis import Analysis
from tune_jobs.config.language import duration_text, tr
from tune_jobs.records.ledger import TrialOutcome, TrialRecord
from tune_jobs.report.charts_memory import memory_points
from tune_jobs.report.formatting import metric_name, outcome_text, show_score, trials_text
from tuning_common.units import format_bytes

_SLOW = 3.0  # times the median time of an evaluation
_WORSE_LOSS = 1.1  # the last dev loss against the lowest
_REPEATS = 4  # a three-word sequence repeated this often in one summary is a loop
_SHOWN = 3


def find_anomalies(analysis: Analysis, summaries: Sequence[Summary] = ()) -> list[str]:
    """Returns one sentence for each anomaly, the most costly first; empty if there is none.

    Args:
        analysis: The analysis of the sweep.
        summaries: All summaries of the winner.
    """
    trials = analysis.ledger.trials
    found = [*_ends(analysis), *_winner(analysis), *_overfit(analysis), *_broken(analysis)]
    found += [*_memory(trials), *_slow(trials), *_same(analysis), *_summaries(summaries)]
    return found


def repeats_itself(text: str) -> bool:
    """Returns whether a summary contains the same three-word sequence at least four times.

    >>> repeats_itself("a b c " * 4), repeats_itself("a b c d e f g h")
    (True, False)
    """
    tokens = text.split()
    sequences = Counter(tuple(tokens[i : i + 3]) for i in range(len(tokens) - 2))
    return max(sequences.values(), default=0) >= _REPEATS


def _ends(analysis: Analysis) -> list[str]:
    found = []
    outcomes: tuple[TrialOutcome, ...] = ("failed", "oom", "refused")
    for outcome in outcomes:
        ended = [trial for trial in analysis.ledger.trials if trial.status == outcome]
        if ended:
            reasons = Counter(trial.error.message if trial.error else tr("no reason was recorded") for trial in ended)
            message, count = reasons.most_common(1)[0]
            often = "" if len(reasons) == 1 else tr(" ({count} of them)", count=count)
            trials, end = trials_text(len(ended)), outcome_text(outcome)
            found.append(tr("{trials} ended as {end}: {message}", trials=trials, end=end, message=message) + often)
    again = [trial for trial in analysis.ledger.trials if trial.retries]
    if again:
        attempts = sum(trial.retries for trial in again)
        found.append(
            tr(
                "{trials} were started again, {attempts} times in all: {names}",
                trials=trials_text(len(again)),
                attempts=attempts,
                names=_names(again),
            )
        )
    for trial in analysis.ledger.trials:
        if trial.damaged:
            damage = "; ".join(trial.damaged)
            found.append(
                tr("{name} did not continue from its last checkpoint: {damage}", name=trial.name, damage=damage)
            )
    if analysis.ledger.torn:
        found.append(
            tr(
                "{count} lines of the ledger could not be read, so trials may be missing: {shown}",
                count=len(analysis.ledger.torn),
                shown="; ".join(analysis.ledger.torn[:_SHOWN]),
            )
        )
    return found


def _winner(analysis: Analysis) -> list[str]:
    winner = analysis.winner
    if winner is None or winner.trial.status == "finished":
        return []
    name = winner.trial.name
    end = outcome_text(winner.trial.status)
    return [tr("the winner {name} did not run to its end: {end}", name=name, end=end)]


def _overfit(analysis: Analysis) -> list[str]:
    """Reports a dev loss that rises during training. The score may still rise, so this is only a remark."""
    rising = []
    for one in analysis.scored:
        losses = [loss for row in one.trial.history if (loss := row.get("eval/loss")) is not None]
        if len(losses) >= 3 and losses[-1] > _WORSE_LOSS * min(losses) > 0:
            rising.append(one.trial)
    if not rising:
        return []
    trials, names = trials_text(len(rising)), _names(rising)
    return [tr("the dev loss of {trials} rose by more than 10% from its lowest: {names}", trials=trials, names=names)]


def _broken(analysis: Analysis) -> list[str]:
    """Reports trials whose last score is far below their best."""
    metric = analysis.sweep.metric
    if "rouge" not in metric:
        return []
    fell = []
    for one in analysis.scored:
        scores = [score for row in one.trial.history if (score := row.get(metric)) is not None]
        if scores and one.score > 1.0 and scores[-1] < one.score / 2:
            fell.append(one.trial)
    if not fell:
        return []
    return [
        tr(
            "{trials} lost more than half of {metric} again: {names}",
            trials=trials_text(len(fell)),
            metric=metric_name(metric),
            names=_names(fell),
        )
    ]


def _memory(trials: Sequence[TrialRecord]) -> list[str]:
    over = [(p.measured, p.upper) for p in memory_points(trials) if p.measured is not None and p.measured > p.upper]
    if not over:
        return []
    worst, bound = max(over, key=lambda pair: pair[0] - pair[1])
    return [
        tr(
            "{trials} took more memory than their upper bound, at worst {worst} against {bound}",
            trials=trials_text(len(over)),
            worst=format_bytes(worst),
            bound=format_bytes(bound),
        )
    ]


def _slow(trials: Sequence[TrialRecord]) -> list[str]:
    paces = [(pace, trial) for trial in trials if (pace := _pace_s(trial)) is not None]
    if len(paces) < 4:
        return []
    middle = statistics.median(pace for pace, _ in paces)
    slow = sorted((pair for pair in paces if pair[0] > _SLOW * middle), key=lambda pair: -pair[0])
    if not slow:
        return []
    message = (
        tr("1 trial was slow, at worst {worst} for an evaluation where {usual} is usual: {names}")
        if len(slow) == 1
        else tr("{count} trials were slow, at worst {worst} for an evaluation where {usual} is usual: {names}")
    )
    worst, usual = duration_text(slow[0][0]), duration_text(middle)
    return [message.format(count=len(slow), worst=worst, usual=usual, names=_names([trial for _, trial in slow]))]


def _pace_s(trial: TrialRecord) -> float | None:
    """Returns the mean seconds between two evaluations; the time before the first one includes the process start."""
    moments = [moment for row in trial.history if (moment := row.get("wall_s")) is not None]
    return (moments[-1] - moments[0]) / (len(moments) - 1) if len(moments) > 1 else None


def _same(analysis: Analysis) -> list[str]:
    """Reports equal scores of different settings: nothing reads a setting, or too few dialogues are evaluated."""
    scores = Counter(one.score for one in analysis.scored if one.score)
    value, count = scores.most_common(1)[0] if scores else (0.0, 0)
    if count < 3 or count * 2 < len(analysis.scored):
        return []
    score = show_score(value, analysis.sweep.metric)
    return [tr("the same score for {trials}: {score}", trials=trials_text(count), score=score)]


def _summaries(summaries: Sequence[Summary]) -> list[str]:
    if not summaries:
        return []
    found = []
    total = len(summaries)
    blank = sum(1 for one in summaries if not one.prediction.strip())
    loops = sum(1 for one in summaries if repeats_itself(one.prediction))
    same = Counter(one.prediction for one in summaries if one.prediction.strip())
    text, often = same.most_common(1)[0] if same else ("", 0)
    if blank:
        found.append(tr("blank summaries of the winner: {blank} of {total}", blank=blank, total=total))
    if loops:
        message = tr("summaries of the winner that run in a loop: {loops} of {total}; {remedy} forbids it")
        found.append(message.format(loops=loops, total=total, remedy="no_repeat_ngram_size: 3"))
    if often > max(2, len(summaries) // 20):
        message = tr("the winner writes the same summary for {often} of {total} dialogues: {text}")
        found.append(message.format(often=often, total=total, text=text[:80]))
    return found


def _names(trials: Sequence[TrialRecord]) -> str:
    more = tr(" and {count} more", count=len(trials) - _SHOWN) if len(trials) > _SHOWN else ""
    return ", ".join(trial.name for trial in trials[:_SHOWN]) + more
