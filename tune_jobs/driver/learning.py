"""What a sweep learns from its own trials while it runs: how many share a card best, and how long they take."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cluster.scheduling.co_tenants import CoTenants
from cluster.scheduling.request import Request
from cluster.scheduling.shares import MAX_TENANTS, UNITS
from tune_jobs.config.sweep import Sweep
from tune_jobs.placing.placer import Placer
from tune_jobs.placing.throughput import CPU, observe
from tune_jobs.records.card_sharing import learned_co_tenants, pace_of
from tune_jobs.records.journal import Journal, TrialHistory
from tune_jobs.records.outcomes import record_of


@dataclass(kw_only=True)
class Learning:
    """Corrects what requests of a sweep ask for.

    Attributes:
        co_tenants: How many trials a card takes; None where the sweep's file fixes what each trial gets.
        cards: Of the cluster.
        most_units: No share is made larger than that of a card: a quota may allow no more.
        observe: Takes in how long a trial took that ended; returns whether that says something of others.
        forget: Has expected durations found anew.
        is_stale: Whether requests that wait should be made anew.
        has_new_durations: Whether their expected durations should be found anew then.
    """

    co_tenants: CoTenants | None = field(default_factory=CoTenants)
    cards: int = 1
    most_units: int = UNITS
    observe: Callable[[TrialHistory], bool] = lambda trial: False
    forget: Callable[[], None] = lambda: None
    is_stale: bool = field(default=False, init=False)
    has_new_durations: bool = field(default=False, init=False)
    _observed: int = field(default=0, init=False)

    def reported(self, spec: Mapping[str, object], metrics: Mapping[str, object], waiting: int) -> str:
        """Takes in an evaluation; returns what follows for its GPU model, in words, where that is new.

        Args:
            spec: Of the trial.
            metrics: That it reported.
            waiting: Trials of the sweep that wait.
        """
        pace = pace_of(spec, metrics)
        if pace is None or self.co_tenants is None:
            return ""
        model, found = pace.model, self.co_tenants
        before = found.limit(model), found.filled_by(model)
        found.waiting = waiting / self.cards
        found.observe(pace)
        if before == (found.limit(model), found.filled_by(model)):
            return ""
        self.is_stale = True
        return found.notice(model) if before[0] != found.limit(model) else ""

    def ended(self, trial: TrialHistory) -> None:
        """Takes in how long a trial took; after the first, second, fourth ... of them, requests are made anew."""
        if self.observe(trial):
            self._observed += 1
            if self._observed & (self._observed - 1) == 0:
                self.forget()
                self.is_stale = self.has_new_durations = True

    def limited(self, request: Request) -> Request:
        """Returns a request with what is known of co-tenants."""
        return request if self.co_tenants is None else self.co_tenants.limited(request, self.most_units)


def learning_of(sweep: Sweep, placer: Placer, journal: Journal, *, most_units: int) -> Learning:
    """Begins with what earlier drivers of a sweep learned of co-tenants; its ledger is among those of earlier runs.

    Args:
        sweep: As read.
        placer: Of its trials.
        journal: Of its earlier drivers.
        most_units: See Learning.
    """
    resources, durations = sweep.resources, placer.durations
    is_fixed = resources.part != "auto" or resources.gpus_per_trial is not None
    most = resources.max_trials_per_gpu or MAX_TENANTS

    def observe_trial(trial: TrialHistory) -> bool:
        if durations is None or trial.status not in ("finished", "stopped"):
            return False
        found = observe(record_of(trial, goal=sweep.metric.goal), durations.sizes.dev)
        if found is None or found.card == CPU:
            return False
        durations.add(found)
        return True

    return Learning(
        co_tenants=None if is_fixed else learned_co_tenants(journal.earlier, most),
        cards=max(1, placer.inventory.cards),
        most_units=most_units,
        observe=observe_trial,
        forget=placer.forget,
    )
