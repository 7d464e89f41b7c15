"""W&B: offline without an account, one run a trial over restarts, never an error that reaches the trial."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tune_jobs.tracking import NullTracker, TrackedRun, WandbTracker, open_tracker, resolved_mode


@pytest.fixture(autouse=True)
def no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_SILENT", "true")


def run_of(folder: Path, mode: str = "auto") -> TrackedRun:
    return TrackedRun(
        project="dialogues",
        group="sample",
        name="sample_tiny-bart_lr1e-03_bs16",
        run_id="sample-1",
        folder=folder,
        tags=("tiny-bart",),
        config={"sampled": {"learning_rate": 1e-3}},
        mode=mode,  # type: ignore[arg-type]
    )


def test_a_key_or_a_login_sends_runs_and_wandbs_own_variable_wins() -> None:
    assert resolved_mode("auto", {}, False) == "offline"
    assert resolved_mode("auto", {}, True) == "online"
    assert resolved_mode("offline", {"WANDB_API_KEY": "k"}, True) == "offline"
    assert resolved_mode("online", {"WANDB_MODE": "disabled"}, True) == "disabled"


def test_disabled_tracking_opens_nothing(tmp_path: Path) -> None:
    assert isinstance(open_tracker(run_of(tmp_path, "disabled")), NullTracker)
    assert not (tmp_path / "wandb").exists()


def test_an_offline_run_holds_config_group_and_every_step(tmp_path: Path) -> None:
    tracker = open_tracker(run_of(tmp_path))
    assert isinstance(tracker, WandbTracker)
    for step in (1, 2):
        tracker.log({"train/loss": 3.0 / step, "train/global_step": float(step)})
    tracker.samples([("#Person1#: 안녕", "인사한다", "인사")])
    tracker.finish("stopped")
    tracker.finish("stopped")
    tracker.log({"train/loss": 0.0})  # after the end: a warning, no error

    (file,) = tmp_path.glob("wandb/offline-run-*/run-sample-1.wandb")
    records = list(wandb_records(file))
    (run,) = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    assert (run.project, run.run_group, run.job_type, run.display_name) == (
        "dialogues",
        "sample",
        "trial",
        "sample_tiny-bart_lr1e-03_bs16",
    )
    assert json.loads(next(u.value_json for u in run.config.update if u.key == "sampled")) == {"learning_rate": 1e-3}
    history = [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]
    assert [row["train/loss"] for row in history if "train/loss" in row] == [3.0, 1.5]
    assert [row["samples/nrows"] for row in history if "samples/nrows" in row] == [1]


def test_a_folder_that_cannot_be_written_costs_the_mirror_and_not_the_trial(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert isinstance(open_tracker(run_of(tmp_path / "file")), NullTracker)
    assert "could not be opened" in caplog.text


def wandb_records(path: Path) -> Iterator[object]:
    """Reads an offline run: LevelDB log blocks of 32 KiB holding protobuf records."""
    pb = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    raw, at, held = path.read_bytes(), 7, b""
    while at + 7 <= len(raw):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", raw[at : at + 7])
        if not kind and not length:
            at += left
            continue
        held += raw[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            record = pb.Record()
            record.ParseFromString(held)
            held = b""
            yield record
