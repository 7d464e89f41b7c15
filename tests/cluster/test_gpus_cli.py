"""python -m cluster gpus: cards, what others hold, slices, why there are none."""

import json

import pytest

from cluster.__main__ import main
from tests.cluster.conftest import Install
from tests.cluster.fake_nvml import FakeCard
from tuning_common.errors import RequestError

GIB = 2**30


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["gpus", *arguments]) == 0
    return capsys.readouterr().out


def test_a_mixed_box_lists_cards_by_model_and_the_one_that_is_lost(
    fake_nvml: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    cards = [FakeCard(name="NVIDIA A40", total=48 * GIB, uuid="GPU-a"), FakeCard(name="NVIDIA L4", uuid="GPU-l")]
    fake_nvml([*cards, FakeCard(lost=True)])
    lines = told(capsys).splitlines()
    assert lines[0] == "1 x NVIDIA-A40, 1 x NVIDIA-L4"
    assert [line.split()[1:3] for line in lines[3:5]] == [["0", "NVIDIA-A40"], ["1", "NVIDIA-L4"]]
    assert lines[3].endswith("570.86.15")
    assert lines[-1] == "problem: card 2: GPU is lost"


def test_json_has_bytes_labels_and_uuids(fake_nvml: Install, capsys: pytest.CaptureFixture[str]) -> None:
    fake_nvml([FakeCard(uuid="GPU-7", used=5 * GIB)])
    found = json.loads(told(capsys, "--format", "json"))
    (node,) = found["nodes"]
    (card,) = node["cards"]
    assert node["labels"] == {"gpu-model": "NVIDIA-GeForce-RTX-3090", "gpu-memory-mib": "24576"}
    assert (card["uuid"], card["total_bytes"], card["used_by_others_bytes"]) == ("GPU-7", 24 * GIB, 5 * GIB)
    assert card["usable_bytes"] < 19 * GIB
    assert found["simulated"] is False


def test_a_machine_without_nvml_says_why_and_what_trials_are_placed_by(
    fake_nvml: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_nvml([], init_code=12)
    out = told(capsys)
    assert out.startswith("no GPU\n\nthis-machine: no NVIDIA driver on this machine (libnvidia-ml.so.1 is absent)")
    assert "CPUs and" in out
    assert "--cpu-only" in out


def test_described_cards_are_called_simulated_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    out = told(capsys, "--simulate", "2x24GiB,1x80GiB")
    assert out.count("simulated") >= 7
    assert json.loads(told(capsys, "--simulate", "1x24GiB", "--format", "json"))["simulated"] is True
    with pytest.raises(RequestError, match="cluster 'x'"):
        main(["gpus", "--simulate", "x"])
