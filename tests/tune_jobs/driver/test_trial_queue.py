"""Trials between their suggestion and the start of an attempt, without Ray and without a broker."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ray.tune.schedulers import FIFOScheduler

from cluster.machines.hardware import parse_simulated
from cluster.scheduling.request import Alternative
from cluster.scheduling.shares import UNITS, Share
from tests.tune_jobs.driver.ray_sweep import Made, never_inherit
from tests.tune_jobs.options_of import GIB
from tests.tune_jobs.specs_of import spec_of
from tune_jobs.driver.events import Allocated, CancelLaunch, Launch, Submit
from tune_jobs.driver.recovery import RetryPolicy
from tune_jobs.driver.sweep_parts import Clocks, SweepLimits, SweepParts
from tune_jobs.driver.trial_queue import LAUNCH_LIMIT_S, TrialQueue
from tune_jobs.placing.submission import SubmissionLimits
from tune_jobs.records.journal import Journal
from tune_jobs.search.early_stopping import EarlyStopping
from tune_jobs.search.samplers import ListSampler


def queue_of_one(tmp_path: Path, elapsed_s: Callable[[], float]) -> TrialQueue:
    """A queue whose only trial needs 5 GiB of a card of 24 GiB."""
    queue = TrialQueue(
        SweepParts(
            sampler=ListSampler([{}]),
            specs=Made(
                make_spec=lambda sampled: spec_of(tmp_path, "one"),
                inventory=parse_simulated("1x24GiB"),
                upper_bytes=lambda sampled: 5 * GIB,
            ),
            early_stopping=EarlyStopping(FIFOScheduler(), seed=0),
            retry=RetryPolicy(),
            inherit=never_inherit,
        ),
        SweepLimits(sweep="s", goal="maximize", longest=1, submission=SubmissionLimits()),
        Journal(tmp_path / "journal.jsonl"),
        Clocks(elapsed_s=elapsed_s, now=elapsed_s),
    )
    queue.prepare(1, {})
    return queue


def asked(queue: TrialQueue) -> Alternative:
    """Submits the trial; returns what it asks for."""
    (instruction,) = queue.submit(1)
    assert isinstance(instruction, Submit)
    (alternative,) = instruction.request.alternatives
    return alternative


def test_a_trial_holds_the_share_that_it_was_granted_also_a_larger_one(tmp_path: Path) -> None:
    """Else Ray would put it on another card than the broker packed it on."""
    queue = queue_of_one(tmp_path, lambda: 0.0)
    wanted = asked(queue)
    share = Share(units=round(wanted.gpus * UNITS) + 3)
    granted = replace(wanted, share=share, cap_bytes=wanted.cap_bytes + 1000)
    launch = queue.allocate(Allocated(number=1, alternative=granted, nodes=("a",)))
    assert isinstance(launch, Launch)
    assert launch.spec.bundle.gpus == share.gpus == wanted.gpus + 0.0003
    assert (launch.spec.estimate or {})["cap_bytes"] == granted.cap_bytes


def test_ray_has_twice_as_long_to_start_a_trial_each_time_that_it_did_not(tmp_path: Path) -> None:
    """Else a machine that needs longer than the limit to start a process would begin again for ever."""
    now_s = 0.0
    queue = queue_of_one(tmp_path, lambda: now_s)
    granted = Allocated(number=1, alternative=asked(queue), nodes=("a",))
    for limit_s in (LAUNCH_LIMIT_S, 2 * LAUNCH_LIMIT_S, 4 * LAUNCH_LIMIT_S):
        assert isinstance(queue.allocate(granted), Launch)
        now_s += limit_s
        assert queue.overdue() == []
        now_s += 1.0
        assert queue.cancel(queue.overdue()) == [CancelLaunch(number=1)]
        assert queue.started(1)
        assert queue.return_allocation(1).reason.startswith("Ray did not start it within")
