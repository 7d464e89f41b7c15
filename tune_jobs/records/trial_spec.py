"""The specification that the driver sends to a trial's process, and the keys of the process's reports."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Final, Literal

from tuning_common.strict import from_mapping

REPORT_KEY: Final = "report"  # of what Tune passes to the driver
SPEC_KEY: Final = "spec"  # of a Tune configuration, see TrialSpec.to_tune
STOP_FILE: Final = "stop"  # in the sweep's folder while its driver asks the trials to save and end

# Keys of reports, beside the sweep's metric and other measurements.
STARTED_KEY: Final = "trial/started"  # the first report of every attempt: node and card of its process
EVALUATION_KEY: Final = "trial/evaluation"  # evaluations so far, counted over attempts
INTERRUPTED_KEY: Final = "trial/interrupted"  # a checkpoint between two evaluations, because STOP_FILE exists
WAITING_KEY: Final = "trial/waiting"  # why the process waits (its storage, its card); repeated while it waits
DAMAGED_KEY: Final = "trial/damaged"  # checkpoints that are not as they were written, in words
DAMAGED_START_KEY: Final = "trial/damaged_start"  # what is used instead of them; None for a new start
DAMAGED_EVALUATION_KEY: Final = "trial/damaged_evaluation"  # evaluations at that start
FAILURE_KEY: Final = "trial/failure"  # a FailureKind: the attempt failed
FAILURE_MESSAGE_KEY: Final = "trial/failure_message"

FailureKind = Literal[
    "out_of_memory", "host_memory", "worker_lost", "stalled", "diverged", "wrong_request", "work_failed", "error"
]


def kept_metrics(result: Mapping[str, object]) -> dict[str, object]:
    """Returns what a trial reported (its names have a slash), without Tune's own and without what JSON cannot hold."""
    return {
        name: value
        for name, value in result.items()
        if "/" in name
        and not name.startswith("config/")
        and not (isinstance(value, float) and not math.isfinite(value))
    }


_PLANNED: Final = {
    "accumulation": "gradient_accumulation_steps",
    "gradient_checkpointing": "gradient_checkpointing",
    "sharded": "fsdp",
    "loss_batch": "loss_batch_size",
    "generation_batch": "generation_batch_size",
}  # fields of a run configuration that a shape sets


def planned_fields(shape: Mapping[str, object]) -> dict[str, object]:
    """Returns the fields of a run configuration that a shape sets.

    Args:
        shape: Values of a RunShape, or some of them.

    >>> planned_fields({"micro_batch": 4, "accumulation": 2, "loss_batch": None})
    {'gradient_accumulation_steps': 2}
    """
    return {field: shape[name] for name, field in _PLANNED.items() if shape.get(name) is not None}


@dataclass(frozen=True, kw_only=True)
class RunShape:
    """How an effective batch is computed; all shapes of a trial have the same effective batch.

    Attributes:
        micro_batch: Dialogues in one forward pass.
        accumulation: Forward passes per optimizer step.
        gradient_checkpointing: Whether activations are computed again in the backward pass.
        ranks: Processes that share the batch, each on a card of its own.
        sharded: Whether the ranks also shard the model; else each holds all of it.
        loss_batch: Dialogues per forward pass of the dev loss; as configured when None.
        generation_batch: Dialogues that are summarized together; as configured when None.
    """

    micro_batch: int
    accumulation: int
    gradient_checkpointing: bool = False
    ranks: int = 1
    sharded: bool = False
    loss_batch: int | None = None
    generation_batch: int | None = None

    @property
    def batch_size(self) -> int:
        """The effective batch."""
        return self.micro_batch * self.accumulation * self.ranks

    def changes(self) -> dict[str, object]:
        """Returns the fields of a run configuration that the shape sets.

        >>> RunShape(micro_batch=4, accumulation=4, loss_batch=8).changes()["loss_batch_size"]
        8
        """
        return planned_fields(asdict(self))

    def describe(self) -> str:
        """Returns the shape as text.

        >>> RunShape(micro_batch=4, accumulation=4).describe()
        '4 x 4'
        >>> RunShape(micro_batch=4, accumulation=2, ranks=2).describe()
        '4 x 2 on each of 2 cards'
        >>> RunShape(micro_batch=4, accumulation=2, ranks=2, sharded=True).describe()
        '4 x 2 on each of 2 cards that the model is divided among'
        """
        cards = f" on each of {self.ranks} cards" if self.ranks > 1 else ""
        cards += " that the model is divided among" if self.sharded else ""
        suffix = " with gradient checkpointing" if self.gradient_checkpointing else ""
        return f"{self.micro_batch} x {self.accumulation}{cards}{suffix}"


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """The Ray resources of one attempt.

    Attributes:
        cpus: Logical CPU cores, fractions allowed.
        gpus: Share of one card in steps of 1e-4, or whole cards.
        nodes: Ray's node id of each process; empty before the broker grants the request.
        spread: Whether several cards may be in several machines.
    """

    cpus: float
    gpus: float = 0.0
    nodes: tuple[str, ...] = ()
    spread: bool = False

    @property
    def ranks(self) -> int:
        """Number of processes that train together: one per whole card; one for a part of a card or none.

        >>> [Bundle(cpus=1, gpus=gpus).ranks for gpus in (0, 0.5, 1, 2)]
        [1, 1, 1, 2]
        """
        return max(1, int(self.gpus))

    def describe(self) -> str:
        """Returns what is held of cards as text; empty for one whole card, and for none.

        >>> [Bundle(cpus=1, gpus=gpus).describe() for gpus in (0, 0.5, 1, 2)]
        ['', '0.5 of a card', '', '2 cards']
        """
        if self.ranks > 1:
            return f"{self.gpus:g} cards"
        return f"{self.gpus:g} of a card" if 0 < self.gpus < 1 else ""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How a configuration runs on one GPU model, or on CPUs alone.

    Attributes:
        bundle: Ray resources, without nodes.
        shape: How its effective batch is computed.
        gpu_model: Label of the GPU model; empty on CPUs alone.
        usable_bytes: Usable bytes of the whole card; None on CPUs alone.
        context_bytes: Bytes of the process outside torch's allocator.
        estimate: Predicted bytes and the plan, for the ledger.
    """

    bundle: Bundle
    shape: RunShape
    gpu_model: str = ""
    usable_bytes: int | None = None
    context_bytes: int = 0
    estimate: dict[str, object] = field(default_factory=dict)


LOCATION_KEYS: Final = ("trial/node", "trial/raylet", "trial/card", "trial/gpu_model", "trial/pid")

PLACEMENT_FIELDS = tuple(Placement.__dataclass_fields__)


@dataclass(frozen=True, kw_only=True)
class TrialSpec:
    """Everything that a trial's process needs.

    Attributes:
        number: Number in the sweep, from 1.
        name: Experiment name.
        sweep: Sweep name.
        sampled: Values of the searched parameters.
        config: The resolved run configuration.
        folder: outputs/experiments/<name>.
        sweep_folder: outputs/sweep_results/<sweep>.
        cache_dir: Tokenizers and encodings, shared by all trials.
        metric: The metric that ranks trials; every evaluation must have it.
        bundle: See Placement, with the nodes of this attempt.
        shape: See Placement.
        gpu_model: See Placement.
        usable_bytes: See Placement.
        context_bytes: See Placement.
        estimate: See Placement.
        notes: Changes of the rules between `sampled` and `config`.
        exploding_loss: See anomalies.Anomalies.
        resume_from: Checkpoint to resume from; None for a new start.
        resume_before: The checkpoint before it, which is used where that is damaged.
        simulated: Whether the card is a simulated one.
        member: Team member whose quota it uses.
        trained: The experiment whose best model generates with other settings; None: the trial trains.
    """

    number: int
    name: str
    sweep: str
    sampled: dict[str, object]
    config: dict[str, object]
    folder: str
    sweep_folder: str
    cache_dir: str
    metric: str
    bundle: Bundle
    shape: RunShape
    gpu_model: str = ""
    usable_bytes: int | None = None
    context_bytes: int = 0
    estimate: dict[str, object] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    exploding_loss: float | None = None
    resume_from: str | None = None
    resume_before: str | None = None
    simulated: bool = False
    member: str | None = None
    trained: str | None = None

    def at(self, placement: Placement, nodes: tuple[str, ...] = ()) -> "TrialSpec":
        """Returns the same trial with another placement.

        Args:
            placement: The new placement.
            nodes: Ray's node id of each process.
        """
        bundle = replace(placement.bundle, nodes=nodes)
        values = {name: getattr(placement, name) for name in PLACEMENT_FIELDS if name != "bundle"}
        return replace(self, bundle=bundle, **values)

    def to_dict(self) -> dict[str, object]:
        """Returns plain values for from_dict."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> "TrialSpec":
        """Builds a specification from the values of to_dict."""
        return from_mapping(cls, values, where="trial specification")

    def to_tune(self) -> dict[str, str]:
        """Returns the configuration of a Ray Tune trial.

        The specification is one text in it, as Tune keeps statistics of every number in a configuration and copies all
        its keys at every report (Ray 2.60, `Trial.update_last_result`).
        """
        return {"number": str(self.number), "name": self.name, SPEC_KEY: json.dumps(self.to_dict())}

    @classmethod
    def from_tune(cls, config: Mapping[str, object]) -> "TrialSpec":
        """Builds a specification from the configuration of to_tune."""
        return cls.from_dict(json.loads(str(config[SPEC_KEY])))
