"""The sweep that should follow a finished one: narrower around its best, or its best again with several seeds."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tune_jobs.analysis.candidates import Candidate
from tune_jobs.analysis.sweep_analysis import Analysis, analyse
from tune_jobs.config.early_terminate import EarlyTerminate, default_stop
from tune_jobs.config.fields import to_value
from tune_jobs.config.points import SCORE
from tune_jobs.config.space import Categorical, Constant, Parameter, Space, Value, as_written
from tune_jobs.config.sweep import Sweep
from tune_jobs.config.sweep_file import load_sweep
from tune_jobs.config.sweep_writer import sweep_text
from tune_jobs.records.ledger import SweepFolder
from tune_jobs.search.narrowing import Box, Tried, narrow
from tuning_common.errors import RequestError
from tuning_common.files import write_text
from tuning_common.units import counted

MOST_POINTS = 8  # that a search starts from; more would only make the file longer
LEAST_COUNT = 8
_SEEDS = (1, 2, 3)
_LONGEST_NAME = 64
_BROKE_DOWN = ("work_failed", "diverged")


@dataclass(frozen=True, kw_only=True)
class NextSweep:
    """What should be run next.

    Attributes:
        sweep: As a sweep file would hold it.
        reasons: Why each parameter has its bounds or values.
        head: What it follows from, for people.
        box: The box; None for a confirmation.
    """

    sweep: Sweep
    reasons: Mapping[str, str]
    head: tuple[str, ...]
    box: Box | None = None

    def text(self) -> str:
        """The file."""
        return sweep_text(self.sweep, head=self.head, reasons=self.reasons)


def tried_of(analysis: Analysis) -> list[Tried]:
    """Returns every configuration with a score, and those whose training broke down.

    A trial that ran out of memory or lost its worker says nothing about how good its configuration is.
    """
    broken = [one for one in analysis.failures if one.error is not None and one.error.type in _BROKE_DOWN]
    scored = [
        Tried(sampled=_values(one.best.trial.sampled), score=one.score, whole=one.best.trial.status == "finished")
        for one in analysis.candidates
    ]
    names = {one.best.trial.trial_id for one in analysis.candidates}
    return scored + [Tried(sampled=_values(one.sampled), score=None) for one in broken if one.trial_id not in names]


def narrowed(
    before: Sweep,
    analysis: Analysis,
    after: Sweep,
    *,
    keep_fraction: float = 0.25,
    margin: float = 0.1,
    known: bool = True,
) -> NextSweep:
    """Returns a search inside the box of the best trials of another one.

    Args:
        before: The sweep that was run.
        analysis: Of its ledger.
        after: What is to be run; its space is what the box is cut out of.
        keep_fraction: See narrowing.narrow.
        margin: See narrowing.narrow.
        known: Whether the earlier scores are of the same training, so that the best need not be run again.
    """
    box = narrow(
        tried_of(analysis),
        after.space,
        goal=before.metric.goal,
        keep_fraction=keep_fraction,
        margin=margin,
        noise=analysis.noise.band,
    )
    searched = [one.name for one in box.space.parameters if not isinstance(one, Constant)]
    points = _points(box, searched, known=known) if after.method in ("bayes", "bohb") else ()
    sweep = dataclasses.replace(
        after,
        space=box.space,
        search=dataclasses.replace(after.search.read_by(after.method), points=points),
        base_files=_files_of(after.base_files, box.space),
    )
    head = (f"Follows from {before.name}: the box of {box.summary}.", *_how_to_run(points))
    if analysis.noise.band is None:
        head += (f"The noise is not known ({analysis.noise.source}), so only equal scores tie.",)
    found = NextSweep(sweep=sweep, reasons=box.reasons, head=head, box=box)
    size = box.space.size
    return _whole_grid(found, size) if size is not None and size <= (after.count or size) else found


def confirming(
    analysis: Analysis, after: Sweep, *, of: str, searched: Sequence[str], winners: int, seeds: Sequence[int]
) -> NextSweep:
    """Returns a sweep that trains the best configurations again with several seeds.

    Args:
        analysis: Of the trials that the winners are chosen from.
        after: What is to be run; its space gives what is fixed.
        of: Where the winners come from, for people.
        searched: The parameters that make up a configuration.
        winners: How many configurations.
        seeds: Of each.
    """
    best = analysis.candidates[:winners]
    names = [name for name in searched if name != "seed" and all(name in one.best.trial.sampled for one in best)]
    fixed = [one for one in after.space.parameters if isinstance(one, Constant) and one.name not in (*names, "seed")]
    axes: list[Parameter] = [Categorical(name=name, options=_different(best, name)) for name in names]
    space = Space(parameters=(*axes, Categorical(name="seed", options=tuple(seeds)), *fixed))
    points = tuple({name: as_written(to_value(one.best.trial.sampled[name])) for name in names} for one in best)
    sweep = dataclasses.replace(
        after,
        method="grid",
        count=None,
        early_terminate=EarlyTerminate(type="none"),
        space=space,
        search=dataclasses.replace(after.search.read_by("grid"), points=points if names else ()),
        base_files=_files_of(after.base_files, space),
    )
    shown = [f"{one.best.trial.name}: {one.score:.4g}" for one in best]
    reasons = {name: f"of the best {len(best)}: {', '.join(shown)}" for name in names[:1]}
    reasons["seed"] = "the same seeds for each: their spread is the noise that a difference must exceed"
    head = (f"Trains the best {len(best)} of {of} again with {counted(len(seeds), 'seed')} each.",)
    return NextSweep(sweep=sweep, reasons=reasons, head=head)


def next_sweep(
    folder: Path, *, keep_fraction: float = 0.25, margin: float = 0.1, count: int | None = None
) -> NextSweep:
    """Returns what should follow a finished plain sweep.

    Args:
        folder: outputs/sweep_results/NAME.
        keep_fraction: See narrowing.narrow.
        margin: See narrowing.narrow.
        count: Trials of the next sweep; half as many as before where None.

    Raises:
        RequestError: When the folder holds no sweep, no trial with a score, or a staged sweep; when nothing follows.
    """
    before, analysis = _finished(folder)
    if is_confirmation(before):
        raise RequestError(f"{folder}: a confirmation trained known configurations again; nothing narrower follows")
    found = follow(before, analysis, keep_fraction=keep_fraction, margin=margin, count=count)
    if found is None:
        raise RequestError(
            f"{folder}: every configuration that its box leaves was run already, and a trained model would write the "
            "same summaries again; use the winner"
        )
    return found


def _finished(folder: Path) -> tuple[Sweep, Analysis]:
    kept = SweepFolder(folder)
    if not kept.ledger.exists() or not kept.sweep_file.exists():
        raise RequestError(f"{folder}: no finished sweep in it; give outputs/sweep_results/NAME")
    before = load_sweep(kept.sweep_file)
    if before.phases:
        names = ", ".join(
            str(folder.with_name(phase.sweep.name)) for phase in before.phases if phase.kind in ("wide", "narrow")
        )
        raise RequestError(f"{folder}: a staged sweep narrows by itself; give the folder of one of its phases: {names}")
    analysis = analyse(kept.load())
    if not analysis.candidates:
        raise RequestError(f"{folder}: no trial has a score, so there is no best to look around")
    return before, analysis


def follow(
    before: Sweep, analysis: Analysis, *, keep_fraction: float = 0.25, margin: float = 0.1, count: int | None = None
) -> NextSweep | None:
    """Decides what follows a plain sweep; see next_sweep.

    A model-based search of the box, or its whole grid where that is small. Where all of that was run already, the best
    two again with several seeds; None where nothing is trained, so that another seed would change nothing.
    """
    wanted = count or max(LEAST_COUNT, (before.trials + 1) // 2)
    name = f"{before.name}_narrow"[:_LONGEST_NAME]
    search = dataclasses.replace(before.search, points=())
    after = dataclasses.replace(
        before, name=name, description="", method="bayes", count=wanted, search=search, source="", notes=()
    )
    if before.method in ("bohb", "pbt") or before.early_terminate == default_stop(before.method):
        after = dataclasses.replace(after, early_terminate=default_stop("bayes"))
    found = narrowed(before, analysis, after, keep_fraction=keep_fraction, margin=margin)
    if found.sweep.method == "grid" and _were_run(found.sweep, analysis):
        if before.trained_model is not None:
            return None
        again = dataclasses.replace(after, name=f"{before.name}_confirm"[:_LONGEST_NAME])
        searched = [one.name for one in before.space.searched]
        return confirming(analysis, again, of=before.name, searched=searched, winners=2, seeds=_SEEDS)
    return found


def _were_run(grid: Sweep, analysis: Analysis) -> bool:
    names = [one.name for one in grid.space.parameters if one.name != "seed"]
    tried = [one.sampled for one in tried_of(analysis)]

    def was(wanted: Mapping[str, Value]) -> bool:
        same = Space(parameters=tuple(Constant(name=name, value=wanted[name]) for name in names))
        return any(same.contains({name: done.get(name) for name in names}) for done in tried)

    return all(was(wanted) for wanted in grid.space.grid())


def _whole_grid(found: NextSweep, size: int) -> NextSweep:
    """A model has nothing to choose where there are no more configurations than trials."""
    plain = dataclasses.replace(found.sweep.search, points=()).read_by("grid")
    grid = dataclasses.replace(found.sweep, method="grid", count=None, search=plain)
    left = f"Only {size} configuration{' is' if size == 1 else 's are'} left: all are run."
    return dataclasses.replace(found, sweep=grid, head=(found.head[0], left, *_how_to_run(())))


def is_confirmation(sweep: Sweep) -> bool:
    """Whether a sweep trains known configurations again, so that nothing narrower follows from it."""
    return sweep.method == "grid" and bool(sweep.search.points)


def leave_next_sweep(folder: SweepFolder) -> Path | None:
    """Writes next_sweep.yaml into the folder of a finished plain sweep; None where nothing follows.

    Raises:
        RequestError: When the folder cannot be read, or no trial has a score.
    """
    before, analysis = _finished(folder.path)
    found = None if is_confirmation(before) else follow(before, analysis)
    if found is None:
        return None
    write_text(folder.next_sweep, found.text())
    return folder.next_sweep


def _points(box: Box, searched: Sequence[str], *, known: bool) -> tuple[dict[str, object], ...]:
    if not searched:
        return ()
    points: list[dict[str, object]] = []
    for one in [one for one in box.best if one.whole]:  # the others might have become better
        if all(name in one.sampled and box.space[name].contains(one.sampled[name]) for name in searched):
            point: dict[str, object] = {name: as_written(one.sampled[name]) for name in searched}
            points.append(point | ({SCORE: float(f"{one.score:.6g}")} if known else {}))
    return tuple(points[: MOST_POINTS if known else 2])


def _how_to_run(points: Sequence[Mapping[str, object]]) -> list[str]:
    lines = ["Edit what you know better, and run it: python -m tune_jobs run FILE"]
    if points and SCORE in points[0]:
        lines.append("The points below were run already: the search knows their scores and starts from them.")
    return lines


def _files_of(files: Mapping[str, str], space: Space) -> Mapping[str, str]:
    """Base configurations of the models that are left."""
    if set(files) <= {""} or "model" not in space:
        return files
    left = {str(model) for model in space["model"].values()}
    return {model: file for model, file in files.items() if model in left}


def _different(best: Sequence[Candidate], name: str) -> tuple[Value, ...]:
    options: list[Value] = []
    for one in best:
        value = to_value(one.best.trial.sampled[name])
        if not Categorical(name=name, options=tuple(options)).contains(value):
            options.append(value)
    return tuple(options)


def _values(sampled: Mapping[str, object]) -> dict[str, Value]:
    return {name: to_value(value) for name, value in sampled.items()}
