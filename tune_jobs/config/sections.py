"""Sections of a sweep file: metric, search, resources, tracking, team."""

import re
from dataclasses import field, replace
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from dialsum.config import COMPOSITE, MAX_SEED, Count
from dialsum.config import METRIC_GOALS as EVALUATED_GOALS
from tune_jobs.config.language import Language
from tune_jobs.config.mlflow_server import MlflowServer
from tuning_common.goal import Goal
from tuning_common.strict import model, nearest
from tuning_common.units import parse_bytes, parse_duration

_MOST = 10_000  # cards, trials in parallel, retries
Few = Annotated[int, Field(ge=1, le=_MOST)]
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


@model
class Metric:
    """The metric that ranks trials.

    Attributes:
        name: A metric that every evaluation of every trial reports: a key of METRIC_GOALS.
        goal: The metric's own goal; the other one is refused.

    >>> Metric(name="eval/loss", goal="minimize").goal
    'minimize'
    """

    name: str = COMPOSITE
    goal: Annotated[Goal, Field(validate_default=True)] = "maximize"

    @field_validator("name")
    @classmethod
    def _check_name(cls, value: str) -> str:
        if value not in METRIC_GOALS:
            raise ValueError(f"name {_unknown_metric(value)}")
        return value

    @field_validator("goal")
    @classmethod
    def _check_goal(cls, value: Goal, info: ValidationInfo) -> Goal:
        name = info.data.get("name")
        if name is not None and METRIC_GOALS[name] != value:
            raise ValueError(
                f"goal {value!r} of {name} would choose the worst model; write {METRIC_GOALS[name]!r} or leave it out"
            )
        return value

    @property
    def evaluated(self) -> str:
        """The metric's name in the reports of single evaluations.

        >>> Metric(name="best/rougeL_f1").evaluated
        'eval/rougeL_f1'
        """
        return self.name.replace("best/", "eval/")


@model
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

    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0
    startup_trials: Count = 10
    points: tuple[dict[str, object], ...] = ()
    perturbation_interval: Count = 1
    exploit_fraction: Annotated[float, Field(gt=0, le=0.5)] = 0.25
    resample_probability: Annotated[float, Field(ge=0, le=1)] = 0.25

    def read_by(self, method: Method) -> "SearchOptions":
        """Returns the options with those that a method does not read reset to their defaults.

        >>> SearchOptions(seed=3, startup_trials=5).read_by("random") == SearchOptions(seed=3)
        True
        """
        defaults = SearchOptions()
        return replace(
            self, **{key: getattr(defaults, key) for key, methods in READ_BY.items() if method not in methods}
        )


@model
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
        simulate: Simulated cards on a machine without GPUs, for example 2x24GiB,1x80GiB.
        time_budget: Time limit of the sweep, for example 8h; None: no limit.
        retries: Maximum number of restarts of a trial that failed for a reason other than memory.
    """

    share: Literal["auto"] | float = "auto"
    gpus_per_trial: Few | None = None
    spread: bool = False
    cpus_per_trial: Annotated[float, Field(gt=0)] = 1.0
    max_concurrent_trials: Few | None = None
    max_trials_per_gpu: Few | None = None
    simulate: str | None = None
    time_budget: str | None = None
    retries: Annotated[int, Field(ge=0, le=_MOST)] = 1

    @field_validator("share")
    @classmethod
    def _check_share(cls, value: Literal["auto"] | float) -> Literal["auto"] | float:
        if value != "auto" and not 0 < value <= 1:
            raise ValueError(
                f"share must be auto, or above 0 and at most 1, as it is a part of one card, but is {value:g};"
                " whole cards, also several, are `gpus_per_trial`"
            )
        return value

    @field_validator("simulate")
    @classmethod
    def _check_cards(cls, value: str | None) -> str | None:
        for part in value.split(",") if value is not None else ():
            match = re.fullmatch(r"\s*[1-9]\d{0,3}x(.+)", part)
            if match is None:
                raise ValueError(
                    f"simulate must look like 2x24GiB,1x80GiB, with at most 9999 cards, but {part!r} does not"
                )
            parse_bytes(match.group(1))
        return value

    @field_validator("time_budget")
    @classmethod
    def _check_budget(cls, value: str | None) -> str | None:
        if value is not None:
            parse_duration(value)
        return value

    @model_validator(mode="after")
    def _check_several_cards(self) -> Self:
        """Refuses contradictions between share, gpus_per_trial, max_trials_per_gpu and spread."""
        if self.gpus_per_trial is None:
            if self.spread and self.share != "auto":
                raise ValueError("spread is for several cards of one trial, which with a fixed share has one")
            return self
        problems = []
        if self.share not in ("auto", 1):
            problems.append(f"share {self.share} is a part of a card, gpus_per_trial whole ones; give one of the two")
        if self.max_trials_per_gpu not in (None, 1):
            problems.append("gpus_per_trial gives each trial whole cards, so max_trials_per_gpu cannot be above 1")
        if self.spread and self.gpus_per_trial == 1:
            problems.append("spread is for the cards of one trial, which with gpus_per_trial 1 has one")
        if problems:
            raise ValueError(*problems)
        return self

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


@model
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
        language: Language of the reports and of the terminal: English (`en`) or Korean (`ko`).
    """

    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str = "dialogue-summarizer"
    entity: str | None = None
    tags: tuple[str, ...] = ()
    upload_checkpoints: bool = False
    tensorboard: bool = False
    mlflow: MlflowServer = field(default_factory=MlflowServer)
    output_dir: str = "outputs"
    language: Language = "en"


@model
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
