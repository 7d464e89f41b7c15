"""Which phase a staged sweep goes on in: the sweeps of the phases are replaced by their ledgers, nothing is trained."""

import io
from contextlib import nullcontext
from pathlib import Path

import pytest

from cluster.machines.hardware import Inventory
from tests.tune_jobs.synthetic import METRIC
from tune_jobs.analysis.sweep_analysis import analyse
from tune_jobs.config.sweep import Sweep
from tune_jobs.config.sweep_file import load_sweep
from tune_jobs.driver import phases, ray_session
from tune_jobs.driver.phases import StagedOutcome, run_staged
from tune_jobs.driver.run_sweep import RunOptions
from tune_jobs.driver.sweep_end import SweepOutcome
from tune_jobs.driver.view import LogView
from tune_jobs.records.ledger import SweepFolder, SweepRecord, TrialOutcome, TrialRecord
from tune_jobs.records.progress import SweepFrame, SweepProgress
from tune_jobs.search.grid import sampled_configs
from tuning_common.errors import RequestError, WorkError

STAGED = """
name: s
parameters:
  learning_rate: {distribution: log_uniform_values, min: 1e-5, max: 1e-3}
  batch_size: {values: [8, 16]}
phases:
  - {name: quick_check, count: 1}
  - {name: wide, method: random, count: 6}
  - {name: narrow, method: random, count: 4, keep_fraction: 0.5}
  - {name: confirm, winners: 2, seeds: [1, 2]}
"""


class Runs:
    """Stands for run_sweep: writes a ledger in which small learning rates are good, and ends as it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, bool]] = []
        self.ends: dict[str, str] = {}

    def __call__(self, sweep: Sweep, options: RunOptions, *rest: object, **more: object) -> SweepOutcome:
        self.calls.append((sweep.name, options.resume))
        folder = SweepFolder.of(Path(sweep.tracking.output_dir), sweep.name)
        folder.append(SweepRecord(sweep=sweep.name, metric=METRIC, goal="maximize"))
        folder.sweep_file.write_bytes(Path(sweep.source).read_bytes())
        (folder.path / "journal.jsonl").write_text("")
        how = self.ends.get(sweep.name, "well")
        for number, sampled in enumerate(sampled_configs(sweep), start=1):
            status: TrialOutcome = "failed" if how == "failed" else "finished"
            rate = sampled["learning_rate"]
            assert isinstance(rate, float)
            folder.append(
                TrialRecord(
                    trial_id=str(number), name=f"{sweep.name}_{number}", sweep=sweep.name, status=status,
                    sampled=dict(sampled), history=[] if how == "failed" else [{METRIC: 30 - 1e4 * rate}],
                )
            )  # fmt: skip
        if how == "killed":
            raise ConnectionError("the driver is gone")
        frame = SweepFrame(sweep=sweep.name, metric=METRIC, goal="maximize", total=1, longest=1, slots=1)
        progress = SweepProgress(frame=frame)
        analysis = analyse(folder.load())
        interrupted = how == "interrupted"
        return SweepOutcome(
            folder=folder, metric=METRIC, best=None, score=None, interrupted=interrupted, simulated=False,
            progress=progress, analysis=analysis,
        )  # fmt: skip


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Runs:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text(STAGED)
    made = Runs()
    monkeypatch.setattr(phases, "run_sweep", made)
    monkeypatch.setattr(phases, "at_hand", lambda *_: nullcontext(Inventory(nodes=())))
    monkeypatch.setattr(ray_session, "session", lambda *_: nullcontext(Inventory(nodes=())))
    for name in ("check_placement", "prepare_inputs", "reported"):
        monkeypatch.setattr(phases, name, lambda *_: None)
    return made


def run(*, resume: bool = False) -> StagedOutcome:
    return run_staged(load_sweep(Path("s.yaml")), RunOptions(resume=resume), LogView(io.StringIO()))


def test_a_driver_that_was_killed_within_a_phase_goes_on_in_it(runs: Runs) -> None:
    runs.ends["s_narrow"] = "killed"
    with pytest.raises(ConnectionError):
        run()
    assert runs.calls == [("s_quick_check", False), ("s_wide", False), ("s_narrow", False)]
    runs.calls, runs.ends = [], {}
    outcome = run(resume=True)
    assert runs.calls == [("s_narrow", True), ("s_confirm", False)]
    assert not outcome.interrupted
    assert [one.trials for one in outcome.phases] == [1, 6, 4, 4]
    ids = [record.trial_id for record in outcome.folder.load().trials]
    assert len(ids) == len(set(ids)) == 15
    runs.calls = []
    assert run(resume=True).best == outcome.best
    assert runs.calls == [], "nothing is left"


def test_a_driver_that_was_killed_between_the_end_of_a_phase_and_its_record_repeats_nothing(runs: Runs) -> None:
    runs.ends["s_wide"] = "killed"  # its ledger is whole
    with pytest.raises(ConnectionError):
        run()
    runs.calls, runs.ends = [], {}
    run(resume=True)
    assert runs.calls[0] == ("s_wide", True)


def test_an_interrupted_phase_ends_the_run_and_nothing_follows_from_a_failed_one(runs: Runs) -> None:
    runs.ends["s_wide"] = "interrupted"
    outcome = run()
    assert outcome.interrupted
    assert [one.name for one in outcome.phases] == ["quick_check"]
    runs.ends["s_wide"] = "failed"
    with pytest.raises(WorkError, match="phase wide: no trial has a result, so nothing else is started"):
        run(resume=True)


def test_a_new_run_puts_all_phases_of_an_earlier_one_aside(runs: Runs) -> None:
    run()
    runs.ends["s_wide"] = "interrupted"
    run()
    results = Path("outputs/sweep_results")
    assert not (results / "s_narrow").exists(), "else --resume would take the old one for this run's"
    assert len(list(results.glob("s_narrow_*"))) == 1
    runs.calls, runs.ends = [], {}
    run(resume=True)
    assert runs.calls == [("s_wide", True), ("s_narrow", False), ("s_confirm", False)]


def test_a_phase_keeps_its_name_and_a_changed_file_is_not_resumed(runs: Runs) -> None:
    runs.ends["s_narrow"] = "interrupted"
    run()
    following = Path("outputs/sweep_results/s_wide/next_sweep.yaml")
    text = following.read_text()
    following.write_text(text.replace("name: s_narrow", "name: mine"))
    with pytest.raises(RequestError, match="keep `name: s_narrow` instead of 'mine'"):
        run(resume=True)
    following.write_text(text)
    Path("s.yaml").write_text(STAGED.replace("name: wide", "name: broad, kind: wide"))
    with pytest.raises(RequestError, match=r'phases was \["quick_check", "wide".* and is \["quick_check", "broad"'):
        run(resume=True)
