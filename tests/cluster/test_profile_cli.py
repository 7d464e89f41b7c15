"""The profile command keeps what was measured, and without a GPU says why it measures nothing."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.__main__ import main
from cluster.estimator.gpu_profile import GpuProfile, find_gpu, with_measured
from tests.cluster.conftest import Install
from tests.cluster.fake_nvml import FakeCard
from tuning_common import cli

MIB = 2**20


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A measurement that looks at the card twice and finds 333 MiB and 17 MiB."""
    seen: list[int] = []

    def measure(shipped: GpuProfile, used_bytes: Callable[[], int], *, where: str) -> GpuProfile:
        seen.extend([used_bytes(), used_bytes()])
        source = f"measured {where}"
        return dataclasses.replace(
            shipped, context_bytes=333 * MIB, workspace_bytes=17 * MIB, context_source=source, workspace_source=source
        )

    monkeypatch.setattr("cluster.commands.profile_cli.measure", measure)
    return seen


def test_what_was_measured_is_kept_and_taken(
    fake_nvml: Install, measured: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_nvml([FakeCard(used=5 * MIB)])
    ledger = tmp_path / "profiles.jsonl"
    assert cli.run(main, ["profile", "--profiles", str(ledger), "--format", "json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["gpu"], answer["context_bytes"]) == ("NVIDIA GeForce RTX 3090", 333 * MIB)
    assert answer["assumed_context_bytes"] == 450 * MIB
    assert measured == [5 * MIB, 5 * MIB]
    kept = with_measured(find_gpu("3090"), ledger, torch_version=answer["torch"])
    assert (kept.context_bytes, kept.workspace_bytes, kept.measured) == (333 * MIB, 17 * MIB, True)


@pytest.mark.usefixtures("measured")
def test_the_visible_card_is_measured(
    fake_nvml: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_nvml([FakeCard(), FakeCard(name="NVIDIA L4", uuid="GPU-second")])
    for visible in ("1", "GPU-second", "1,0"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert cli.run(main, ["profile", "--profiles", str(tmp_path / "p.jsonl")]) == 0
        text = capsys.readouterr().out
        assert text.startswith("NVIDIA L4, torch ")
        assert "333 MiB" in text
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert cli.run(main, ["profile", "--profiles", str(tmp_path / "p.jsonl")]) == 2
    assert "CUDA_VISIBLE_DEVICES=7: no such card; there are 2" in capsys.readouterr().err


def test_without_a_gpu_it_says_why(fake_nvml: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake_nvml([])
    assert cli.run(main, ["profile", "--profiles", str(tmp_path / "p.jsonl")]) == 2
    assert "no GPU here, so nothing can be measured" in capsys.readouterr().err
    assert not (tmp_path / "p.jsonl").exists()
