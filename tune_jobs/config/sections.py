"""Sections of a sweep file: metric, search, resources, tracking, team."""

import re
from dataclasses import dataclass, field, replace
from typing import Literal

from dialsum.config import COMPOSITE, MAX_SEED
from dialsum.config import METRIC_GOALS as EVALUATED_GOALS
from tune_jobs.config.mlflow_server import MlflowServer
from tuning_common.errors import Problems
from tuning_common.goal import Goal
from tuning_common.strict import nearest
from tuning_common.units import parse_bytes, parse_duration

_MOST = 10_000  # cards, trials in parallel, retries
Method = Literal["grid", "random", "bayes", "bohb", "pbt"]
METRIC_GOALS: dict[str, Goal] = {  # best/*: value of the best evaluation so far
    name: goal for own, goal in EVALUATED_GOALS.items() for name in (own, own.replace("eval/", "best/"))
}
READ_BY: dict[str, tuple[Method, ...]] = {  # key of `search` -> methods that read it
    "startup_trials": ("bayes", "bohb"),
    "points": ("bayes", "bohb", "grid"),
    "perturbation_interval": ("pbt",),
    "exploit_fraction": ("pbt",),
    "resample_probability": ("pbt",),
}


@dataclass(frozen=True, kw_only=True)
class Metric:
    """The metric that ranks trials.

    Attributes:
        name: A metric that every evaluation of every trial reports: a key of METRIC_GOALS.
        goal: The metric's own goal; the other one is refused.

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
        """The metric's name in the reports of single evaluations.

        >>> Metric(name="best/rougeL_f1").evaluated
        'eval/rougeL_f1'
        """
        return self.name.replace("best/", "eval/")


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Options of the search method.

    Attributes:
        seed: The same file with the same seed gives the same trials.
        startup_trials: bayes, bohb: number of random trials before the model proposes any.
        points: bayes, bohb: configurations to start from; one with a `score` is a known result that is not run again,
            one without is tried first. grid: the grid is these points, times the values of the parameters that they
            leave open.
        perturbation_interval: pbt: number of evaluations between two exchanges.
        exploit_fraction: pbt: the worst trials, this fraction, copy from the best, the same fraction.
        resample_probability: pbt: probability that a value is resampled instead of perturbed.
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
        """Returns the options with those that a method does not read reset to their defaults.

        >>> SearchOptions(seed=3, startup_trials=5).read_by("random") == SearchOptions(seed=3)
        True
        """
        defaults = SearchOptions()
        return replace(
            self, **{key: getattr(defaults, key) for key, methods in READ_BY.items() if method not in methods}
        )


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Compute limits of a sweep.

    Attributes:
        share: Part of one card for each trial; `auto` follows the memory estimate and shards a trial that is too large
            for any card over several (see RunConfig.fsdp).
        gpus_per_trial: Number of whole cards for each trial, data-parallel; 1 is a card of its own. None: `share`
            decides. Each card holds the whole model where it fits, else a shard.
        spread: Whether the cards of one trial may be in several machines.
        cpus_per_trial: Logical CPU cores of a trial, for all its processes together.
        max_concurrent_trials: Maximum number of trials in parallel; None: as many as fit.
        max_trials_per_gpu: Maximum number of trials on one card; None: the placement's own limit.
        simulate: Logical cards on a machine without GPUs, for example 2x24GiB,1x80GiB.
        time_budget: Time limit of the sweep, for example 8h; None: no limit.
        retries: Maximum number of restarts of a trial that failed for a reason other than memory.
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
        """Returns contradictions between share, gpus_per_trial, max_trials_per_gpu and spread."""
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
        """Number of cards that a trial trains on; 1 also for a part of a card."""
        return self.gpus_per_trial or 1

    @property
    def part(self) -> Literal["auto"] | float:
        """Part of each card that a trial holds; "auto" follows the estimate."""
        return self.share if self.gpus_per_trial is None else 1.0

    @property
    def time_budget_s(self) -> float | None:
        """The time limit in seconds."""
        return None if self.time_budget is None else parse_duration(self.time_budget)


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """Settings for W&B, TensorBoard, MLflow and the output folder.

    Attributes:
        wandb: `auto` is online with an API key and offline without; `disabled` writes only files. (Not `off`: YAML
            reads it as false.)
        project: W&B project.
        entity: W&B user or team; None: the account's default.
        tags: Tags of every run.
        upload_checkpoints: Whether a trial that is the best when it ends uploads its model as a W&B artifact.
        tensorboard: Whether TensorBoard's files are written, below the sweep's results.
        mlflow: Where MLflow keeps the runs.
        output_dir: Folder of experiments and sweep results.
    """

    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str = "dialogue-summarizer"
    entity: str | None = None
    tags: tuple[str, ...] = ()
    upload_checkpoints: bool = False
    tensorboard: bool = False
    mlflow: MlflowServer = field(default_factory=MlflowServer)
    output_dir: str = "outputs"


@dataclass(frozen=True, kw_only=True)
class TeamSection:
    """The team member whose quota a sweep uses.

    Attributes:
        member: A member of the team file; None: no quotas.
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
