"""The profile command: on a CPU it measures times and says what it cannot; on a GPU every peak has its estimate."""

import dataclasses
import json
from pathlib import Path

import pytest

from cluster.estimator.calibration import load_calibration
from cluster.estimator.gpu_profile import find_gpu
from dialsum.config import RunConfig
from tune_jobs.__main__ import main
from tune_jobs.placing.memory_requests import request_of
from tune_jobs.placing.profile_run import Measured, MeasuredPhase, card_here, measure_run
from tuning_common import cli

TINY = [
    "profile", "--model", "tiny-bart", "--batch-size", "4", "--gradient-accumulation-steps", "2",
    "--encoder-max-len", "32", "--decoder-max-len", "8", "--generation-batch-size", "2", "--num-beams", "2",
    "--precision", "fp32",
]  # fmt: skip
PHASES = ["data", "forward", "backward", "optimizer", "evaluate", "generate"]


@pytest.fixture(autouse=True)
def allocator_set_already(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command sets torch's allocator for its own process; this process goes on with other tests."""
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True")


@pytest.fixture
def on_cpu() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("a CUDA device is here")


@pytest.mark.usefixtures("on_cpu")
def test_on_a_cpu_times_are_measured_and_the_rest_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = tmp_path / "calibration.jsonl"
    assert cli.run(main, [*TINY, "--calibration", str(ledger), "--format", "json"]) == 0
    out, err = capsys.readouterr()
    answer = json.loads(out)
    assert [line for line in err.split("\n") if "measuring" in line] == [f"measuring: {name} ..." for name in PHASES]
    assert (answer["device"], answer["micro_batch"], answer["recorded"], answer["fits"]) == ("CPU", 2, False, True)
    assert list(answer["time_s"]) == PHASES
    assert all(seconds > 0 for seconds in answer["time_s"].values())
    assert set(answer["phase_allocated_bytes"].values()) == {None}
    assert answer["memory"]["device_bytes"]["estimated"] > 0
    assert answer["memory"]["device_bytes"]["measured"] is None
    assert "there is no GPU memory to measure" in answer["not_measured"][0]
    assert not ledger.exists()


@pytest.mark.usefixtures("on_cpu")
def test_text_says_what_a_cpu_cannot_measure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(main, [*TINY, "--calibration", str(tmp_path / "none.jsonl")]) == 0
    text = capsys.readouterr().out
    assert text.startswith("tiny-bart on CPU: batch 2 x 2, fp32")
    assert "note: on a CPU there is no GPU memory to measure" in text
    assert "not measured" in text


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("model", ["tiny-gpt2", "tiny-t5"])
def test_every_kind_of_model_runs(model: str) -> None:
    config = RunConfig(
        model=model, batch_size=2, encoder_max_len=16, decoder_max_len=8, generation_batch_size=2, precision="bf16",
        gradient_checkpointing=True, label_smoothing=0.1, optimizer="adafactor",
    )  # fmt: skip
    found = measure_run(config, request_of(config, find_gpu("L4")))
    assert [phase.name for phase in found.phases] == PHASES
    assert found.host_rss_bytes > 2**20


SEEN = Measured(
    device="NVIDIA L4",
    phases=tuple(MeasuredPhase(name=name, seconds=0.1, allocated_bytes=2**30) for name in PHASES),
    train_allocated_bytes=2**30,
    train_reserved_bytes=2**30 + 2**20,
    generate_allocated_bytes=2**29,
    reserved_bytes=2**30 + 2**20,
    host_rss_bytes=2**31,
)


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize(("fits", "code"), [(True, 0), (False, 1)])
def test_a_measured_peak_goes_into_the_calibration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, fits: bool, code: int
) -> None:
    ledger = tmp_path / "calibration.jsonl"
    monkeypatch.setattr(
        "tune_jobs.placing.profile_run.measure_run", lambda config, request, show: dataclasses.replace(SEEN, fits=fits)
    )
    monkeypatch.setattr("cluster.machines.nvml.process_bytes", lambda pid: 3 * 2**29)
    assert cli.run(main, [*TINY, "--calibration", str(ledger), "--format", "json"]) == code
    captured = capsys.readouterr()
    answer = json.loads(captured.out)
    assert (answer["recorded"], answer["not_measured"]) == (True, [])
    allocated = answer["memory"]["train_allocated_bytes"]
    assert allocated["error"] == pytest.approx(allocated["estimated"] / 2**30 - 1, abs=1e-6)
    (peak,) = load_calibration(ledger).peaks
    assert (peak.family, peak.precision, peak.outgrew) == ("bart", "fp32", not fits)
    assert peak.measured_device_bytes == 3 * 2**29
    assert peak.predicted_device_bytes == answer["memory"]["device_bytes"]["estimated"]
    if not fits:
        assert "has not enough memory" in captured.err


@pytest.mark.usefixtures("on_cpu")
def test_where_the_driver_is_silent_nothing_is_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = tmp_path / "calibration.jsonl"
    monkeypatch.setattr("tune_jobs.placing.profile_run.measure_run", lambda config, request, show: SEEN)
    monkeypatch.setattr("cluster.machines.nvml.process_bytes", lambda pid: None)
    assert cli.run(main, [*TINY, "--calibration", str(ledger)]) == 0
    assert "the driver does not report" in capsys.readouterr().out
    assert not ledger.exists()


def test_a_wrong_run_is_refused_before_torch_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(main, ["profile", "--model", "kobart", "--batch-size", "0"]) == 2
    assert "batch_size must be at least 1, but is 0" in capsys.readouterr().err


@pytest.mark.gpu
def test_on_a_gpu_the_estimate_is_near(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    ledger = tmp_path / "calibration.jsonl"
    run = ["profile", "--model", "kobart", "--batch-size", "8", "--precision", "fp32", "--format", "json"]
    assert cli.run(main, [*run, "--calibration", str(ledger)]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert abs(answer["memory"]["train_allocated_bytes"]["error"]) < 0.01


def test_the_table_of_cards_has_a_way_out_for_others() -> None:
    assert card_here("NVIDIA L4").name == "NVIDIA L4"
    assert card_here(None).name == "GPU with 24.0 GiB"
