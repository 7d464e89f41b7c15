"""The summary of a sweep for page and text: best configuration, certainty, cost."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tune_jobs.analysis.candidates import Candidate, score_of
from tune_jobs.analysis.further_trials import Gain, further_gain
from tune_jobs.analysis.sweep_analysis import Analysis, describe_settings
from tune_jobs.config.language import duration_text, in_units, tr
from tune_jobs.config.parameters import show_value
from tune_jobs.records.ledger import OUTCOMES, TrialRecord
from tune_jobs.records.snapshot import Snapshot
from tune_jobs.report.formatting import (
    amount,
    gpu_time,
    metric_name,
    outcome_text,
    plain_value,
    sentence,
    show_moment,
    show_score,
    trials_text,
)
from tuning_common.units import format_bytes, format_duration

SHOWN_RUNS = 20


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One fact of the headline.

    Attributes:
        label: Name of the fact.
        value: The fact, briefly.
        detail: One sentence of explanation.
    """

    label: str
    value: str
    detail: str


def headline(analysis: Analysis) -> str:
    """Returns one sentence that names the winner."""
    winner = analysis.winner
    if winner is None:
        total = len(analysis.ledger.trials)
        if not total:
            return tr("No trial has run yet")
        if analysis.missing:
            return tr("No trial has a score yet")
        if total == 1:
            return tr("The only trial has no score")
        return tr("None of the {trials} has a score", trials=trials_text(total))
    names = [one.name for one in analysis.parameters] or [name for name in winner.trial.sampled if name != "seed"]
    names.sort(key=lambda name: name != "model")  # the model first
    settings = [
        ("" if name == "model" else name.replace("_", " ") + " ") + plain_value(winner.trial.sampled[name])
        for name in names
        if name in winner.trial.sampled
    ]
    best = tr("Tied for best") if analysis.sureness == "tied" else tr("Best")
    if len(analysis.ledger.trials) == 1:
        best = tr("One trial")
    if analysis.missing:
        best = tr("{best} so far", best=best)
    return f"{best}: {', '.join(settings[:4]) or winner.trial.name}"


def eyebrow(analysis: Analysis) -> str:
    """Returns the sweep's name, method, end and member."""
    ends = [trial.ended_at for trial in analysis.ledger.trials if trial.ended_at is not None]
    when = show_moment(max(ends)) if ends else ""
    parts = [analysis.sweep.sweep, analysis.sweep.method, when, analysis.sweep.member or ""]
    return " · ".join(part for part in parts if part)


def badges(analysis: Analysis) -> list[str]:
    """Returns the warnings that a reader must see first."""
    found = [tr("simulated cards")] if analysis.sweep.simulated else []
    if analysis.missing and analysis.ledger.trials:
        found.append(tr("still running") if analysis.is_running else tr("not complete"))
    return found


def tiles(analysis: Analysis) -> tuple[Tile, ...]:
    """Returns the tiles of score, certainty, cost and trials."""
    return (_score_tile(analysis), _sureness_tile(analysis), _cost_tile(analysis), _trials_tile(analysis))


def facts(analysis: Analysis, snapshot: Snapshot | None) -> list[tuple[str, str]]:
    """Returns what the sweep ran with: models, data files with their sizes, the code's commit.

    Args:
        analysis: The analysis of the sweep.
        snapshot: The winner's; None where it has none.
    """
    models = dict.fromkeys(
        plain_value(trial.resolved["model"]) for trial in analysis.ledger.trials if "model" in trial.resolved
    )
    found = [(tr("Model"), ", ".join(models))]
    if snapshot is not None:
        names = {"train_file": tr("Training data"), "dev_file": tr("Dev data"), "test_file": tr("Test data")}
        found += [
            (names[field], f"{Path(file.path).name} ({format_bytes(file.size_bytes)})")
            for field, file in snapshot.data.items()
        ]
        commit = (snapshot.code.commit or "")[:10]
        changed = len(snapshot.code.dirty) + len(snapshot.code.untracked)
        if commit and changed:
            commit = tr("{commit} and {count} changed files", commit=commit, count=changed)
        found.append((tr("Code"), commit or tr("no commit: {reason}", reason=snapshot.code.reason)))
    return [(name, text) for name, text in found if text]


def _score_tile(analysis: Analysis) -> Tile:
    metric = analysis.sweep.metric
    label = sentence(metric_name(metric))
    if not analysis.candidates:
        return Tile(label=label, value="—", detail=tr("no trial reported it"))
    best = analysis.candidates[0]
    value = show_score(best.score, metric)
    if best.spread is not None:
        value += f" ± {show_score(best.spread, metric)}"
    seeds = ""
    if best.runs_text:
        seeds = tr("mean of {runs}; ", runs=best.runs_text)
        if best.spread is not None:
            seeds = tr("mean of {runs}, ± their sd; ", runs=best.runs_text)
    beaten = [
        tr(
            "{difference} against {name}",
            difference=("+" if best.score >= score else "−") + show_score(abs(best.score - score), metric),
            name=name,
        )
        for name, score in (analysis.sweep.baseline or {}).items()
    ]
    better = tr("higher is better") if analysis.maximize else tr("lower is better")
    return Tile(label=label, value=value, detail=seeds + ("; ".join(beaten) or better))


def _sureness_tile(analysis: Analysis) -> Tile:
    label, metric = tr("How sure"), analysis.sweep.metric
    band = analysis.band
    if analysis.sureness == "nothing":
        return Tile(label=label, value="—", detail=tr("there is no winner"))
    if analysis.sureness == "single":
        return Tile(label=label, value=tr("nothing to compare"), detail=tr("only one configuration has a score"))
    lead = abs(analysis.candidates[0].score - analysis.candidates[1].score)
    if analysis.sureness == "tied":
        others = len(analysis.tied) - 1
        value = tr("tied with {others} others", others=others) if others > 1 else tr("tied with 1 other")
        chance = tr("{band} may be chance: ", band=show_score(band, metric)) if band else ""
        return Tile(label=label, value=value, detail=chance + analysis.noise.source)
    if analysis.sureness == "clear":
        value = tr("clear, by {lead}", lead=show_score(lead, metric))
        facts = [
            tr("chance makes {band}: {source}", band=show_score(band or 0.0, metric), source=analysis.noise.source),
            paired_text(analysis),
        ]
    elif analysis.sureness == "uncertain":
        value = tr("not sure")
        facts = [tr("{lead} ahead of the second", lead=show_score(lead, metric)), paired_text(analysis)]
    else:
        value = tr("ahead by {lead}", lead=show_score(lead, metric))
        facts = [paired_text(analysis), analysis.noise.source]
    return Tile(label=label, value=value, detail="; ".join(fact for fact in facts if fact))


def paired_text(analysis: Analysis) -> str:
    """Returns the interval of the lead from the paired comparison of dialogues; empty if there is none."""
    paired, metric = analysis.paired, analysis.sweep.metric
    if paired is None:
        return ""
    low, high = (("+" if end >= 0 else "−") + show_score(abs(end), metric) for end in (paired.low, paired.high))
    return tr("on {count} other dialogues it would be {low} to {high} (95%)", count=paired.count, low=low, high=high)


def _cost_tile(analysis: Analysis) -> Tile:
    cost = analysis.cost
    total_trial_s = sum(cost.trial_s.values())
    simulated = tr(" on simulated cards") if analysis.sweep.simulated else ""
    value = gpu_time(sum(cost.gpu_s.values())) if cost.on_gpus else duration_text(total_trial_s)
    span = duration_text(cost.span_s)
    running = analysis.is_running and analysis.missing
    until = tr("{span} until now", span=span) if running else tr("{span} from start to end", span=span)
    hardware = simulated if cost.on_gpus else "" if analysis.sweep.cards else tr(", without a GPU")
    facts = [until + hardware]
    if cost.saved_s > 0:
        part = cost.saved_s / (cost.saved_s + total_trial_s)
        facts.append(tr("stopping early saved about {part:.0%}", part=part))
    return Tile(label=tr("Cost"), value=value, detail="; ".join(facts))


def _trials_tile(analysis: Analysis) -> Tile:
    total, meant = len(analysis.ledger.trials), analysis.sweep.trials
    counts = [(outcome, analysis.count(outcome)) for outcome in OUTCOMES]
    detail = ", ".join(
        tr("{count} {end}", count=count, end=outcome_text(outcome)) for outcome, count in counts if count
    )
    gain = _further_gain(analysis)
    detail = detail if gain is None else f"{detail}; {gain.text}"
    value = tr("{total} of {meant}", total=total, meant=meant) if meant is not None and meant != total else str(total)
    return Tile(label=tr("Trials"), value=value, detail=detail or tr("none has started"))


def _further_gain(analysis: Analysis) -> Gain | None:
    """Returns what half as many further trials would add to a plain random search; None for other methods."""
    if analysis.sweep.method != "random" or analysis.phases:
        return None
    scores = [one.score for one in analysis.scored if one.trial.status in ("finished", "stopped")]
    return further_gain(scores, len(scores) // 2, analysis.sweep.goal)


def runs_table(analysis: Analysis, most: int = SHOWN_RUNS) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Returns the header and the rows of the best configurations."""
    shown = analysis.candidates[:most]
    means = [_means(candidate, analysis.sweep.metric) for candidate in shown]
    extra = [
        name
        for name in (*_EXTRA, "eval/loss")
        if name != analysis.sweep.metric and any(name in values for values in means)
    ]
    names = [one.name for one in analysis.parameters] or [name for name in analysis.fixed if len(shown) == 1]
    extra_names = [_EXTRA.get(name) or tr("Loss") for name in extra]
    header = ("#", tr("Score"), tr("To best"), *names, *extra_names, tr("Evals"), tr("Time"), tr("End"), tr("Trial"))
    metric, tied = analysis.sweep.metric, {id(one) for one in analysis.tied}
    rows = []
    for rank, (candidate, values) in enumerate(zip(shown, means, strict=True), start=1):
        trial = candidate.best.trial
        seeds = f" ({candidate.runs_text})" if candidate.runs_text else ""
        rows.append(
            (
                str(rank),
                show_score(candidate.score, metric) + seeds,
                _distance(analysis, rank, candidate.score, is_tied=id(candidate) in tied),
                *(_setting(trial, name) for name in names),
                *(show_score(values[name], name) if name in values else "" for name in extra),
                str(len(trial.history)),
                _brief(trial.wall_s),
                outcome_text(trial.status),
                trial.name,
            )
        )
    return header, rows


def phase_rows(analysis: Analysis) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Returns the header and one row for each phase."""
    rows: list[tuple[str, ...]] = [
        (
            one.name or tr("without a phase"),
            str(one.trials),
            show_score(one.best, analysis.sweep.metric) if one.best is not None else "",
            duration_text(one.trial_s),
            amount(one.gpu_s / 3600),
        )
        for one in analysis.phases
    ]
    return (tr("Phase"), tr("Trials"), tr("Best"), tr("Time"), tr("GPU-hours")), rows


def trial_rows(analysis: Analysis) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Returns the header and one row for each trial of all phases, in the sequence of the ledger."""
    metric, goal = analysis.sweep.metric, analysis.sweep.goal
    rows = []
    for trial in analysis.ledger.trials:
        score = score_of(trial, metric, goal)
        rows.append(
            (
                trial.name,
                *((trial.phase,) if analysis.phases else ()),
                "" if score is None else show_score(score, metric),
                outcome_text(trial.status),
                str(len(trial.history)),
                _brief(trial.wall_s),
                describe_settings(trial.sampled, analysis.parameters),
            )
        )
    phase = (tr("Phase"),) if analysis.phases else ()
    return (tr("Trial"), *phase, tr("Score"), tr("End"), tr("Evals"), tr("Time"), tr("Settings")), rows


def _means(candidate: Candidate, metric: str) -> dict[str, float]:
    """Returns the mean of each metric over the runs of a configuration, at each run's best evaluation."""
    rows = [best_row(one.trial, metric, one.score) for one in candidate.trials]
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0] if all(name in row for row in rows)}


def _setting(trial: TrialRecord, name: str) -> str:
    """Formats a sampled value, with the value that was run if a rule changed it."""
    if name not in trial.sampled:
        return ""
    sampled, run = show_value(trial.sampled[name]), show_value(trial.resolved.get(name, trial.sampled[name]))
    return sampled if run == sampled else tr("{sampled} (run {run})", sampled=sampled, run=run)


def best_row(trial: TrialRecord, metric: str, score: float) -> dict[str, float]:
    """Returns all metrics of the evaluation in which a trial had its best score, under eval/* names."""
    row = next((row for row in trial.history if row.get(metric) == score), None)
    if row is not None:
        return {name: value for name, value in row.items() if value is not None}
    return {name.replace("best/", "eval/"): value for name, value in trial.best_metrics.items()}


def failure_rows(failures: Sequence[TrialRecord]) -> list[tuple[str, str, str, str]]:
    """Returns rows of (trial, end, reason, folder), grouped by reason, the most frequent first.

    Args:
        failures: Trials that failed, and those that ended without a score.
    """
    reasons = [_reason(trial) for trial in failures]
    counts = Counter(reasons)
    ranked = sorted(range(len(failures)), key=lambda i: (-counts[reasons[i]], reasons[i]))
    rows = []
    for i in ranked:
        trial = failures[i]
        where = trial.error.where if trial.error and trial.error.where else trial.experiment_dir
        rows.append((trial.name, outcome_text(trial.status), reasons[i], where))
    return rows


def notes(analysis: Analysis) -> list[str]:
    """Returns what a reader must know about the numbers."""
    found = []
    if analysis.sweep.simulated:
        found.append(
            tr(
                "The cards were simulated: placement was real, training ran on the CPU, and times are not those of"
                " GPUs."
            )
        )
    found += [f"{text}." for text in analysis.sweep.cut_texts]
    if analysis.ledger.torn:
        count, shown = len(analysis.ledger.torn), "; ".join(analysis.ledger.torn[:3])
        found.append(
            tr("1 torn line of the ledger could not be read: {shown}.", shown=shown)
            if count == 1
            else tr("{count} torn lines of the ledger could not be read: {shown}.", count=count, shown=shown)
        )
    if analysis.ledger.sweep is None and analysis.ledger.trials:
        metric = analysis.sweep.metric
        found.append(tr("The ledger has no record of the sweep; trials are compared by {metric}.", metric=metric))
    if any(trial.lineage for trial in analysis.ledger.trials):
        found.append(
            tr(
                "Population based training: settings are those that were in force when a trial had its best score; its"
                " weights may come from another trial."
            )
        )
    if analysis.fixed:
        same = ", ".join(f"{name} {show_value(value)}" for name, value in analysis.fixed.items())
        found.append(tr("The same in all trials: {same}.", same=same))
    return found


def sources(analysis: Analysis) -> str:
    """Returns a sentence on the files that the numbers come from."""
    under_way = analysis.count("running")
    ended = trials_text(len(analysis.ledger.trials) - under_way)
    if under_way:
        more = trials_text(under_way)
        return tr(
            "All numbers come from the {ended} of all_results.jsonl beside this file, and of {more} under way from"
            " journal.jsonl.",
            ended=ended,
            more=more,
        )
    return tr("All numbers come from the {ended} of all_results.jsonl beside this file.", ended=ended)


def wandb_page(analysis: Analysis) -> str:
    """Returns the address of the sweep's report at W&B; empty if there is none or it is not a web address.

    >>> from tune_jobs.analysis.sweep_analysis import analyse
    >>> from tune_jobs.records.ledger import Ledger, SweepRecord
    >>> urls = "https://wandb.ai/lab/p/reports/r", "javascript:alert(1)", None
    >>> sweeps = [SweepRecord(sweep="s", metric="eval/loss", goal="minimize", wandb_report=url) for url in urls]
    >>> [wandb_page(analyse(Ledger(sweep=sweep))) for sweep in sweeps]
    ['https://wandb.ai/lab/p/reports/r', '', '']
    """
    url = analysis.sweep.wandb_report or ""
    return url if url.startswith(("https://", "http://")) else ""


def _reason(trial: TrialRecord) -> str:
    if trial.error is None and trial.status in ("finished", "stopped"):
        no_number = bool(trial.history)
        return tr("its score was not a number") if no_number else tr("it made no evaluation, so it has no score")
    if trial.error is None:
        return tr("no reason was recorded")
    return f"{trial.error.type}: {trial.error.message}" if trial.error.type else trial.error.message


_EXTRA = {"eval/rouge1_f1": "R-1", "eval/rouge2_f1": "R-2", "eval/rougeL_f1": "R-L"}


def _brief(duration_s: float) -> str:
    """Formats a duration for a narrow column: without seconds from one minute on."""
    text = format_duration(duration_s)
    return in_units(text.rsplit(" ", 2)[0] if " min " in text and text.endswith(" s") else text)


def _distance(analysis: Analysis, rank: int, score: float, *, is_tied: bool) -> str:
    if rank == 1:
        return tr("best")
    ahead = score - analysis.candidates[0].score
    shown = show_score(abs(ahead), analysis.sweep.metric)
    text = f"{'+' if ahead > 0 else '−'}{shown}" if float(shown) else shown
    return tr("{text} tie", text=text) if is_tied else text
