"""A checkpoint's header tells whether its output head has its own weights; torn files are refused."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from cluster.estimator.checkpoint import find_in_hub_cache, read_checkpoint
from tuning_common.errors import RequestError

EMBEDDING = np.arange(12, dtype=np.float32).reshape(4, 3)


def save(folder: Path, tensors: dict[str, np.ndarray], name: str = "model.safetensors") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / name)
    return folder


def test_a_head_with_other_values_is_untied(tmp_path: Path) -> None:
    folder = save(tmp_path, {"shared.weight": EMBEDDING, "lm_head.weight": EMBEDDING + 1})
    checkpoint = read_checkpoint(folder)
    assert checkpoint.untied() is True
    assert checkpoint.parameters == 24
    assert checkpoint.tensors["lm_head.weight"].shape == (4, 3)


def test_a_head_with_the_same_values_is_tied(tmp_path: Path) -> None:
    folder = save(tmp_path, {"shared.weight": EMBEDDING, "lm_head.weight": EMBEDDING.copy()})
    assert read_checkpoint(folder).untied() is False


@pytest.mark.parametrize("name", ["shared.weight", "lm_head.weight", "transformer.wte.weight"])
def test_one_of_the_two_alone_is_tied(tmp_path: Path, name: str) -> None:
    assert read_checkpoint(save(tmp_path, {name: EMBEDDING})).untied() is False


def test_shards_are_read_together(tmp_path: Path) -> None:
    save(tmp_path, {"shared.weight": EMBEDDING}, "model-00001-of-00002.safetensors")
    save(tmp_path, {"lm_head.weight": -EMBEDDING - 1}, "model-00002-of-00002.safetensors")
    checkpoint = read_checkpoint(tmp_path)
    assert checkpoint.untied() is True
    assert set(checkpoint.tensors) == {"shared.weight", "lm_head.weight"}


def test_a_folder_without_weights_decides_nothing(tmp_path: Path) -> None:
    assert read_checkpoint(tmp_path).untied() is None
    assert read_checkpoint(save(tmp_path, {"classifier.weight": EMBEDDING})).untied() is None


@pytest.mark.parametrize("content", [b"", b"\x10", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0{]", b"\x02\0\0\0\0\0\0\0[]"])
def test_a_file_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(RequestError, match="no safetensors file, or a torn one: download it again"):
        read_checkpoint(tmp_path)


def test_a_file_that_ends_early_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path, {"shared.weight": EMBEDDING})
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(RequestError, match="ends before its tensors do"):
        read_checkpoint(folder)


def test_a_download_is_found_in_the_hub_cache(tmp_path: Path) -> None:
    repository = tmp_path / "models--google--mt5-small"
    assert find_in_hub_cache("google/mt5-small", tmp_path) is None
    for revision in ("abc", "def"):
        save(repository / "snapshots" / revision, {"shared.weight": EMBEDDING})
    assert find_in_hub_cache("google/mt5-small", tmp_path) is None  # two, and nothing says which
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("def\n")
    assert find_in_hub_cache("google/mt5-small", tmp_path) == repository / "snapshots" / "def"
