"""Looks at a sweep before it runs and names what a careful person would do otherwise. Pure."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from dialsum.config import COMPOSITE, RunConfig
from tune_jobs.config.space import Categorical, Constant, Range, as_written
from tune_jobs.config.sweep import Sweep
from tuning_common.units import format_duration

Rail = Literal[
    "sample_model_or_data",
    "exploding_grid",
    "linear_range_of_decades",
    "too_many_decades",
    "whole_numbers_of_a_fraction",
    "oversized_batch",
    "single_metric",
    "read_by_nobody",
    "overwritten_by_a_rule",
    "fewer_configurations",
    "too_few_trials_for_a_model",
    "nothing_to_search",
    "no_rung",
    "does_not_end_in_time",
]
MANY_GRID_TRIALS = 200
DECADES_WITHOUT_LOG = 3
DECADES_WITH_LOG = 6
LARGE_BATCH = 64  # published runs on Korean dialogues use 6 to 50
STEPS_AN_EPOCH = 50  # with fewer, warm-up and schedule have too few steps to matter
_ONLY_SPEED = ("cpu_threads", "dataloader_workers", "pin_memory", "generation_batch_size", "torch_compile")


@dataclass(frozen=True, kw_only=True)
class Remark:
    """One remark.

    Attributes:
        rail: Which one, for programs.
        message: What was found.
        better: What to do instead.
    """

    rail: Rail
    message: str
    better: str

    def __str__(self) -> str:
        return f"{self.message}. Better: {self.better}"


@dataclass(frozen=True, kw_only=True)
class KnownFacts:
    """What is known of a sweep before it runs, from measurements, earlier runs or data files; None where unknown.

    Attributes:
        trial_s: Seconds of a trial that is never stopped.
        slots: Trials side by side.
        train_examples: Dialogues to learn from.
        evaluations: Evaluations of a trial that is never stopped.
        makespan_s: Seconds of the whole sweep as it was planned, all phases together.
        makespan_at_most_s: The same when nothing is stopped early.
    """

    trial_s: float | None = None
    slots: int | None = None
    train_examples: int | None = None
    evaluations: int | None = None
    makespan_s: float | None = None
    makespan_at_most_s: float | None = None


def warnings(sweep: Sweep, facts: KnownFacts | None = None) -> tuple[Remark, ...]:
    """Returns every remark on a sweep, for a staged one on each of its phases.

    Args:
        sweep: As read.
        facts: What is known beforehand.

    >>> from tune_jobs.config.space import Range, Space
    >>> rate = Range(name="learning_rate", distribution="uniform", low=1e-7, high=1e-2)
    >>> found = warnings(Sweep(name="a", source="a.yaml", method="random", count=9, space=Space(parameters=(rate,))))
    >>> [remark.rail for remark in found]
    ['sample_model_or_data', 'linear_range_of_decades']
    """
    known = facts or KnownFacts()
    if not sweep.phases:
        return (*(remark for rail in _RAILS for remark in rail(sweep, known)), *_planned_time(sweep, known))
    found = {
        str(remark): remark
        for phase in sweep.phases
        if phase.kind != "confirm"
        for rail in _RAILS
        for remark in rail(phase.sweep, known)
    }
    return (*found.values(), *_planned_time(sweep, known))


def _samples(sweep: Sweep, known: KnownFacts) -> Iterator[Remark]:
    """Names the model and the data of a sweep file that names none: both are samples."""
    missing = [name for name in ("model", "train_file") if name not in sweep.space and name not in sweep.rules.set]
    if sweep.base_files or sweep.trained_model is not None or not missing:
        return
    samples = {"model": "the toy model {}", "train_file": "the sample dialogues {}"}
    used = " and ".join(samples[name].format(getattr(RunConfig(), name)) for name in missing)
    yield Remark(
        rail="sample_model_or_data",
        message=f"the file has no base_config and no parameter {' or '.join(missing)}, so every trial uses {used}",
        better="base_config: configs/kobart.yaml, with your train_file and dev_file in it",
    )


def _grids(sweep: Sweep, known: KnownFacts) -> Iterator[Remark]:
    if sweep.method == "grid" and sweep.trials > MANY_GRID_TRIALS:
        sizes = " x ".join(str(one.size) for one in sweep.space.searched)
        yield Remark(
            rail="exploding_grid",
            message=f"the grid has {sizes} = {sweep.space.size:,} configurations, of which {sweep.trials:,} would run",
            better="method random with count 40: it tries forty values of every parameter instead of "
            f"{max(one.size or 0 for one in sweep.space.searched)}; then a narrow phase around the best",
        )
    if sweep.method == "random" and sweep.count is not None and sweep.trials < sweep.count:
        yield Remark(
            rail="fewer_configurations",
            message=f"count is {sweep.count}, but the parameters have only {sweep.trials} different configurations",
            better="method grid, or seeds as a parameter: seed: {values: [0, 1, 2]}",
        )
    if not sweep.space.searched and sweep.trials > 1:
        yield Remark(
            rail="nothing_to_search",
            message=f"no parameter has more than one value, but {sweep.trials} trials would run",
            better="give learning_rate a range; to see the noise of training, seed: {values: [0, 1, 2]}",
        )


def _ranges(sweep: Sweep, known: KnownFacts) -> Iterator[Remark]:
    for one in sweep.space.parameters:
        if not isinstance(one, Range):
            continue
        if one.distribution == "int_uniform" and (one.low, one.high) == (0, 1) and _takes_fractions(one.name):
            yield Remark(
                rail="whole_numbers_of_a_fraction",
                message=f"{one.name}: min: 0 and max: 1 are whole numbers, so only 0 and 1 are tried",
                better=f"{one.name}: {{min: 0.0, max: 0.5}}",
            )
        if one.low <= 0:
            continue
        decades = math.log10(one.high / one.low)
        if not one.log and decades > DECADES_WITHOUT_LOG:
            share = 10 * one.low / one.high
            yield Remark(
                rail="linear_range_of_decades",
                message=f"{one.name} from {one.low:g} to {one.high:g} is {decades:.1f} decades without a log scale: "
                f"only one trial in {1 / share:,.0f} is below {one.low * 10:g}",
                better=f"{one.name}: {{distribution: log_uniform_values, min: {one.low:g}, max: {one.high:g}}}",
            )
        if one.log and decades > DECADES_WITH_LOG:
            low, high = _usual(sweep, one)
            yield Remark(
                rail="too_many_decades",
                message=f"{one.name} from {one.low:g} to {one.high:g} is {decades:.1f} decades: few can learn",
                better=f"start with {low:g} to {high:g}; a wide phase that ends at a bound says where to go on",
            )


def _batches(sweep: Sweep, known: KnownFacts) -> Iterator[Remark]:
    if "batch_size" in sweep.space and not isinstance(sweep.space["batch_size"], Constant):
        return
    for config in _fixed_configs(sweep):
        steps = (known.train_examples or math.inf) / config.batch_size
        if config.batch_size <= LARGE_BATCH and (steps >= STEPS_AN_EPOCH or config.batch_size <= 16):
            continue
        found = f" ({steps:.0f} steps an epoch)" if math.isfinite(steps) else ""
        yield Remark(
            rail="oversized_batch",
            message=f"batch_size is fixed at {config.batch_size}{found} in every trial of {config.model}",
            better="batch_size: {values: [8, 16, 32]} with rules: {scale_learning_rate_from_batch: 16}",
        )


def _metrics(sweep: Sweep, known: KnownFacts) -> Iterator[Remark]:
    if sweep.metric.name.removeprefix("best/").removeprefix("eval/") != COMPOSITE.removeprefix("eval/"):
        reason = (
            "a lower loss does not always summarize better"
            if sweep.metric.name.endswith("loss")
            else "one ROUGE alone rewards summaries that please it and no other"
        )
        yield Remark(
            rail="single_metric",
            message=f"trials are compared by {sweep.metric.name}: {reason}",
            better=f"metric: {{name: {COMPOSITE}}}, which weighs ROUGE-1, ROUGE-2 and ROUGE-L",
        )


def _unread(sweep: Sweep, known: KnownFacts) -> Iterator[Remark]:
    for one in sweep.space.searched:
        if sweep.rules.overwrites(one.name):
            yield Remark(
                rail="overwritten_by_a_rule",
                message=f"{one.name} is searched, but rules.set.{one.name} replaces every value",
                better="delete one of the two, or let the rule read the field it sets",
            )
        elif not sweep.rules.reads(one.name) and (reason := _why_unread(sweep, one.name)):
            yield Remark(
                rail="read_by_nobody",
                message=f"{one.name} is searched, but {reason}: its trials differ by chance alone",
                better=f"delete {one.name}, or search what it depends on too",
            )


def _models(sweep: Sweep, known: KnownFacts) -> Iterator[Remark]:
    if sweep.method in ("bayes", "bohb") and sweep.trials < 2 * sweep.search.startup_trials:
        yield Remark(
            rail="too_few_trials_for_a_model",
            message=f"{sweep.search.startup_trials} of {sweep.trials} trials are random before the model proposes any",
            better=f"count: {2 * sweep.search.startup_trials} or more, or search: {{startup_trials: "
            f"{max(1, sweep.trials // 3)}}}",
        )


def _time(sweep: Sweep, known: KnownFacts) -> Iterator[Remark]:
    stop = sweep.early_terminate
    if known.evaluations and stop.reduction and not stop.rungs(known.evaluations):
        sooner = "a smaller grace_period or max_t" if stop.is_ray_class else "{min_iter: 1}"
        yield Remark(
            rail="no_rung",
            message=f"{stop.type} has no rung within {known.evaluations} evaluations, so no trial is ever stopped",
            better=f"more epochs, eval_steps for more evaluations, or early_terminate: {sooner}",
        )
    window_s = sweep.resources.time_budget_s
    if window_s is None or known.trial_s is None or known.slots is None or known.makespan_s is not None:
        return
    least_s = _least_s(sweep, known.trial_s, known.slots, known.evaluations)
    if least_s > window_s:
        fitting = max(1, math.floor(sweep.trials * window_s / least_s))
        yield Remark(
            rail="does_not_end_in_time",
            message=f"{sweep.trials} trials of {format_duration(known.trial_s)}, {known.slots} side by side, need at "
            f"least {format_duration(least_s)}, but time_budget is {format_duration(window_s)}",
            better=f"count: {fitting}, fewer epochs, or max_train_samples; --resume goes on in the next window",
        )


def _planned_time(sweep: Sweep, known: KnownFacts) -> Iterator[Remark]:
    """With a plan of the whole sweep at hand, its own time is compared with the window."""
    window_s, planned_s = sweep.resources.time_budget_s, known.makespan_s
    if window_s is None or planned_s is None or planned_s <= window_s:
        return
    at_most = (
        f" ({format_duration(known.makespan_at_most_s)} when nothing is stopped)" if known.makespan_at_most_s else ""
    )
    fitting = max(1, math.floor(sweep.trials * window_s / planned_s))
    yield Remark(
        rail="does_not_end_in_time",
        message=f"the {sweep.trials} trials as planned take {format_duration(planned_s)}{at_most}, but time_budget is "
        f"{format_duration(window_s)}",
        better=f"about {fitting} trials, fewer epochs, or max_train_samples; --resume goes on in the next window",
    )


def _least_s(sweep: Sweep, trial_s: float, slots: int, evaluations: int | None) -> float:
    """The shortest time that a sweep can take: early termination at its most lucky, cards never idle."""
    rungs = sweep.early_terminate.rungs(evaluations) if evaluations else ()
    reduction = sweep.early_terminate.reduction
    if not rungs or not reduction or evaluations is None:
        work_s = sweep.trials * trial_s
    else:  # one in eta goes on at each rung
        going_on, work_s, before = float(sweep.trials), 0.0, 0
        for rung in (*rungs, evaluations):
            work_s += going_on * trial_s * (rung - before) / evaluations
            going_on, before = max(1.0, going_on / reduction), rung
    return max(work_s / slots, trial_s)


def _why_unread(sweep: Sweep, name: str) -> str:
    """Says which other setting makes a field meaningless in every trial; empty where it is read."""
    configs = _fixed_configs(sweep)
    if name == "length_penalty" and _always(sweep, "num_beams", configs, lambda value: value == 1):
        return "num_beams is 1, and without beams there is no length penalty"
    if name == "early_stopping_threshold" and _always(sweep, "early_stopping_patience", configs, lambda v: v is None):
        return "early_stopping_patience is null"
    if name == "num_epochs" and _always(sweep, "max_steps", configs, lambda value: value is not None):
        return "max_steps is set and ends the training"
    if name.startswith("tiny_") and _always(sweep, "model", configs, lambda value: not str(value).startswith("tiny-")):
        return "no model of the sweep is a tiny one"
    if name in _ONLY_SPEED:
        return "it changes the speed and not the model"
    return ""


def _always(sweep: Sweep, name: str, configs: list[RunConfig], holds: Callable[[object], bool]) -> bool:
    if name in sweep.space:
        parameter = sweep.space[name]
        return isinstance(parameter, (Constant, Categorical)) and all(holds(value) for value in parameter.values())
    return name not in sweep.rules.set and all(holds(getattr(config, name)) for config in configs)


def _fixed_configs(sweep: Sweep) -> list[RunConfig]:
    """Base configurations with the constants of the file."""
    constants = {one.name: one.value for one in sweep.space.parameters if isinstance(one, Constant)}
    plain = {name: as_written(value) for name, value in constants.items()}
    return [base.with_changes(plain) for base in sweep.base_by_model.values() or [sweep.base]]


def _takes_fractions(name: str) -> bool:
    return isinstance(getattr(RunConfig(), name), float) or name == "dropout"


def _usual(sweep: Sweep, one: Range) -> tuple[float, float]:
    from dialsum.models import SPECS

    if one.name != "learning_rate":
        middle = math.sqrt(one.low * one.high)
        return middle / 100, middle * 100
    models = [str(value) for value in sweep.space["model"].values()] if "model" in sweep.space else [sweep.base.model]
    ranges = [SPECS[model].learning_rates for model in models if model in SPECS] or [(1e-5, 1e-3)]
    return min(low for low, _ in ranges), max(high for _, high in ranges)


_RAILS: tuple[Callable[[Sweep, KnownFacts], Iterator[Remark]], ...] = (
    _samples,
    _grids,
    _ranges,
    _batches,
    _metrics,
    _unread,
    _models,
    _time,
)
