"""The experiment review of a sweep as Markdown: filled in by the program, with boxes to tick; no edited one is lost."""

import hashlib
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tune_jobs.analysis.importance import Importances
from tune_jobs.analysis.sweep_analysis import Analysis
from tune_jobs.config.language import duration_text, tr
from tune_jobs.config.parameters import show_value
from tune_jobs.records.snapshot import Snapshot
from tune_jobs.report.advice import Advice
from tune_jobs.report.anomalies import find_anomalies
from tune_jobs.report.findings import Findings, find_links
from tune_jobs.report.formatting import metric_name, show_moment, show_score, trials_text
from tune_jobs.report.markdown import code, link, markdown_table, plain, section
from tune_jobs.report.summary import facts, headline, notes, runs_table, tiles
from tuning_common.files import write_text

_SHOWN_RUNS = 5
_SIGNATURE = re.compile(r"\n<!-- written by tune_jobs, sha256 (?P<digest>[0-9a-f]{64}) -->\n\Z")


@dataclass(frozen=True, kw_only=True)
class Improvement:
    """The improvement over a baseline.

    Attributes:
        name: The baseline, for example "lead-3".
        before: The baseline's value of the metric.
        best: The winner's value.
        percent: Improvement relative to the baseline; negative if the winner is worse. None for a baseline of 0.
    """

    name: str
    before: float
    best: float
    percent: float | None


def build_review(findings: Findings) -> str:
    """Returns the review of a sweep."""
    analysis, importances = findings.analysis, findings.importances
    anomalies = find_anomalies(analysis, findings.summaries.summaries)
    links = find_links(findings.sweep, analysis)
    sections = [
        "# " + tr("Review of {sweep}", sweep=plain(analysis.sweep.sweep or tr("a sweep"))),
        section(tr("Overview"), _overview(analysis, findings.snapshot)),
        section(tr("Findings"), _findings(analysis, importances)),
        section(tr("Baseline → best"), _improvements(analysis, importances)),
        section(tr("Anomalies"), _list(anomalies or [tr("none that a rule of this program detects")])),
        section(tr("Recommendations"), _recommendations(findings.advice)),
        section(tr("Links"), "\n".join(f"* {link(name, target)}" for name, target in links)),
        section(tr("Notes"), f"- [ ] {tr('read by')}: ____________\n\n" + _list(notes(analysis))),
    ]
    return "\n\n".join(one.rstrip() for one in sections) + "\n"


def write_review(findings: Findings, *, overwrite: bool = False) -> Path | None:
    """Writes the review unless a person has edited the existing one.

    Args:
        findings: The findings of the sweep.
        overwrite: Whether to write it in any case.

    Returns:
        Its path; None if an edited review was left alone.
    """
    path = findings.sweep.review
    if is_edited(path) and not overwrite:
        return None
    text = build_review(findings)
    digest = hashlib.sha256(text.encode()).hexdigest()
    write_text(path, f"{text}\n<!-- written by tune_jobs, sha256 {digest} -->\n")
    return path


def is_edited(path: Path) -> bool:
    """Returns whether a review differs from what the program wrote; an absent one is not edited."""
    if not path.exists():
        return False
    content = path.read_text(encoding="utf-8")
    signature = _SIGNATURE.search(content)
    return signature is None or hashlib.sha256(content[: signature.start()].encode()).hexdigest() != signature["digest"]


def find_improvements(analysis: Analysis) -> list[Improvement]:
    """Compares the winner with the baselines and with the median trial of the sweep."""
    if not analysis.candidates:
        return []
    best = analysis.candidates[0].score
    rows = list((analysis.sweep.baseline or {}).items())
    if len(analysis.scored) >= 3:
        rows.append((tr("median trial"), statistics.median(one.score for one in analysis.scored)))
    return [
        Improvement(name=name, before=before, best=best, percent=_percent(before, best, maximize=analysis.maximize))
        for name, before in rows
    ]


def main_factor(analysis: Analysis, importances: Importances) -> str:
    """Returns the most important parameter, or the reason why none is known."""
    winner = analysis.winner
    standing = [one for one in importances.parameters if one.stands_out]
    if winner is None:
        return tr("there is no winner")
    if not importances.parameters:
        return importances.reason or tr("no parameter was searched")
    if not standing:
        return tr("no parameter is more important than chance")
    first = standing[0]
    value = winner.trial.sampled.get(first.name)
    return tr(
        "{name} ({value} in the winner), {part:.0%} of the importance, {low:.0%} to {high:.0%} in resampled sweeps",
        name=first.name,
        value=show_value(value),
        part=first.part,
        low=first.low,
        high=first.high,
    )


def _percent(before: float, best: float, *, maximize: bool) -> float | None:
    """Returns the improvement of the best over a baseline in percent.

    >>> _percent(20.0, 30.0, maximize=True), _percent(2.0, 1.5, maximize=False), _percent(0.0, 1.0, maximize=True)
    (50.0, 25.0, None)
    """
    if before == 0:
        return None
    return (best - before if maximize else before - best) / abs(before) * 100


def _overview(analysis: Analysis, snapshot: Snapshot | None) -> str:
    sweep = analysis.sweep
    starts = [trial.started_at for trial in analysis.ledger.trials if trial.started_at is not None]
    started_at = sweep.started_at if sweep.started_at is not None else min(starts, default=None)
    rows = [
        (tr("Result"), headline(analysis)),
        *((tile.label, f"{tile.value} ({tile.detail})" if tile.detail else tile.value) for tile in tiles(analysis)),
        (tr("When"), show_moment(started_at) if started_at is not None else ""),
        *facts(analysis, snapshot),
        (tr("Who"), sweep.member or ""),
        (tr("Searched"), ", ".join(sweep.parameters)),
        (tr("Method"), ", ".join(part for part in (sweep.method, sweep.stopping) if part not in ("", "none"))),
        (tr("Cards"), _cards(analysis)),
        (tr("Command"), f"`{sweep.command}`" if sweep.command else ""),
    ]
    return markdown_table(("", ""), [(name, text) for name, text in rows if text])


def _cards(analysis: Analysis) -> str:
    models = [str(card.get("gpu_model", "?")) for card in analysis.sweep.cards]
    counts = ", ".join(f"{models.count(model)} x {model}" for model in dict.fromkeys(models))
    return (counts or tr("none")) + (f" ({tr('simulated')})" if analysis.sweep.simulated else "")


def _findings(analysis: Analysis, importances: Importances) -> str:
    lines = []
    if analysis.winner is not None:
        trial = analysis.winner.trial
        time = duration_text(trial.wall_s)
        lines.append("* " + tr("Winner: {name}, trained for {time}.", name=plain(trial.name), time=time))
        lines.append("* " + tr("Main factor: {factor}.", factor=plain(main_factor(analysis, importances))))
    if len(analysis.tied) > 1:
        others = ", ".join(one.best.trial.name for one in analysis.tied[1:4])
        more = tr(" and {count} more", count=len(analysis.tied) - 4) if len(analysis.tied) > 4 else ""
        lines.append("* " + tr("Tied with it: {others}.", others=plain(others) + more))
    stopped, total = analysis.count("stopped"), len(analysis.ledger.trials)
    if stopped:
        saved_s = analysis.cost.saved_s
        message = (
            tr("{stopped} of {trials} were stopped early, which saved about {saved}.")
            if saved_s
            else tr("{stopped} of {trials} were stopped early.")
        )
        trials, saved = trials_text(total), duration_text(saved_s)
        lines.append("* " + message.format(stopped=stopped, trials=trials, saved=saved))
    if analysis.candidates:
        header, rows = runs_table(analysis, _SHOWN_RUNS)
        lines += ["", markdown_table(header, rows)]
    return "\n".join(lines) if lines else tr("No trial has a score.")


def _improvements(analysis: Analysis, importances: Importances) -> str:
    metric = analysis.sweep.metric
    found = find_improvements(analysis)
    if not found:
        return tr("No baseline is known, and there are too few trials for a median.")
    rows = [
        (
            one.name,
            show_score(one.before, metric),
            show_score(one.best, metric),
            "" if one.percent is None else f"{'+' if one.percent >= 0 else '−'}{abs(one.percent):.1f}%",
        )
        for one in found
    ]
    table = markdown_table((tr("Baseline"), metric_name(metric), tr("Best"), tr("Better by")), rows)
    factor = plain(main_factor(analysis, importances))
    return f"{table}\n\n{tr('Main factor: {factor}.', factor=factor)}"


def _recommendations(advice: Sequence[Advice]) -> str:
    if not advice:
        return "- [ ] " + tr("nothing follows from these trials")
    lines = []
    for one in advice:
        command = f"\n      {code(one.command)}" if one.command else ""
        lines.append(f"- [ ] **{plain(one.title)}**: {plain(one.reason)}{command}")
    return "\n".join(lines)


def _list(texts: Sequence[str]) -> str:
    return "\n".join(f"* {plain(text)}" for text in texts)
