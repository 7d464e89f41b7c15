"""Advice on what to do next, derived from the trials by pure rules. Each piece of advice has a reason."""

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tune_jobs.analysis.candidates import Scored
from tune_jobs.analysis.importance import LEAST_TRIALS, Importances
from tune_jobs.analysis.sweep_analysis import Analysis
from tune_jobs.config.language import tr
from tune_jobs.config.parameters import show_value
from tune_jobs.records.command_line import driver_arguments
from tune_jobs.report.charts_memory import memory_points
from tune_jobs.report.charts_space import best_box
from tune_jobs.report.formatting import metric_name, show_score, trials_text

_MOST = 5
_EDGE = 0.08  # a best value within this part of the range's end suggests better values beyond it
_SETTINGS = ("num_beams", "length_penalty", "no_repeat_ngram_size", "generation_max_len")
_HALF_EMPTY = 0.6


@dataclass(frozen=True, kw_only=True)
class Advice:
    """One recommended action.

    Attributes:
        title: The action.
        reason: The observation behind it.
        command: The command to run; empty when the action is an edit of the sweep file.
    """

    title: str
    reason: str
    command: str = ""


def advise(analysis: Analysis, importances: Importances, folder: str, winner_folder: str) -> tuple[Advice, ...]:
    """Returns at most five recommended actions, the most urgent first.

    Args:
        analysis: The analysis of the sweep.
        importances: The importances of its parameters.
        folder: The sweep's result folder, as shown in commands.
        winner_folder: The experiment folder with the winner's model; empty if there is none.
    """
    found = [*_unfinished(analysis), *_failures(analysis)]
    if analysis.winner is not None:
        found += _baseline(analysis)
        if not analysis.missing:  # while trials are missing, the best trial may still change
            found += _ties(analysis)
            found += _all_alike(analysis) or _edges(analysis, importances)
            found += _still_rising(analysis)
            found += [*_memory(analysis), *_narrow(analysis, folder)]
        found.append(_use(analysis, folder, winner_folder))
        if len(found) > _MOST:  # always keep the last one: how to use the winner
            found = [*found[: _MOST - 1], found[-1]]
    return tuple(found[:_MOST])


def _unfinished(analysis: Analysis) -> list[Advice]:
    source = analysis.sweep.source or "SWEEP"
    if not analysis.ledger.trials:
        return [
            Advice(
                title=tr("Run the sweep"),
                reason=tr("no trial has started"),
                command=f"python -m tune_jobs run {source}",
            )
        ]
    missing = analysis.missing
    if missing <= 0:
        return []
    have = tr("1 trial has not ended") if missing == 1 else tr("{trials} have not ended", trials=trials_text(missing))
    if analysis.is_running:
        reason = tr("{have}; the sweep is running", have=have)
        return [Advice(title=tr("Wait for the sweep"), reason=reason, command="python -m tune_jobs top")]
    return [Advice(title=tr("Let the sweep end"), reason=have, command=resuming(analysis.sweep.command, source))]


def resuming(command: str, source: str) -> str:
    """Returns the command that resumes a sweep, with the folders and cards of the command that started it.

    >>> resuming("python -m tune_jobs run a.yaml --output /nas/results --start-at 22:00", "a.yaml")
    'python -m tune_jobs run a.yaml --output /nas/results --resume'
    >>> resuming("", "a.yaml")
    'python -m tune_jobs run a.yaml --resume'
    """
    arguments = shlex.split(command)
    if arguments[:4] != ["python", "-m", "tune_jobs", "run"]:
        return f"python -m tune_jobs run {source} --resume"
    return shlex.join([*arguments[:3], *driver_arguments(arguments[3:], resume=True)])


def _failures(analysis: Analysis) -> list[Advice]:
    """Returns remedies for failed or too large trials if at least a tenth of the trials is lost."""
    total = len(analysis.ledger.trials)
    if len(analysis.failures) < 0.1 * total:
        return []
    too_large = [trial for trial in analysis.failures if trial.status in ("oom", "refused")]
    broken = [trial for trial in analysis.failures if trial.status == "failed"]
    remedies = [
        (tr("Fix the most frequent failure"), broken),
        (tr("Allow larger shares, a smaller max length or gradient checkpointing"), too_large),
    ]
    remedies.sort(key=lambda pair: -len(pair[1]))
    found: list[Advice] = []
    for title, trials in remedies:
        if not trials or (found and len(trials) < 0.1 * total):
            continue
        reasons = Counter(trial.error.message if trial.error else tr("no reason was recorded") for trial in trials)
        message, count = reasons.most_common(1)[0]
        reason = tr("{count} of {trials}: {message}", count=count, trials=trials_text(total), message=message)
        found.append(Advice(title=title, reason=reason))
    return found


def _baseline(analysis: Analysis) -> list[Advice]:
    best, metric = analysis.candidates[0].score, analysis.sweep.metric
    unbeaten = [
        tr("{name} has {score}", name=name, score=show_score(score, metric))
        for name, score in (analysis.sweep.baseline or {}).items()
        if (best <= score if analysis.maximize else best >= score)
    ]
    if not unbeaten:
        return []
    reason = tr("{baselines}, and no trial is better", baselines=", ".join(unbeaten))
    return [Advice(title=tr("Do not use the winner yet"), reason=reason)]


def _ties(analysis: Analysis) -> list[Advice]:
    # a sweep of generation settings trains nothing, so seeds have no effect
    trained = analysis.winner is not None and analysis.winner.trial.trained is not None
    if trained or analysis.sureness not in ("tied", "uncertain", "unknown"):
        return []
    if any(trial.lineage for trial in analysis.ledger.trials):  # a schedule of values cannot be retrained as one trial
        title = tr("Run the population again with another seed")
        return [Advice(title=title, reason=tr("how far two such runs lie apart was not measured"))]
    count = min(len(analysis.tied), 5) if analysis.sureness == "tied" else min(len(analysis.candidates), 2)
    reason = analysis.noise.source
    if analysis.sureness == "uncertain":
        reason = tr("other dialogues might reverse their ranking")
    elif analysis.band:
        reason = tr("{band} may be chance: ", band=show_score(analysis.band, analysis.sweep.metric)) + reason
    if len(analysis.tied) > count:
        reason = tr("{reason}; {count} are tied in all", reason=reason, count=len(analysis.tied))
    title = (
        tr("Train the best {count} again with three seeds each (a phase of kind confirm)", count=count)
        if analysis.candidates[0].spread is None
        else tr("Train the best {count} again with three more seeds each (a phase of kind confirm)", count=count)
    )
    return [Advice(title=title, reason=reason)]


def _all_alike(analysis: Analysis) -> list[Advice]:
    """Returns advice if all configurations are tied, because then the best ones do not show where to search next."""
    if len(analysis.candidates) < LEAST_TRIALS or len(analysis.tied) < len(analysis.candidates):
        return []
    count = len(analysis.candidates)
    reason = tr("all {count} configurations are tied, so what was searched made no difference", count=count)
    return [Advice(title=tr("Widen the ranges, or evaluate on more dialogues"), reason=reason)]


def _edges(analysis: Analysis, importances: Importances) -> list[Advice]:
    """Advises to widen the range of an important parameter whose best value lies at an end of it."""
    matters = {one.name for one in importances.parameters if one.stands_out} | {"learning_rate"}
    top = [candidate.best for candidate in analysis.candidates[:3]]
    found = []
    for parameter in analysis.parameters:
        if parameter.name not in matters or parameter.scale == "category" or parameter.high <= parameter.low:
            continue
        positions = [
            parameter.position(one.trial.sampled[parameter.name]) for one in top if parameter.name in one.trial.sampled
        ]
        if not positions or not (positions[0] <= _EDGE or positions[0] >= 1 - _EDGE):
            continue
        upper = positions[0] >= 0.5
        end = show_value(parameter.high if upper else parameter.low)
        value = show_value(top[0].trial.sampled[parameter.name])
        if upper:
            title = tr("Search higher values of {name}", name=parameter.name)
            reason = tr("the best trial has {value}, at the upper end {end} of the range", value=value, end=end)
        else:
            title = tr("Search lower values of {name}", name=parameter.name)
            reason = tr("the best trial has {value}, at the lower end {end} of the range", value=value, end=end)
        found.append(Advice(title=title, reason=reason))
    return found


def _still_rising(analysis: Analysis) -> list[Advice]:
    """Advises longer training if the winner's last evaluation was its best and the last gain exceeds the noise."""
    winner, metric = analysis.winner, analysis.sweep.metric
    assert winner is not None
    scores = [score for row in winner.trial.history if (score := row.get(metric)) is not None]
    if winner.trial.status != "finished" or len(scores) < 3 or scores[-1] != winner.score:
        return []
    before = scores[: -max(1, len(scores) // 4)]
    gain = abs(winner.score - (max(before) if analysis.maximize else min(before)))
    least = analysis.noise.band if analysis.noise.band is not None else abs(winner.score) * 0.02
    if gain <= least:
        return []
    reason = tr("it was best in its last evaluation and had just gained {gain}", gain=show_score(gain, metric))
    return [Advice(title=tr("Train the winner longer"), reason=reason)]


def _memory(analysis: Analysis) -> list[Advice]:
    points = [(p, p.measured) for p in memory_points(analysis.ledger.trials) if p.measured is not None]
    over = [point for point, seen in points if seen > point.upper]
    if over:
        reason = tr(
            "{trials} of {total} took more than their upper bound", trials=trials_text(len(over)), total=len(points)
        )
        return [Advice(title=tr("Let calibration raise the margin"), reason=reason)]
    parts = sorted(seen / point.upper for point, seen in points)
    if len(parts) >= 3 and parts[len(parts) // 2] < _HALF_EMPTY:
        part = parts[len(parts) // 2]
        reason = tr("half of the trials took less than {part:.0%} of the memory held for them", part=part)
        return [Advice(title=tr("Let calibration lower the margin: more trials would fit on a card"), reason=reason)]
    return []


def _narrow(analysis: Analysis, folder: str) -> list[Advice]:
    whole = analysis.scored[0].trial.trained is not None and analysis.sweep.method == "grid"
    if analysis.phases or whole:  # a staged search narrows by itself; a complete grid has nothing to narrow
        return []
    if _all_alike(analysis) or analysis.sweep.method == "pbt":  # a population changes its values by itself
        return []
    if len(analysis.scored) < LEAST_TRIALS:
        has_seeds = any(candidate.spread is not None for candidate in analysis.candidates)
        if has_seeds or not (analysis.parameters or analysis.sweep.parameters):  # a confirmation searches nothing
            return []
        count = len(analysis.scored)
        reason = (
            tr("1 trial with a score is too few")
            if count == 1
            else tr("{trials} with a score are too few", trials=trials_text(count))
        )
        return [Advice(title=tr("Run more trials before choosing"), reason=reason)]
    top = _top_quarter(analysis)
    boxes = [f"{one.name} {box}" for one in analysis.parameters if (box := best_box(one, top))]
    if not boxes:
        return []
    reason = tr("the best quarter lies at {ranges}", ranges="; ".join(boxes))
    return [
        Advice(title=tr("Search on around the best"), reason=reason, command=f"python -m tune_jobs narrow {folder}")
    ]


def _top_quarter(analysis: Analysis) -> Sequence[Scored]:
    return analysis.scored[: max(3, len(analysis.scored) // 4)]


def _use(analysis: Analysis, folder: str, winner_folder: str) -> Advice:
    winner = analysis.winner
    assert winner is not None
    name = metric_name(analysis.sweep.metric)
    score = show_score(winner.score, analysis.sweep.metric)
    runs = analysis.candidates[0].runs_text
    name = tr("the best of its {runs}: {name}", runs=runs, name=name) if runs else name
    reason = f"{name} {score}"
    if winner_folder:
        reason += tr("; the model is in {folder}", folder=f"{winner_folder}/models/best_model")
    if winner.trial.trained is not None:
        settings = " ".join(f"--set {key}={value}" for key, value in winner.trial.sampled.items() if key in _SETTINGS)
        command = f"python -m dialsum generate --run {winner_folder} --data FILE --output summaries.jsonl {settings}"
        return Advice(title=tr("Write summaries with these settings"), reason=reason, command=command.rstrip())
    if winner.trial.lineage:
        reason += tr("; its values changed during training, so no single configuration reproduces it")
        return Advice(title=tr("Use the winner"), reason=reason, command=f"python -m tune_jobs hand-over {folder}")
    cards = winner.trial.cards
    launcher = f"torchrun --nproc-per-node {cards}" if cards > 1 else "python"
    command = f"{launcher} -m dialsum train --config {folder}/best_config.yaml --output outputs/again"
    return Advice(title=tr("Use the winner, or train it again"), reason=reason, command=command)
