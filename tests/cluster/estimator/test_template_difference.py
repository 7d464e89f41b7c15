"""What a new version of torch or transformers would change in a trace is found and named."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from cluster.estimator.template_difference import differences
from cluster.estimator.template_file import Part
from cluster.estimator.template_keys import PartKey
from cluster.estimator.template_tape import ATOMS, MAX_FACTORS, Tape

ONE = len(ATOMS)
KEY = PartKey(part="step", model="0" * 64, options=(("precision", "fp32"),), torch="2.13.0", transformers="5.23.0")
TAPE = Tape(
    products=np.array([[0, ATOMS.index("encoder")] + [ONE] * (MAX_FACTORS - 2), [ONE] * MAX_FACTORS], dtype=np.int8),
    block_product=np.array([0, 1, 0], dtype=np.int16),
    block_coefficient=np.array([64.0, 1024.0, 4.0]),
    block_term=np.array([3, 1, 3], dtype=np.int8),
    events=np.array([1, 2, -1, 3, -3], dtype=np.int32),
    phase_starts=np.array([0, 2], dtype=np.int32),
    phases=("forward", "backward"),
)
PART = Part(key=KEY, tapes={"first": TAPE}, model_parameters=256, operations=7, weight_bytes=np.array([1024]))


def changed(**changes: object) -> Part:
    return dataclasses.replace(PART, tapes={"first": dataclasses.replace(TAPE, **changes)})  # type: ignore[arg-type]


def test_the_same_job_under_another_version_is_no_difference() -> None:
    other = dataclasses.replace(PART, key=dataclasses.replace(KEY, torch="2.14.0"))
    assert differences(PART, other) == []


Change = Callable[[], Part]


@pytest.mark.parametrize(
    ("change", "texts"),
    [
        (
            lambda: changed(block_coefficient=np.array([64.0, 1024.0, 8.0])),
            ["first: block 2: 4·batch·encoder bytes of activations before, 8·batch·encoder bytes of activations now"],
        ),
        (
            lambda: changed(block_product=np.array([0, 1, 1], dtype=np.int16)),
            ["first: block 2: 4·batch·encoder bytes of activations before, 4 bytes of activations now"],
        ),
        (
            lambda: changed(block_term=np.array([3, 2, 3], dtype=np.int8)),
            ["first: block 1: 1024 bytes of gradients before, 1024 bytes of optimizer now"],
        ),
        (
            lambda: changed(events=np.array([1, 2, 3, -1, -3], dtype=np.int32)),
            [
                "first: event 2, in backward: releases 64·batch·encoder bytes of activations before,"
                " allocates 4·batch·encoder bytes of activations now"
            ],
        ),
        (
            lambda: changed(events=np.array([1, 2, -1], dtype=np.int32)),
            ["first: 5 allocations and releases before, 3 now"],
        ),
        (lambda: changed(phase_starts=np.array([0, 3], dtype=np.int32)), ["first: its phases begin at other events"]),
        (lambda: changed(phases=("forward", "other")), ["first: phases forward, backward before, forward, other now"]),
        (lambda: dataclasses.replace(PART, model_parameters=512), ["model_parameters: 256 before, 512 now"]),
        (lambda: dataclasses.replace(PART, operations=8), ["operations: 7 before, 8 now"]),
        (
            lambda: dataclasses.replace(PART, weight_bytes=np.array([2048])),
            ["weights: 1024 bytes before, 2048 now"],
        ),
        (lambda: dataclasses.replace(PART, tapes={"later": TAPE}), ["tapes: first before, later now"]),
    ],
)
def test_every_difference_is_named_with_its_place(change: Change, texts: list[str]) -> None:
    assert differences(PART, change()) == texts
