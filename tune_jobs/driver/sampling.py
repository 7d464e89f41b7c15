"""Which trials a sweep tries: by its method, in which order they are submitted, and whether any of them can run."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial

from tune_jobs.config.sweep import Sweep
from tune_jobs.placing.placer import Option, Placer
from tune_jobs.placing.submission import largest_first, starts_largest_first
from tune_jobs.records.journal import Journal
from tune_jobs.search.grid import planned_trials, sampled_configs
from tune_jobs.search.samplers import ListSampler, Sampled, Sampler, sampler_of
from tuning_common.errors import Problems, RequestError


def sampler_for(sweep: Sweep, placer: Placer) -> Sampler:
    """Returns what suggests the values of trials, by the sweep's method."""
    if sweep.method not in ("grid", "random"):
        return sampler_of(sweep)
    configurations = sampled_configs(sweep)
    return ListSampler(configurations, _submission_order(sweep, placer, configurations))


def _submission_order(sweep: Sweep, placer: Placer, configurations: Sequence[Sampled]) -> Sequence[int] | None:
    if not placer.inventory.pools or not starts_largest_first(sweep):
        return None
    options: dict[int, tuple[Option, ...]] = {}
    for number, sampled in enumerate(configurations, start=1):
        with suppress(RequestError):  # reported when the trial is made
            options[number] = placer.options(f"trial {number}", sweep.resolve(sampled).resolved)
    return largest_first(len(configurations), options)


def to_come(sampler: Sampler, journal: Journal) -> list[Mapping[str, object]] | None:
    """Returns the values of trials that were not tried yet; None where results decide."""
    if not sampler.is_list:
        return None
    suggested = (sampler.suggest(number) for number in sampler.order if number not in journal.trials)
    return [dict(sampled) for sampled in suggested if sampled is not None]


def check_trials(sweep: Sweep, placer: Placer) -> None:
    """Refuses a sweep of which no trial can run; single impossible trials are refused when they are made."""
    if sweep.method not in ("grid", "random"):
        return
    problems = Problems()
    trials = planned_trials(sweep)
    for number, trial in enumerate(trials, start=1):
        shown = ", ".join(f"{name} {value}" for name, value in trial.sampled.items())
        problems.collect(partial(placer.options, f"trial {number} ({shown})", trial.resolved))
    if len(problems) >= len(trials):
        problems.raise_if_any(f"{sweep.source}: no trial can run")
