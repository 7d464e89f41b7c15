"""What a sweep learns while it runs: how many trials a card takes, and how long they take."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ray.tune.schedulers import FIFOScheduler

from cluster.machines.hardware import parse_simulated
from cluster.scheduling.shares import UNITS
from tests.tune_jobs.driver.driven_sweep import DrivenSweep, Setup
from tests.tune_jobs.driver.ray_sweep import Made, never_inherit
from tests.tune_jobs.options_of import GIB
from tests.tune_jobs.specs_of import spec_of
from tune_jobs.config.sections import TeamSection
from tune_jobs.config.space import Space
from tune_jobs.config.sweep import Sweep
from tune_jobs.driver.broker_access import largest_share_units
from tune_jobs.driver.events import Submit, Withdraw
from tune_jobs.driver.learning import Learning
from tune_jobs.driver.recovery import RetryPolicy
from tune_jobs.driver.sweep_parts import Clocks, SweepLimits, SweepParts
from tune_jobs.driver.trial_queue import TrialQueue
from tune_jobs.placing.submission import SubmissionLimits
from tune_jobs.records.journal import Journal, TrialHistory
from tune_jobs.report.build import build_report
from tune_jobs.search.early_stopping import EarlyStopping
from tune_jobs.search.samplers import ListSampler

SMALL = Setup(
    cards="1xA:24GiB",
    sampler=lambda: ListSampler([{"batch_size": 1}] * 40),
    needs_gib={1: 1.0},
    longest=4,
)


def tokens_per_second(tenants: int) -> float:
    """Three trials fill the card; each further one costs a fifth of what it gets done."""
    return 90.0 / (max(1.0, tenants / 3) * (1 + 0.2 * max(0, tenants - 3)))


def run(sweep: DrivenSweep, rate: Callable[[int], float], *, ended: int) -> None:
    """Runs until so many trials have ended."""
    while sum(trial.status is not None for trial in sweep.trials.values()) < ended:
        sweep.start_all()
        sweep.tick()
        number = min(sweep.running, key=lambda one: (sweep.running[one].evaluations, one))
        ends = sweep.report(number, 1.0, train__tokens_per_second=rate(len(sweep.running)))
        sweep.save(number)
        if ends or sweep.running[number].evaluations >= SMALL.longest:
            sweep.end(number)


def test_a_card_takes_as_many_trials_as_get_most_done_and_the_log_gives_the_numbers(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path, SMALL)
    sweep.start_all()
    assert len(sweep.running) == 8
    run(sweep, tokens_per_second, ended=36)
    sweep.start_all()
    assert len(sweep.running) == 3
    assert "A: from now on a card takes at most 7, to compare with 8\n" in sweep.text
    compared = "A: a card gets most done with 3 trials (with 2: 33 % less, with 4: 17 % less)"
    assert f"{compared}; from now on a card takes at most 3\n" in sweep.text
    starts = [int(line.split()[1]) for line in sweep.shown if " starts" in line]
    assert starts == sorted(starts)  # those that wait keep their sequence


def test_another_driver_knows_what_the_first_one_learned(tmp_path: Path) -> None:
    first = DrivenSweep(tmp_path, SMALL)
    run(first, tokens_per_second, ended=30)
    second = DrivenSweep(tmp_path, SMALL)
    second.start_all()
    assert len(second.running) == 3


def test_where_every_trial_adds_something_the_card_stays_full(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path, SMALL)
    run(sweep, lambda tenants: 90.0, ended=30)
    sweep.start_all()
    assert len(sweep.running) == 8


def test_requests_that_wait_are_made_anew_when_the_first_trials_have_ended(tmp_path: Path) -> None:
    needs_gib = 5.0
    forgotten = []
    learning = Learning(co_tenants=None, observe=lambda trial: True, forget=lambda: forgotten.append(True))
    parts = SweepParts(
        sampler=ListSampler([{}, {}]),
        specs=Made(
            make_spec=lambda sampled: spec_of(tmp_path, "one"),
            inventory=parse_simulated("1x24GiB"),
            upper_bytes=lambda sampled: int(needs_gib * GIB),
        ),
        early_stopping=EarlyStopping(FIFOScheduler(), seed=0),
        retry=RetryPolicy(),
        inherit=never_inherit,
        learning=learning,
    )
    limits = SweepLimits(sweep="s", goal="maximize", longest=1, submission=SubmissionLimits())
    queue = TrialQueue(parts, limits, Journal(tmp_path / "journal.jsonl"), Clocks(elapsed_s=lambda: 0.0))
    for number in (1, 2):
        queue.prepare(number, {})
        queue.submit(number, first=number == 2)
    assert queue.renew() == []
    needs_gib = 11.0
    ended = TrialHistory(number=3, spec={})
    for _ in range(3):
        learning.ended(ended)
    assert len(forgotten) == 2  # after the first and the second
    out = queue.renew()
    assert [type(one) for one in out] == [Withdraw, Submit, Withdraw, Submit]
    requests = [one.request for one in out if isinstance(one, Submit)]
    assert [request.first for request in requests] == [False, True]
    assert [request.alternatives[0].units for request in requests] == [UNITS // 2] * 2
    assert queue.renew() == []


TEAM = """
members: {minji: {quota_gpus: 0.5}, jun: {quota_gpus: 3}}
windows: [{name: night, start: "22:00", end: "07:00", quota_gpus: {minji: 0.25, jun: 0}}]
"""


def test_no_share_becomes_larger_than_the_smallest_quota(tmp_path: Path) -> None:
    """A request that no quota allows would wait for ever."""
    (tmp_path / "team.yaml").write_text(TEAM)
    alone = Sweep(name="s", source="", method="grid", space=Space())
    team = {name: TeamSection(member=name, file=str(tmp_path / "team.yaml")) for name in ("minji", "jun")}
    assert largest_share_units(alone) == UNITS
    assert largest_share_units(replace(alone, team=team["minji"])) == UNITS // 4
    assert largest_share_units(replace(alone, team=team["jun"])) == UNITS


def test_a_report_names_what_was_learned(tmp_path: Path) -> None:
    sweep = DrivenSweep(tmp_path, SMALL)
    run(sweep, tokens_per_second, ended=36)
    paths = build_report(tmp_path)
    line = "A: a card gets most done with 3 trials (with 2: 33 % less, with 4: 17 % less)"
    assert line in paths.markdown.read_text(encoding="utf-8")
    assert line in paths.html.read_text(encoding="utf-8")
