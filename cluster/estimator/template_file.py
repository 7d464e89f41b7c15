"""Parts of templates as files: tapes packed into a few arrays, checked by a hash of their content when read."""

import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cluster.estimator.operations import Ints, Operations
from cluster.estimator.template_keys import PartKey
from cluster.estimator.template_tape import Tape
from tuning_common.files import write_bytes

Array = npt.NDArray[np.generic]
OPERATION_FIELDS = tuple(field.name for field in dataclasses.fields(Operations))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a template.

    Attributes:
        key: The jobs for which it is valid.
        tapes: Tapes by name.
        model_parameters: Elements of all parameters.
        operations: Tensor operations of one forward and backward pass; 0 in parts that have none.
        weight_bytes: Sizes of parameters and buffers.
    """

    key: PartKey
    tapes: Mapping[str, Tape]
    model_parameters: int
    operations: int
    weight_bytes: Ints


def write_part(folder: Path, part: Part) -> Path:
    """Writes a part atomically.

    Args:
        folder: Target folder; the key gives the file name.
        part: The part.

    Returns:
        The file.
    """
    path = folder / part.key.file_name
    write_bytes(path, part_bytes(part))
    return path


def read_part(folder: Path, key: PartKey) -> Part | None:
    """Reads a part.

    Args:
        folder: Folder of parts.
        key: The expected key.

    Returns:
        The part, or None where it is missing or invalid: torn, changed or made for another key.
    """
    try:
        content = (folder / key.file_name).read_bytes()
    except OSError:
        return None
    return part_from(content, key)


def part_bytes(part: Part, *, compressed: bool = True) -> bytes:
    """Packs a part; the same part gives the same bytes.

    Args:
        part: The part.
        compressed: False where many are packed and compressed together.
    """
    arrays: dict[str, Array] = {"weight_bytes": part.weight_bytes}
    for name, tape in part.tapes.items():
        arrays |= {f"{name}.{field}": array for field, array in _packed(tape).items()}
        for phase, operations in enumerate(tape.operations):
            arrays |= {f"{name}.{phase}.{field}": getattr(operations, field) for field in OPERATION_FIELDS}
    facts = {
        "key": part.key.to_dict(),
        "model_parameters": part.model_parameters,
        "operations": part.operations,
        "phases": {name: tape.phases for name, tape in part.tapes.items()},
    }
    arrays["facts"] = np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8)
    arrays["sha256"] = np.frombuffer(_digest(arrays), dtype=np.uint8)
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def part_from(content: bytes, key: PartKey | None = None) -> Part | None:
    """Unpacks a part.

    Args:
        content: Content of a file.
        key: The expected key; None accepts any.

    Returns:
        The part, or None where it is invalid: torn, changed or made for another key.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        if arrays.pop("sha256").tobytes() != _digest(arrays):
            return None
        facts = json.loads(arrays.pop("facts").tobytes())
        found = PartKey.from_dict(facts["key"])
        if key is not None and found != key:
            return None
        return Part(
            key=found,
            tapes={name: _unpacked(arrays, name, tuple(phases)) for name, phases in facts["phases"].items()},
            model_parameters=facts["model_parameters"],
            operations=facts["operations"],
            weight_bytes=arrays["weight_bytes"],
        )
    except Exception:  # a damaged archive raises almost anything
        return None


def _digest(arrays: Mapping[str, Array]) -> bytes:
    total = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        total.update(f"{name} {array.dtype.str} {array.shape};".encode())
        total.update(array.tobytes())
    return total.digest()


def _packed(tape: Tape) -> dict[str, Array]:
    """Packs a tape for compression: repeated layers become repeated bytes.

    A block is an index into the table of kinds (product, coefficient, term); a release is the block's age in
    allocations, and an allocation is age 0.
    """
    kinds, block_kind = np.unique(
        np.column_stack([tape.block_product, tape.block_coefficient, tape.block_term]), axis=0, return_inverse=True
    )
    allocated = np.cumsum(tape.events > 0)
    ages = np.where(tape.events > 0, 0, allocated + tape.events + 1)
    return {
        "products": tape.products,
        "kinds": kinds,
        "block_kind": _small(block_kind.reshape(-1)),
        "ages": _small(ages),
        "phase_starts": tape.phase_starts,
    }


def _unpacked(arrays: Mapping[str, Array], name: str, phases: tuple[str, ...]) -> Tape:
    kinds = arrays[f"{name}.kinds"].astype(np.float64)
    block_kind = arrays[f"{name}.block_kind"].astype(np.int64)
    ages = arrays[f"{name}.ages"].astype(np.int64)
    allocated = np.cumsum(ages == 0)
    events = np.where(ages == 0, allocated, ages - allocated - 1)
    return Tape(
        products=arrays[f"{name}.products"].astype(np.int8),
        block_product=kinds[block_kind, 0].astype(np.int16),
        block_coefficient=kinds[block_kind, 1],
        block_term=kinds[block_kind, 2].astype(np.int8),
        events=events.astype(np.int32),
        phase_starts=arrays[f"{name}.phase_starts"].astype(np.int32),
        phases=phases,
        operations=tuple(_operations(arrays, f"{name}.{phase}") for phase in range(len(phases))),
    )


def _operations(arrays: Mapping[str, Array], prefix: str) -> Operations:
    stored = {field: arrays[f"{prefix}.{field}"] for field in OPERATION_FIELDS}
    return Operations(
        products=stored["products"].astype(np.int8),
        count=stored["count"].astype(np.int32),
        half=stored["half"].astype(np.bool_),
        flops_product=stored["flops_product"].astype(np.int16),
        flops_coefficient=stored["flops_coefficient"].astype(np.float64),
        moved_kind=stored["moved_kind"].astype(np.int16),
        moved_product=stored["moved_product"].astype(np.int16),
        moved_coefficient=stored["moved_coefficient"].astype(np.float64),
    )


def _small(numbers: Ints) -> Array:
    """Returns whole numbers from 0 in the smallest type that holds them."""
    small: Array = numbers.astype(np.min_scalar_type(int(numbers.max(initial=0))))
    return small
