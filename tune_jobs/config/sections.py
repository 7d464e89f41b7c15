"""The parts of a sweep file beside its parameters: metric, search, resources, tracking, team."""

import re
from dataclasses import dataclass, replace
from typing import Literal

from common.errors import Problems
from common.goal import Goal
from common.strict import nearest
from common.units import parse_bytes, parse_duration
from dialsum.config import COMPOSITE, MAX_SEED
from dialsum.config import METRIC_GOALS as EVALUATED_GOALS

_MOST = 10_000  # cards, trials side by side, retries
Method = Literal["grid", "random", "bayes", "bohb", "pbt"]
METRIC_GOALS: dict[str, Goal] = {  # best/*: of the best evaluation so far
    name: goal for own, goal in EVALUATED_GOALS.items() for name in (own, own.replace("eval/", "best/"))
}
READ_BY: dict[str, tuple[Method, ...]] = {  # keys of `search` that only some methods read
    "startup_trials": ("bayes", "bohb"),
    "points": ("bayes", "bohb", "grid"),
    "perturbation_interval": ("pbt",),
    "exploit_fraction": ("pbt",),
    "resample_probability": ("pbt",),
}


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What trials are compared by.

    Attributes:
        name: A metric that every evaluation of every trial reports: a key of METRIC_GOALS.
        goal: Whether high or low values are good; must be the metric's own.

    >>> Metric(name="eval/loss", goal="minimize").goal
    'minimize'
    """

    name: str = COMPOSITE
    goal: Goal = "maximize"

    def __post_init__(self) -> None:
        problems = Problems()
        right = METRIC_GOALS.get(self.name)
        if right is None:
            problems.add(f"name {_unknown_metric(self.name)}")
        elif self.goal != right:
            problems.add(
                f"goal {self.goal!r} of {self.name} would choose the worst model; write {right!r} or leave it out"
            )
        problems.raise_if_any("metric")

    @property
    def evaluated(self) -> str:
        """The metric as an evaluation reports it: a trial's best value is the best of that.

        >>> Metric(name="best/rougeL_f1").evaluated
        'eval/rougeL_f1'
        """
        return self.name.replace("best/", "eval/")


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """How a search draws its trials.

    Attributes:
        seed: Same seed, same file: same trials.
        startup_trials: bayes, bohb: random trials before the first that a model proposes.
        points: bayes, bohb: configurations to start from; one with a `score` is a known result that is not run again,
            one without is tried first. grid: the grid is these points, times the values of the parameters that they
            leave open.
        perturbation_interval: pbt: evaluations between two exchanges.
        exploit_fraction: pbt: this part at the bottom copies from this part at the top.
        resample_probability: pbt: chance that a value is drawn anew instead of moved a little.
    """

    seed: int = 0
    startup_trials: int = 10
    points: tuple[dict[str, object], ...] = ()
    perturbation_interval: int = 1
    exploit_fraction: float = 0.25
    resample_probability: float = 0.25

    def __post_init__(self) -> None:
        problems = Problems()
        if not 0 <= self.seed <= MAX_SEED:
            problems.add(f"seed must be between 0 and {MAX_SEED}, but is {self.seed}")
        for name in ("startup_trials", "perturbation_interval"):
            if getattr(self, name) < 1:
                problems.add(f"{name} must be at least 1, but is {getattr(self, name)}")
        if not 0 < self.exploit_fraction <= 0.5:
            problems.add(f"exploit_fraction must be above 0 and at most 0.5, but is {self.exploit_fraction:g}")
        if not 0 <= self.resample_probability <= 1:
            problems.add(f"resample_probability must be from 0 to 1, but is {self.resample_probability:g}")
        problems.raise_if_any("search")

    def read_by(self, method: Method) -> "SearchOptions":
        """Returns the options without those that a method does not read.

        >>> SearchOptions(seed=3, startup_trials=5).read_by("random") == SearchOptions(seed=3)
        True
        """
        defaults = SearchOptions()
        return replace(
            self, **{key: getattr(defaults, key) for key, methods in READ_BY.items() if method not in methods}
        )


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a sweep may use.

    Attributes:
        share: Part of one card that each trial gets; `auto` follows the memory estimate, and divides a trial that is
            too large for any card among several (see RunConfig.fsdp).
        gpus_per_trial: Whole cards that each trial trains on together, data-parallel; 1 is a card of its own. None
            leaves it to `share`. Each card holds the whole model where that fits, else its part of it.
        spread: Whether the cards of one trial may lie in several machines.
        cpus_per_trial: Logical CPU cores, of all its processes together.
        max_concurrent_trials: Trials side by side; None for as many as fit.
        max_trials_per_gpu: Tenants of one card; None for the placement's own limit.
        simulate: Logical cards on a machine without, for example 2x24GiB,1x80GiB.
        time_budget: The window that the sweep has, for example 8h; None for no end.
        retries: How often a trial that failed for another reason than memory is started again.
    """

    share: Literal["auto"] | float = "auto"
    gpus_per_trial: int | None = None
    spread: bool = False
    cpus_per_trial: float = 1.0
    max_concurrent_trials: int | None = None
    max_trials_per_gpu: int | None = None
    simulate: str | None = None
    time_budget: str | None = None
    retries: int = 1

    def __post_init__(self) -> None:
        problems = Problems()
        if self.share != "auto" and not 0 < self.share <= 1:
            problems.add(
                f"share must be auto, or above 0 and at most 1, as it is a part of one card, but is {self.share:g};"
                " whole cards, also several, are `gpus_per_trial`"
            )
        problems.extend(self._several_cards())
        if self.cpus_per_trial <= 0:
            problems.add(f"cpus_per_trial must be above 0, but is {self.cpus_per_trial:g}")
        for name, least in (
            ("gpus_per_trial", 1), ("max_concurrent_trials", 1), ("max_trials_per_gpu", 1), ("retries", 0),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not least <= value <= _MOST:
                problems.add(f"{name} must be from {least} to {_MOST}, but is {value}")
        problems.extend([*_readable(self.simulate, "simulate"), *_readable(self.time_budget, "time_budget")])
        problems.raise_if_any("resources")

    def _several_cards(self) -> list[str]:
        """Whole cards cannot be shared, and only several can be spread."""
        if self.gpus_per_trial is None:
            alone = self.spread and self.share != "auto"
            return ["spread is for several cards of one trial, which with a fixed share has one"] if alone else []
        problems = []
        if self.share not in ("auto", 1):
            problems.append(f"share {self.share} is a part of a card, gpus_per_trial whole ones; give one of the two")
        if self.max_trials_per_gpu not in (None, 1):
            problems.append("gpus_per_trial gives each trial whole cards, so max_trials_per_gpu cannot be above 1")
        if self.spread and self.gpus_per_trial == 1:
            problems.append("spread is for the cards of one trial, which with gpus_per_trial 1 has one")
        return problems

    @property
    def cards(self) -> int:
        """Whole cards that a trial trains on; 1 also where it has a part of one."""
        return self.gpus_per_trial or 1

    @property
    def part(self) -> Literal["auto"] | float:
        """Part of each of its cards that a trial holds; "auto" follows the estimate."""
        return self.share if self.gpus_per_trial is None else 1.0

    @property
    def time_budget_s(self) -> float | None:
        """The window in seconds."""
        return None if self.time_budget is None else parse_duration(self.time_budget)


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """Where results go beside the files.

    Attributes:
        wandb: `auto` is online with a key and offline without; `disabled` keeps to the files. (Not `off`: in YAML that
            is false.)
        project: W&B project.
        entity: W&B user or team; the account's own where None.
        tags: Put on every run.
        upload_checkpoints: Whether a trial that is the best when it ends leaves its model as a W&B artifact.
        output_dir: Folder of experiments and sweep results.
    """

    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str = "dialogue-summarizer"
    entity: str | None = None
    tags: tuple[str, ...] = ()
    upload_checkpoints: bool = False
    output_dir: str = "outputs"


@dataclass(frozen=True, kw_only=True)
class TeamSection:
    """Whose quota a sweep uses.

    Attributes:
        member: A member of the team file; None where there are no quotas.
        file: The team file.
    """

    member: str | None = None
    file: str = "team.yaml"


def _unknown_metric(name: str) -> str:
    if name.startswith("train/"):
        return f"{name!r} does not say how good a summarizer is on new dialogues; take eval/loss or {COMPOSITE}"
    found = nearest(name, list(METRIC_GOALS)) or nearest(f"eval/{name}", list(METRIC_GOALS))
    return f"{name!r} is reported by no trainer{found or '; known: ' + ', '.join(METRIC_GOALS)}"


def _readable(text: str | None, name: str) -> list[str]:
    try:
        if text is not None and name == "time_budget":
            parse_duration(text)
        for part in (text or "").split(",") if name == "simulate" and text is not None else ():
            match = re.fullmatch(r"\s*[1-9]\d{0,3}x(.+)", part)
            if match is None:
                return [f"simulate must look like 2x24GiB,1x80GiB, with at most 9999 cards, but {part!r} does not"]
            parse_bytes(match.group(1))
    except ValueError as error:
        return [f"{name} {error}"]
    return []
