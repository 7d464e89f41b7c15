"""Recovery on a real Ray with the real trainer: in place, by a larger share, and after a killed process."""

import io
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.tune_jobs.linear_devices import LinearDevice
from tests.tune_jobs.tiny import write_tiny_grid
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


def run(folder: Path, rates: list[str], more: str = "") -> tuple[dict[str, TrialRecord], str]:
    """Runs a trial for each rate and returns their records by rate, and what the terminal showed.

    Args:
        folder: For everything that it writes.
        rates: See FITS.
        more: Further sections of the sweep file.
    """
    shown = io.StringIO()
    path = write_tiny_grid(folder / "recovered.yaml", rates=", ".join(rates), epochs=3)
    path.write_text(path.read_text() + more)
    outcome = run_sweep(load_sweep(path), RunOptions(simulate="2x24GiB", trainable=trial), LogView(shown))
    records = {rate: one for rate in rates for one in outcome.folder.load().trials if _rate(one) == float(rate)}
    return records, shown.getvalue()


def _rate(record: TrialRecord) -> float:
    return float(str(record.sampled["learning_rate"]))


def test_an_out_of_memory_and_a_killed_process_cost_steps_and_not_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In place by a smaller micro-batch, by a larger share, and by another process from the last checkpoint."""
    monkeypatch.chdir(tmp_path)
    records, shown = run(tmp_path, [FITS, SMALLER, LARGER, KILLED])
    assert {rate: record.status for rate, record in records.items()} == dict.fromkeys(records, "finished"), shown
    plans = {rate: record.plan and record.plan["micro_batch"] for rate, record in records.items()}
    assert plans == {FITS: 8, SMALLER: 4, LARGER: 8, KILLED: 8}
    assert [records[rate].retries for rate in (FITS, SMALLER, KILLED)] == [0, 0, 1]
    assert {records[rate].share for rate in (FITS, SMALLER, KILLED)} == {0.125}
    assert records[LARGER].retries >= 1
    assert records[LARGER].share >= 0.25, "5 GiB of 24 GiB, in steps of half as much again"
    assert all([row["iteration"] for row in record.history] == [1, 2, 3] for record in records.values())
    measured = records[SMALLER].measured
    assert measured is not None
    assert measured["device_bytes"] == 2 * GIB
    assert "failed and starts again: worker lost" in shown
    assert "failed and starts again: out of memory; 0.125 -> " in shown


def test_by_policy_a_killed_process_is_not_started_again_and_its_neighbour_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    records, shown = run(tmp_path, [FITS, KILLED], "anomalies: {lost_worker: stop}\n")
    assert {rate: record.status for rate, record in records.items()} == {FITS: "finished", KILLED: "failed"}, shown
    error = records[KILLED].error
    assert error is not None
    assert error.type == "worker_lost"
    assert len(records[KILLED].history) < 3
    assert "starts again" not in shown
