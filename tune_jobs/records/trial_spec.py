"""What the driver and a trial's process tell each other: plain values, so that they travel as JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Final, cast

from common.strict import from_mapping
from tune_jobs.trial.recovery import RunShape

LATER: Final = "later"  # in place of an order: none may start now, but more will come
PLACE_KEYS = ("bundle", "shape", "usable_bytes", "context_bytes", "estimate")  # what TrialOrder.at changes
ORDER_KEY = "order"  # the only key in a Tune configuration
EVALUATION_KEY = "trial/evaluation"  # evaluations so far, counted over restarts; Tune's own count starts again
FAILURE_KEY = "trial/failure"  # its kind; sent by a trial that failed in a way that no retry would mend
INTERRUPTED_KEY = "trial/interrupted"  # sent with a checkpoint between two evaluations, because STOP_FILE was there
FAILURE_MESSAGE_KEY = "trial/failure_message"
STOP_FILE = "stop"  # in the sweep's folder while its driver asks the trials to save and end
WAITS_KEY = "trial/waits"  # why; sent, again and again, by a trial that waits for its storage


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """What one trial occupies in Ray.

    Attributes:
        cpus: Logical CPU cores, fractions allowed.
        gpus: Share of one card in steps of 1e-4, or whole cards.
        labels: Node labels that must match, for example {"gpu-model": "A100"}.
        spread: Whether several cards may lie in several machines.
    """

    cpus: float
    gpus: float = 0.0
    labels: dict[str, str] = field(default_factory=dict)
    spread: bool = False

    @property
    def ranks(self) -> int:
        """Processes that train together: one on each whole card, one where there is a part of a card or none.

        >>> [Bundle(cpus=1, gpus=gpus).ranks for gpus in (0, 0.5, 1, 2)]
        [1, 1, 1, 2]
        """
        return max(1, int(self.gpus))


@dataclass(frozen=True, kw_only=True)
class Placed:
    """Where and how a configuration runs.

    Attributes:
        bundle: What it occupies in Ray.
        shape: How its effective batch is computed.
        usable_bytes: Of the card that the share is a part of; None where it runs without a card.
        context_bytes: What it holds there outside torch's allocator.
        estimate: Predicted bytes, for the ledger.
    """

    bundle: Bundle
    shape: RunShape
    usable_bytes: int | None = None
    context_bytes: int = 0
    estimate: dict[str, object] | None = None


@dataclass(frozen=True, kw_only=True)
class PretendedUse:
    """Device bytes as a straight line of the micro-batch, in place of a card that is not there.

    Attributes:
        fixed_bytes: Weights, optimizer, context.
        bytes_per_sample: Of the micro-batch.
    """

    fixed_bytes: int
    bytes_per_sample: int


@dataclass(frozen=True, kw_only=True)
class TrialOrder:
    """Everything that a trial's process needs to know; plain values, so that it travels as JSON.

    Attributes:
        number: Place in the sweep, from 1.
        name: Experiment name.
        sweep: Sweep name.
        bundle: What it occupies in Ray; see Bundle.
        sampled: Values of the searched parameters.
        config: The resolved run configuration.
        notes: What each rule changed between the two.
        shape: How the effective batch is computed to fit into the share.
        folder: outputs/experiments/<name>.
        sweep_folder: outputs/sweep_results/<sweep>.
        cache_dir: Tokenizers and encodings, shared by all trials.
        metric: What trials are compared by; every report must have it.
        retries: How often a failure that is no out-of-memory is tried again.
        exploding_loss: See anomalies.Anomalies.
        retry_diverged: Whether a diverged training is tried again.
        resume_from: Checkpoint that an earlier driver left.
        usable_bytes: Of the card that the share is a part of; None on a machine without GPUs.
        context_bytes: What the process holds there outside torch's allocator.
        pretended: On a simulated card: what the process would hold there; None holds nothing. For tests of recovery.
        estimate: Predicted bytes and the plan, for the ledger.
        simulated: Whether the card is a logical one.
        member: Whose quota it uses.
        trained: The experiment whose best model only writes summaries with other settings; None trains.
    """

    number: int
    name: str
    sweep: str
    bundle: Bundle
    sampled: dict[str, object]
    config: dict[str, object]
    shape: RunShape
    folder: str
    sweep_folder: str
    cache_dir: str
    metric: str
    notes: list[str] = field(default_factory=list)
    retries: int = 0
    exploding_loss: float | None = None
    retry_diverged: bool = False
    resume_from: str | None = None
    usable_bytes: int | None = None
    context_bytes: int = 0
    pretended: PretendedUse | None = None
    estimate: dict[str, object] = field(default_factory=dict)
    simulated: bool = False
    member: str | None = None
    trained: str | None = None

    def at(self, placed: Placed) -> "TrialOrder":
        """Returns the order of the same trial at another place."""
        return replace(
            self,
            bundle=placed.bundle,
            shape=placed.shape,
            usable_bytes=placed.usable_bytes,
            context_bytes=placed.context_bytes,
            estimate=placed.estimate or {},
        )

    def to_dict(self) -> dict[str, object]:
        """Returns plain values; from_dict reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> "TrialOrder":
        """Reads what to_dict made."""
        return from_mapping(cls, values, where="trial order")


def identity(order: Mapping[str, object]) -> tuple[int, str]:
    """Returns the number and the name of the trial that an order (as a dictionary) is for."""
    return cast("int", order["number"]), str(order["name"])
