"""Recovery on a real Ray with the real trainer: in place, by a larger share, and after a killed process."""

import io
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.tune_jobs.tiny import write_tiny_grid
from tests.tune_jobs.trial.trial_specs import LinearDevice
from tune_jobs.config.sweep_file import load_sweep
from tune_jobs.driver.run_sweep import RunOptions, run_sweep
from tune_jobs.driver.view import LogView
from tune_jobs.records.ledger import TrialRecord
from tune_jobs.records.trial_spec import RunShape, TrialSpec
from tune_jobs.trial.run_trial import run_trial

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]
GIB = 2**30
FITS, SMALLER, LARGER, KILLED = "1e-3", "2e-3", "3e-3", "4e-3"  # learning rates by which trials are told apart


@dataclass(frozen=True, kw_only=True)
class KillingDevice:
    """Ends its process with signal 9 once, after the trial's first evaluation.

    Attributes:
        folder: Of the experiment.
    """

    folder: Path

    def cap(self, allocator_bytes: int) -> None:
        """Does nothing."""

    def held_bytes(self) -> int:
        """Kills, or holds little."""
        mark = self.folder / "killed"
        if (self.folder / "metrics.json").exists() and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return GIB


def device_of(spec: TrialSpec, shape: RunShape) -> LinearDevice | KillingDevice:
    """Trials have an eighth of a card of 24 GiB."""
    rate = float(str(spec.sampled["learning_rate"]))
    if rate == float(KILLED):
        return KillingDevice(folder=Path(spec.folder))
    devices = {
        float(FITS): LinearDevice(fixed_bytes=GIB),
        float(SMALLER): LinearDevice(fixed_bytes=GIB, bytes_per_sample=GIB // 4, micro_batch=shape.micro_batch),
        float(LARGER): LinearDevice(fixed_bytes=5 * GIB),  # whatever the micro-batch
    }
    return devices[rate]


def trial(config: dict[str, object]) -> None:
    """A trial with a device that stands in for its card."""
    run_trial(config, device_of)


def run(folder: Path, rates: list[str]) -> tuple[dict[str, TrialRecord], str]:
    """Runs a trial for each rate and returns their records by rate, and what the terminal showed."""
    shown = io.StringIO()
    path = write_tiny_grid(folder / "recovered.yaml", rates=", ".join(rates), epochs=3)
    outcome = run_sweep(load_sweep(path), RunOptions(simulate="2x24GiB", trainable=trial), LogView(shown))
    records = {rate: one for rate in rates for one in outcome.folder.load().trials if _rate(one) == float(rate)}
    return records, shown.getvalue()


def _rate(record: TrialRecord) -> float:
    return float(str(record.sampled["learning_rate"]))


def test_an_out_of_memory_is_mended_in_place_and_then_by_a_larger_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    records, shown = run(tmp_path, [FITS, SMALLER, LARGER])
    assert {rate: record.status for rate, record in records.items()} == dict.fromkeys(records, "finished"), shown
    plans = {rate: record.plan and record.plan["micro_batch"] for rate, record in records.items()}
    assert plans == {FITS: 8, SMALLER: 4, LARGER: 8}
    assert [records[rate].retries for rate in (FITS, SMALLER)] == [0, 0]
    assert {records[rate].share for rate in (FITS, SMALLER)} == {0.125}
    assert records[LARGER].retries >= 1
    assert records[LARGER].share >= 0.25, "5 GiB of 24 GiB, in steps of half as much again"
    assert all([row["iteration"] for row in record.history] == [1, 2, 3] for record in records.values())
    measured = records[SMALLER].measured
    assert measured is not None
    assert measured["device_bytes"] == 2 * GIB


def test_a_killed_process_costs_the_steps_since_its_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    records, shown = run(tmp_path, [FITS, KILLED])
    assert {rate: record.status for rate, record in records.items()} == {FITS: "finished", KILLED: "finished"}, shown
    assert (records[FITS].retries, records[KILLED].retries) == (0, 1)
    assert [row["iteration"] for row in records[KILLED].history] == [1, 2, 3]
