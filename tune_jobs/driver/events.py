"""What the state of a sweep takes in (events) and gives out (instructions). Plain values."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.scheduling.request import Alternative, Request
from tune_jobs.records.trial_spec import FailureKind, TrialSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Allocated:
    """The broker granted a trial's request.

    Attributes:
        number: The trial.
        alternative: What it holds; its share may be larger than asked for.
        nodes: Ray's node id of each process.
    """

    number: int
    alternative: Alternative
    nodes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class PauseRequested:
    """The broker wants a trial's share back, after its next evaluation."""

    number: int
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Unplaceable:
    """No node that is there now can hold the trial."""

    number: int
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StillWaiting:
    """A trial has waited for its share for a while."""

    number: int
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptStarted:
    """The process of an attempt runs."""

    number: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Reported:
    """A trial's process reported; see trial_spec for the keys."""

    number: int
    result: Mapping[str, object]


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointSaved:
    """A checkpoint is complete in the sweep's storage."""

    number: int
    folder: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptEnded:
    """The process of an attempt is done with it, or is gone.

    Attributes:
        number: The trial.
        error: What Tune knows of the failure; None where the function returned or was stopped.
        kind: What kind of failure that is, where the process itself did not report one.
    """

    number: int
    error: str | None = None
    kind: FailureKind = "worker_lost"


@dataclass(frozen=True, kw_only=True, slots=True)
class TunerDied:
    """Tune's controller ended with an error: no attempt is left.

    Attributes:
        error: Its last line.
        kind: What kind of failure ended the attempts; None where no attempt is to blame, so that all pause.
        caused_by: Trials whose processes caused it; empty where nobody knows.
    """

    error: str
    kind: FailureKind | None
    caused_by: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class StopRequested:
    """The driver should end: trials save where they are, none starts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TimePassed:
    """Nothing but time has passed."""


Event = (
    Allocated
    | PauseRequested
    | Unplaceable
    | StillWaiting
    | AttemptStarted
    | Reported
    | CheckpointSaved
    | AttemptEnded
    | TunerDied
    | StopRequested
    | TimePassed
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Submit:
    """Ask the broker for a share."""

    number: int
    request: Request


@dataclass(frozen=True, kw_only=True, slots=True)
class Withdraw:
    """Take a request back that is still queued."""

    number: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfirmStart:
    """Tell the broker that an allocated trial runs."""

    number: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ReturnAllocation:
    """Tell the broker that Ray did not start an allocated trial; its request goes back to the queue."""

    number: int
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """Tell the broker that a trial holds nothing any more."""

    number: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """Start an attempt."""

    spec: TrialSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class EndAttempt:
    """End the attempt of a trial at the report that is being answered."""

    number: int


@dataclass(frozen=True, kw_only=True, slots=True)
class CancelLaunch:
    """End an attempt whose process Ray has not started."""

    number: int


@dataclass(frozen=True, kw_only=True, slots=True)
class KillProcess:
    """End a process that hangs."""

    number: int


@dataclass(frozen=True, kw_only=True, slots=True)
class CloseTrial:
    """Write the outcome of a trial that has ended, and remove what only a resume would need."""

    number: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ForgetCheckpoints:
    """Remove what an earlier attempt left in the sweep's storage.

    Attributes:
        folder: Of its checkpoints.
    """

    folder: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class AskToSave:
    """Ask all trials that run to save at their next step and end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Notify:
    """Show a line to the person who watches."""

    text: str


Instruction = (
    Submit
    | Withdraw
    | ConfirmStart
    | ReturnAllocation
    | Release
    | Launch
    | EndAttempt
    | CancelLaunch
    | KillProcess
    | CloseTrial
    | ForgetCheckpoints
    | AskToSave
    | Notify
)
