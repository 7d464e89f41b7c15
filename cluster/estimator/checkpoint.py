"""Reads a checkpoint's safetensors headers: its tensors, and whether the output head is untied.

Reads a few kilobytes and no weights; must not import torch or safetensors: `estimate` works without them.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

from tuning_common.errors import RequestError

MAX_HEADER_BYTES = 100 * 2**20  # the limit of the safetensors format itself
INPUT_EMBEDDINGS = ("shared.weight", "model.shared.weight", "transformer.wte.weight", "model.embed_tokens.weight")
HEADS = ("lm_head.weight",)
_CHUNK_BYTES = 4 * 2**20


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One tensor of a checkpoint: the location of its bytes."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint's tensors by name.

    Attributes:
        folder: Its folder.
        tensors: Tensors by name; empty where the folder has no safetensors file.
    """

    folder: Path
    tensors: dict[str, Tensor]

    @property
    def parameters(self) -> int:
        """Number of elements in all tensors, including buffers."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors.values())

    def untied(self) -> bool | None:
        """Returns whether the output head has its own weights, by transformers' rule.

        transformers 5 ties the head to the input embeddings unless the checkpoint holds both and they differ
        (`PreTrainedModel.tie_weights`), regardless of the configuration. Compares the values up to the first
        difference, because files converted from torch's format hold tied weights twice.

        Returns:
            True, False, or None where the checkpoint has no such weights.
        """
        embedding = next((self.tensors[name] for name in INPUT_EMBEDDINGS if name in self.tensors), None)
        head = next((self.tensors[name] for name in HEADS if name in self.tensors), None)
        if embedding is None and head is None:
            return None
        if embedding is None or head is None:
            return False
        return not _equal(embedding, head)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Reads the headers of a local checkpoint, whole or in shards.

    Args:
        folder: Folder of `*.safetensors`; without any, the checkpoint has no tensors.

    Raises:
        RequestError: When a file is truncated or not in safetensors format.
    """
    tensors: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= _read_header(file)
    return Checkpoint(folder=folder, tensors=tensors)


def find_in_hub_cache(hub_id: str, cache: Path, revision: str | None = None) -> Path | None:
    """Finds a downloaded checkpoint in the hub's cache folder.

    Args:
        hub_id: `owner/model`.
        cache: The cache's root, `~/.cache/huggingface/hub` unless HF_HUB_CACHE or HF_HOME is set.
        revision: A commit; None: what `main` points to (or the only snapshot).

    Returns:
        The snapshot, or None.
    """
    repository = cache / ("models--" + hub_id.replace("/", "--"))
    if revision is not None and (repository / "snapshots" / revision).is_dir():
        return repository / "snapshots" / revision
    reference = repository / "refs" / (revision or "main")
    if reference.is_file():
        snapshot = repository / "snapshots" / reference.read_text(encoding="utf-8").strip()
        return snapshot if snapshot.is_dir() else None
    snapshots = sorted((repository / "snapshots").glob("*")) if revision is None else []
    return snapshots[0] if len(snapshots) == 1 else None


def _read_header(file: Path) -> dict[str, Tensor]:
    # The format: 8 bytes little-endian length, a JSON header of that length, then the tensors' bytes.
    problem = "no safetensors file, or a torn one: download it again"
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= MAX_HEADER_BYTES:
                raise RequestError(f"{file}: {problem} (header of {length} bytes)")
            header = json.loads(stream.read(length))
        total_bytes = file.stat().st_size
        tensors = {
            str(name): _tensor(file, entry, 8 + length) for name, entry in header.items() if name != "__metadata__"
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RequestError(f"{file}: {problem} ({error})") from None
    if any(tensor.start + tensor.size_bytes > total_bytes for tensor in tensors.values()):
        raise RequestError(f"{file}: {problem} (it ends before its tensors do)")
    return tensors


def _tensor(file: Path, entry: dict[str, list[int]], data_start: int) -> Tensor:
    begin, end = entry["data_offsets"]
    return Tensor(
        file=file,
        dtype=str(entry["dtype"]),
        shape=tuple(int(size) for size in entry["shape"]),
        start=data_start + int(begin),
        size_bytes=int(end) - int(begin),
    )


def _equal(one: Tensor, other: Tensor) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    with one.file.open("rb") as left, other.file.open("rb") as right:
        left.seek(one.start)
        right.seek(other.start)
        remaining = one.size_bytes
        while remaining > 0:
            size = min(remaining, _CHUNK_BYTES)
            if left.read(size) != right.read(size):
                return False
            remaining -= size
    return True
