"""Trials between their suggestion and the start of an attempt, without Ray and without a broker."""

from pathlib import Path

from ray.tune.schedulers import FIFOScheduler

from cluster.machines.hardware import parse_simulated
from tests.tune_jobs.driver.ray_sweep import Made, never_inherit
from tests.tune_jobs.options_of import GIB
from tests.tune_jobs.specs_of import spec_of
from tune_jobs.driver.events import Allocated, CancelLaunch, Launch, ReturnAllocation
from tune_jobs.driver.recovery import RetryPolicy
from tune_jobs.driver.sweep_parts import Clocks, SweepLimits, SweepParts
from tune_jobs.driver.trial_queue import LAUNCH_LIMIT_S, TrialQueue
from tune_jobs.placing.submission import SubmissionLimits
from tune_jobs.records.journal import Journal
from tune_jobs.search.early_stopping import EarlyStopping
from tune_jobs.search.samplers import ListSampler


def test_ray_has_twice_as_long_to_start_a_trial_each_time_that_it_did_not(tmp_path: Path) -> None:
    """Else a machine that needs longer than the limit to start a process would begin again for ever."""
    now_s = 0.0
    cards = parse_simulated("1x24GiB")
    queue = TrialQueue(
        SweepParts(
            sampler=ListSampler([{}]),
            specs=Made(
                make_spec=lambda sampled: spec_of(tmp_path, "one"),
                inventory=cards,
                upper_bytes=lambda sampled: 5 * GIB,
            ),
            early_stopping=EarlyStopping(FIFOScheduler(), seed=0),
            retry=RetryPolicy(),
            inherit=never_inherit,
        ),
        SweepLimits(sweep="s", goal="maximize", longest=1, submission=SubmissionLimits()),
        Journal(tmp_path / "journal.jsonl"),
        Clocks(elapsed_s=lambda: now_s, now=lambda: now_s),
    )
    queue.prepare(1, {})
    queue.submit(1)
    for limit_s in (LAUNCH_LIMIT_S, 2 * LAUNCH_LIMIT_S, 4 * LAUNCH_LIMIT_S):
        assert isinstance(queue.allocate(Allocated(number=1, model="simulated-24GiB", nodes=("a",))), Launch)
        now_s += limit_s
        assert queue.overdue() == []
        now_s += 1.0
        assert queue.cancel(queue.overdue()) == [CancelLaunch(number=1)]
        assert queue.started(1)
        assert queue.return_allocation(1, "slow") == ReturnAllocation(number=1, reason="slow")
