"""Published runs from external_peaks.json, and the answers of replays, as values. Does not import torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Row:
    """The parameters of a program.

    Attributes:
        model: Values of the model's configuration, with `model_type`.
        head: Name of transformers' automatic class, for example AutoModelForCausalLM.
        dtype: Format of the weights: float32, float16 or bfloat16.
        attention: eager or sdpa.
        batch: Samples of one forward pass.
        length: Tokens of each.
        options: Other options of the program.
    """

    model: Mapping[str, object]
    head: str
    dtype: str
    attention: str
    batch: int
    length: int
    options: Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run to replay.

    Attributes:
        row: The run.
        program: A key of PROGRAMS.
        precision: Format under autocast; fp32 for none.
        sm: Compute capability of the GPU.
        blas_handles: cuBLAS workspaces inside torch's allocator.
        quantity: allocated, reserved or device.
        context_mib: MiB outside the allocator, where the device was measured.
    """

    row: Row
    program: str
    precision: str
    sm: tuple[int, int]
    blas_handles: int
    quantity: str
    context_mib: int

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Run":
        """Builds a run from the JSON values of dataclasses.asdict."""
        sm = tuple(int(part) for part in stored["sm"])
        return cls(**{**stored, "row": Row(**stored["row"]), "sm": (sm[0], sm[1])})


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The result of a replay.

    Attributes:
        estimate_bytes: In the quantity that was measured; None where it could not run.
        parameters: Number of the model's parameters.
        problem: Why it could not run.
    """

    estimate_bytes: int | None
    parameters: int
    problem: str = ""

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Answer":
        """Builds an answer from the JSON values of dataclasses.asdict."""
        return cls(**stored)


@dataclass(frozen=True, kw_only=True)
class Source:
    """A published table.

    Attributes:
        name: Name of the table.
        url: Its address.
        gpu: GPU of the measurement.
        torch: Version of torch in the measurement.
        transformers: Version of transformers, as far as it is known; empty where none is used.
        note: Note for the reader.
        runs: Its rows.
        measured_bytes: One for each run.
    """

    name: str
    url: str
    gpu: str
    torch: str
    transformers: str
    note: str
    runs: tuple[Run, ...]
    measured_bytes: tuple[int, ...]


def read_sources(path: Path) -> list[Source]:
    """Reads external_peaks.json."""
    return [_source(stored) for stored in json.loads(path.read_text(encoding="utf-8"))]


def _source(stored: Mapping[str, Any]) -> Source:
    rows = [dict(zip(stored["columns"], values, strict=True)) for values in stored["rows"]]
    return Source(
        name=stored["name"],
        url=stored["url"],
        gpu=stored["gpu"],
        torch=stored["torch"],
        transformers=stored["transformers"],
        note=stored["note"],
        runs=tuple(_run(stored, row) for row in rows),
        measured_bytes=tuple(int(row["measured_bytes"]) for row in rows),
    )


def _run(stored: Mapping[str, Any], row: Mapping[str, Any]) -> Run:
    own = ("attention", "batch", "length", "measured_bytes")
    options = {**stored["options"], **{name: value for name, value in row.items() if name not in own}}
    major, minor = stored["sm"].split(".")
    return Run(
        row=Row(
            model=stored["model"],
            head=stored["head"],
            dtype=stored["dtype"],
            attention=row["attention"],
            batch=row["batch"],
            length=row["length"],
            options=options,
        ),
        program=stored["program"],
        precision=str(options.get("precision", "fp32")),
        sm=(int(major), int(minor)),
        blas_handles=stored["blas_handles"],
        quantity=stored["quantity"],
        context_mib=stored["context_mib"],
    )
