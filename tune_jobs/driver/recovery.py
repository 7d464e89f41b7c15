"""What follows from the failure of an attempt: another one, perhaps with more memory, or the end of the trial. Pure."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from cluster.scheduling.shares import CLASSES, UNITS, Share
from tune_jobs.config.anomalies import Anomalies
from tune_jobs.records.journal import TrialHistory
from tune_jobs.records.trial_spec import FailureKind

SHARE_CLASSES = tuple(units / UNITS for units in CLASSES)
MOST_LOST_IN_A_ROW = 5  # attempts that may be lost with their process, one after another, without a new evaluation
FIRST_TRIALS = 3  # that fail alike before any trial has an evaluation: the sweep is wrong, not the trials
SUSPECT_TRIALS = 3  # of which a machine may lose the processes, one after another, before it is named
OF_SWEEP: tuple[FailureKind, ...] = ("error", "wrong_request")  # may be the fault of what all trials have in common
LOST: tuple[FailureKind, ...] = ("worker_lost", "host_memory", "stalled")  # no fault of the trial's configuration


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How often which failures are tried again.

    Attributes:
        retries: Attempts after a failure that is neither an out-of-memory nor a lost process.
        anomalies: What a sweep file says about trials that go wrong.
    """

    retries: int = 0
    anomalies: Anomalies = field(default_factory=Anomalies)

    def starts_again(self, trial: TrialHistory, kind: FailureKind) -> bool:
        """Returns whether a failed attempt is followed by another one.

        An out-of-memory is followed as long as some card can give more (see next_bytes); a lost process as long as
        the trial makes progress between losses.

        >>> trial = TrialHistory(number=1, spec={}, retries=["error"], lost_in_a_row=4)
        >>> policy = RetryPolicy(retries=1)
        >>> [policy.starts_again(trial, kind) for kind in ("error", "worker_lost", "out_of_memory", "wrong_request")]
        [False, True, True, False]
        """
        if kind == "out_of_memory":
            return True
        if kind in LOST:
            return self.anomalies.starts_again(kind) and trial.lost_in_a_row < MOST_LOST_IN_A_ROW
        if kind == "error" or (kind == "diverged" and self.anomalies.diverged == "retry"):
            return trial.retries.count(kind) < self.retries
        return False


def failed_alike(trials: Iterable[TrialHistory]) -> str | None:
    """Returns why a sweep's first trials failed, where all failed alike and none has an evaluation; else None.

    >>> alike = [TrialHistory(number=n, spec={}, status="failed", failure="error", reason="no file") for n in (1, 2, 3)]
    >>> failed_alike(alike), failed_alike(alike[:2])
    ('no file', None)
    """
    known = list(trials)
    ended = [trial for trial in known if trial.status is not None]
    if len(ended) < FIRST_TRIALS or any(trial.evaluations for trial in known):
        return None
    alike = {trial.reason for trial in ended} if all(trial.failure in OF_SWEEP for trial in ended) else set()
    return alike.pop() if len(alike) == 1 else None


class SuspectNodes:
    """Names machines on which the processes of several trials were lost one after another.

    >>> nodes = SuspectNodes()
    >>> [nodes.lost("10.0.0.3", number) for number in (1, 2)], nodes.reported("10.0.0.4")
    ([None, None], None)
    >>> nodes.lost("10.0.0.3", 4)
    'machine 10.0.0.3 lost the processes of trials 1, 2 and 4 one after another: look at its memory and its logs'
    """

    def __init__(self) -> None:
        self._lost: defaultdict[str, list[int]] = defaultdict(list)

    def lost(self, node: str, number: int) -> str | None:
        """Takes in a lost process; returns what to show, once for each machine until it is well again."""
        trials = self._lost[node]
        if number not in trials:
            trials.append(number)
            if len(trials) == SUSPECT_TRIALS:
                named = f"{', '.join(map(str, trials[:-1]))} and {trials[-1]}"
                return (
                    f"machine {node} lost the processes of trials {named} one after another: look at its memory and"
                    " its logs"
                )
        return None

    def reported(self, node: str) -> None:
        """Takes in a sign of life."""
        self._lost.pop(node, None)


def larger_share(gpus: float, classes: tuple[float, ...] = SHARE_CLASSES) -> float | None:
    """Returns the share for the next attempt after an out-of-memory: at least half as much again, at most a card.

    Args:
        gpus: The share that was too small.
        classes: Allowed shares in rising order, the last one a whole card.

    Returns:
        None where the trial held a whole card already: no share would help.

    >>> larger_share(0.25, (0.25, 0.3333, 0.5, 1.0)), larger_share(0.5, (0.25, 0.5, 1.0)), larger_share(1.0, (0.5, 1.0))
    (0.5, 1.0, None)
    """
    if gpus >= 1:
        return None
    return next((share for share in classes if share >= 1.5 * gpus), classes[-1])


def next_bytes(gpus: float, usable_bytes: int, classes: tuple[float, ...] = SHARE_CLASSES) -> int:
    """Returns what its cards must give together to the next attempt after an out-of-memory.

    That is a larger share of the same model, at last a whole card; after whole cards, more than they have: only a card
    of another model, or more cards, have it.

    Args:
        gpus: The share that was too small, or the whole cards that were.
        usable_bytes: Of one card of the model that it was a share of.
        classes: Allowed shares in rising order, the last one a whole card.

    >>> [next_bytes(gpus, 24_000, (0.25, 0.3333, 0.5, 1.0)) for gpus in (0.25, 0.5, 1.0, 2.0)]
    [12000, 24000, 24001, 48001]
    """
    share = larger_share(gpus, classes)
    return (
        max(1, int(gpus)) * usable_bytes + 1
        if share is None
        else Share(units=round(share * UNITS)).cap_bytes(usable_bytes)
    )
