"""GPU models are found by the words people use, and every number says where it is from."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.estimator import gpu_profile
from cluster.estimator.gpu_profile import MIB, find_gpu, gpu_of_size, known_gpus
from tuning_common.errors import RequestError


@pytest.mark.parametrize(
    ("asked", "name", "total_mib", "sm"),
    [
        ("NVIDIA H100 80GB HBM3", "NVIDIA H100 80GB HBM3", 81559, (9, 0)),
        ("nvidia a100-sxm4-40gb", "NVIDIA A100-SXM4-40GB", 40960, (8, 0)),
        ("rtx 3090", "NVIDIA GeForce RTX 3090", 24576, (8, 6)),
        ("RTX 3090 Ti", "NVIDIA GeForce RTX 3090 Ti", 24564, (8, 6)),
        ("4090", "NVIDIA GeForce RTX 4090", 24564, (8, 9)),
        ("T4", "Tesla T4", 15360, (7, 5)),
        ("h200", "NVIDIA H200", 143771, (9, 0)),
    ],
)
def test_a_card_is_found_by_the_words_people_use(asked: str, name: str, total_mib: int, sm: tuple[int, int]) -> None:
    found = find_gpu(asked)
    assert (found.name, found.total_bytes, found.sm) == (name, total_mib * MIB, sm)


def test_a_misspelled_card_gets_a_suggestion_and_the_way_out() -> None:
    with pytest.raises(RequestError, match="'RTX 3091' is unknown; did you mean 'NVIDIA GeForce RTX 3090") as caught:
        find_gpu("RTX 3091")
    assert "--gpu-memory 24GiB" in caught.value.problems[0]


def test_an_ambiguous_name_lists_its_candidates() -> None:
    with pytest.raises(RequestError, match="'A100' could be any of 4 models") as caught:
        find_gpu("A100")
    assert "NVIDIA A100-SXM4-40GB" in caught.value.problems[0]


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(RequestError, match="empty"):
        find_gpu("  ")


def test_a_card_known_by_size_takes_the_largest_context_and_workspace() -> None:
    card = gpu_of_size("24GiB")
    assert card.total_bytes == 24 * 2**30
    assert card.context_bytes == max(gpu.context_bytes for gpu in known_gpus())
    assert card.workspace_bytes == max(gpu.workspace_bytes for gpu in known_gpus())
    assert gpu_of_size(24 * 2**30) == card


@pytest.mark.parametrize(("size", "text"), [("24", "is no size"), ("100MiB", "must be more than 906 MiB")])
def test_a_size_that_is_none_or_too_small_is_refused(size: str, text: str) -> None:
    with pytest.raises(RequestError, match=text):
        gpu_of_size(size)


def test_every_shipped_number_names_its_source_and_assumptions_say_so() -> None:
    names = [gpu.name for gpu in known_gpus()]
    assert len(names) == len(set(names)) >= 30
    for gpu in known_gpus():
        assert gpu.total_source in ("nvidia-smi", "datasheet")
        assert gpu.context_source.startswith("not measured")
        assert gpu.workspace_source.startswith("not measured")
        assert not gpu.measured
        assert 0 < gpu.usable_bytes < gpu.total_bytes


@given(st.sampled_from([gpu.name for gpu in known_gpus()]))
def test_every_shipped_card_is_found_by_its_own_name(name: str) -> None:
    assert find_gpu(name).name == name
    assert find_gpu(name.lower().replace("-", " ")).name == name


def test_a_measured_profile_wins_for_its_own_torch_build_only(tmp_path: Path) -> None:
    ledger = tmp_path / "profiles.jsonl"
    shipped = find_gpu("NVIDIA L4")
    seen = dataclasses.replace(
        shipped, context_bytes=311 * MIB, workspace_bytes=17 * MIB, context_source="measured on node-a"
    )
    gpu_profile.record_measured(ledger, seen, torch_version="2.13.0+cu130")
    with ledger.open("a") as stream:
        stream.write('{"name": "NVIDIA L4", "torch": "2.13.0+cu130", "context_bytes": null}\n{"name": "NVID')
    found = gpu_profile.with_measured(shipped, ledger, torch_version="2.13.0+cu130")
    assert (found.context_bytes, found.workspace_bytes, found.measured) == (311 * MIB, 17 * MIB, True)
    assert gpu_profile.with_measured(shipped, ledger, torch_version="2.12.0+cu130") == shipped
    assert gpu_profile.with_measured(find_gpu("T4"), ledger, torch_version="2.13.0+cu130") == find_gpu("T4")
    assert gpu_profile.with_measured(shipped, tmp_path / "none", torch_version="2.13.0+cu130") == shipped


@pytest.mark.skipif("not __import__('torch').cuda.is_available()", reason="needs an NVIDIA GPU")
@pytest.mark.gpu
def test_measuring_on_a_gpu_gives_plausible_bytes() -> None:
    import torch

    def used_bytes() -> int:
        free, total = torch.cuda.mem_get_info()
        return total - free

    found = gpu_profile.measure(gpu_of_size("24GiB"), used_bytes, where="here")
    assert 0 < found.workspace_bytes < 256 * MIB


def test_measuring_without_a_gpu_says_so() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("a CUDA device is here")
    with pytest.raises(RequestError, match="no CUDA device"):
        gpu_profile.measure(gpu_of_size("24GiB"), lambda: 0, where="here")
