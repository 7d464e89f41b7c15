"""What each phase of a staged search decided, and what the next one runs because of it. Pure."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tune_jobs.analysis.sweep_analysis import Analysis, analyse
from tune_jobs.config.fields import to_value
from tune_jobs.config.parameters import show_spec
from tune_jobs.config.space import Constant, Space
from tune_jobs.config.sweep import Phase, PhaseKind, Sweep
from tune_jobs.records.ledger import Ledger, SweepFolder, TrialRecord
from tune_jobs.search.next_sweep import NextSweep, confirming, narrowed
from tuning_common.errors import RequestError
from tuning_common.units import counted

SEARCHED: tuple[PhaseKind, ...] = ("wide", "narrow")


@dataclass(frozen=True, kw_only=True)
class Done:
    """A phase that has been run.

    Attributes:
        phase: As the staged file describes it.
        sweep: As it was run.
        analysis: Of its ledger.
    """

    phase: Phase
    sweep: Sweep
    analysis: Analysis

    @property
    def trials(self) -> tuple[TrialRecord, ...]:
        """Its trials as the staged search's own ledger keeps them: ids and phases tell them apart."""
        kind = self.phase.kind
        label = kind if kind in ("quick_check", "confirm") else self.phase.name  # the reports know these two by name
        return tuple(
            dataclasses.replace(one, trial_id=f"{self.phase.name}-{one.trial_id}", phase=label)
            for one in self.analysis.ledger.trials
        )


def prepare(whole: Sweep, phase: Phase, done: Sequence[Done]) -> NextSweep:
    """Returns the sweep of a phase, with reasons, from the phases before it.

    Args:
        whole: The staged sweep.
        phase: What is to be run.
        done: The phases before it, in order.
    """
    if phase.kind == "confirm":
        pool = pooled(done)
        names = [one.name for one in whole.space.parameters if not isinstance(one, Constant)]
        of = " and ".join(one.phase.name for one in done if one.phase.kind in SEARCHED)
        return confirming(pool, phase.sweep, of=of, searched=names, winners=phase.winners, seeds=phase.seeds)
    if phase.kind == "generation":
        folder = SweepFolder.of(Path(whole.tracking.output_dir), done[-1].sweep.name).path
        sweep = dataclasses.replace(phase.sweep, trained_model=str(folder))
        return NextSweep(sweep=sweep, reasons={}, head=(f"Settings of the decoding, with the best model of {folder}.",))
    if phase.kind != "narrow":
        sweep = dataclasses.replace(phase.sweep, search=phase.sweep.search.read_by(phase.sweep.method))
        return NextSweep(sweep=sweep, reasons={}, head=(f"Phase {phase.name} of {whole.name}.",))
    earlier = [one for one in done if one.phase.kind in SEARCHED][-1]
    parameters = [
        earlier.sweep.space[one.name]
        if one.name in whole.space and one == whole.space[one.name] and one.name in earlier.sweep.space
        else one  # fixed, or searched elsewhere, by the phase itself
        for one in phase.sweep.space.parameters
    ]
    after = dataclasses.replace(phase.sweep, space=Space(parameters=tuple(parameters)))
    return narrowed(
        earlier.sweep,
        earlier.analysis,
        after,
        keep_fraction=phase.keep_fraction,
        margin=phase.margin,
        known=_same_training(earlier, after),
    )


def pooled(done: Sequence[Done]) -> Analysis:
    """Looks at the trials of all searching phases together."""
    searched = [one for one in done if one.phase.kind in SEARCHED]
    trials = tuple(trial for one in searched for trial in one.trials)
    return analyse(Ledger(sweep=searched[-1].analysis.sweep, trials=trials))


def describe(done: Sequence[Done], following: NextSweep | None) -> str:
    """Says what the last phase decided and why.

    Args:
        done: All phases so far; the last one is described.
        following: What will be run next; None after the last phase.
    """
    last = done[-1]
    if last.phase.kind == "quick_check":
        return _checked(last)
    if last.phase.kind == "confirm":
        return _confirmed(last)
    if last.phase.kind == "generation":
        return _best(last.analysis)
    parts = [_best(last.analysis), *_against_earlier(done)]
    if following is not None and following.box is not None:
        box = following.box
        searched = [one for one in box.space.parameters if not isinstance(one, Constant)]
        parts.append(
            f"{box.summary} make the next box: " + ", ".join(f"{one.name} {show_spec(one.spec())}" for one in searched)
        )
    elif following is not None and following.sweep.search.points:
        seeds = following.sweep.space["seed"].size
        parts.append(f"next, the best {len(following.sweep.search.points)} are trained again with {seeds} seeds each")
    return "; ".join(part for part in parts if part)


def problem_of(last: Done) -> str | None:
    """Says why nothing can follow a phase; None where something can."""
    if last.analysis.candidates:
        return None
    reasons = sorted({one.error.message for one in last.analysis.failures if one.error is not None})
    more = f": {'; '.join(reasons[:3])}" if reasons else ""
    return f"phase {last.phase.name}: no trial has a result, so nothing else is started{more}"


def _checked(last: Done) -> str:
    trials = last.analysis.ledger.trials
    well = [one for one in trials if one.status in ("finished", "stopped")]
    each_s = sum(one.wall_s for one in well) / max(len(well), 1)
    failed = sorted({f"{one.error.type}: {one.error.message}" for one in last.analysis.failures if one.error})
    text = f"the pipeline runs: {len(well)} of {counted(len(trials), 'trial')} ended well, {each_s:.0f} s each"
    return text + (f"; the others: {'; '.join(failed[:3])}" if failed else "")


def _best(analysis: Analysis) -> str:
    winner = analysis.candidates[0]
    return f"best {winner.score:.4g} of {len(analysis.scored)} with a score ({winner.best.trial.name})"


def _against_earlier(done: Sequence[Done]) -> list[str]:
    earlier = [one for one in done[:-1] if one.phase.kind in SEARCHED]
    if not earlier:
        return []
    before, now = earlier[-1].analysis, done[-1].analysis
    gain = now.candidates[0].score - before.candidates[0].score
    better = gain > 0 if now.maximize else gain < 0
    noise = pooled(done).noise.band
    name = earlier[-1].phase.name
    if noise is not None and abs(gain) <= noise:
        return [f"a tie with {name}: {abs(gain):.2g} apart, and {noise:.2g} may be chance"]
    unsure = " (how much of it is chance is not known before seeds are compared)" if noise is None else ""
    return [f"{abs(gain):.3g} {'better' if better else 'worse'} than {name}{unsure}"]


def _confirmed(last: Done) -> str:
    analysis = last.analysis
    best, *others = analysis.candidates
    text = f"{best.best.trial.name} has mean {best.score:.4g} over {len(best.trials)} seeds"
    if best.spread is not None:
        text += f" (sd {best.spread:.2g})"
    if not others:
        return f"{text}; nothing to compare it with"
    lead, band = abs(best.score - others[0].score), analysis.band
    chance = f"{band:.2g} may be chance" if band is not None else "the noise is not known"
    paired = analysis.paired
    drawn = ""
    if paired is not None:
        drawn = f"; on {paired.count} dialogues drawn again the lead is {paired.low:.2g} to {paired.high:.2g} (95 %)"
    if analysis.sureness in ("clear", "uncertain"):
        sure = "ahead of the second" if analysis.sureness == "clear" else "perhaps ahead of the second"
        return f"{text}, {sure} by {lead:.2g} ({chance}){drawn}"
    return f"{text}; a tie with the second: {lead:.2g} apart ({chance}){drawn}"


def _same_training(earlier: Done, after: Sweep) -> bool:
    """Whether the earlier best, run again in the next sweep, would be the same run."""
    if not earlier.analysis.candidates:
        return False
    values = {name: to_value(value) for name, value in earlier.analysis.candidates[0].best.trial.sampled.items()}
    names = {one.name for one in after.space.parameters}
    fixed = {one.name: one.value for one in after.space.parameters if isinstance(one, Constant)}
    try:
        old = earlier.sweep.resolve(values)
        new = after.resolve({name: value for name, value in values.items() if name in names} | fixed)
    except RequestError:
        return False
    return old.resolved == new.resolved
