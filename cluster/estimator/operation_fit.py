"""Fits the operations of traces at two shapes: what each computes and moves becomes a product of sizes. Pure."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from cluster.estimator.operations import Floats, Ints, Operations, RawOperations
from cluster.estimator.template_tape import ATOMS, MAX_FACTORS


def by_phase(raw: RawOperations) -> Iterator[RawOperations]:
    """Returns the operations of each phase."""
    bounds = [*raw.phase_starts.tolist(), len(raw.flops)]
    for begin, end in pairwise(bounds):
        yield raw.between(begin, end)


def joined(phases: Sequence[RawOperations]) -> RawOperations:
    """Returns the operations of several phases as one section; the reverse of by_phase."""
    starts = np.cumsum([0, *(len(phase.flops) for phase in phases)])
    return RawOperations(
        flops=np.concatenate([phase.flops for phase in phases]),
        half=np.concatenate([phase.half for phase in phases]),
        moved_bytes=np.concatenate([phase.moved_bytes for phase in phases]),
        moved_by=np.concatenate(
            [phase.moved_by + start for phase, start in zip(phases, starts[:-1], strict=True)]
        ).astype(np.int32),
        phase_starts=starts[:-1].astype(np.int32),
    )


def are_alike(raws: Sequence[RawOperations]) -> bool:
    """Returns whether the same operations were traced at every shape, with other sizes."""
    first = raws[0]
    return all(
        np.array_equal(first.moved_by, other.moved_by)
        and np.array_equal(first.half, other.half)
        and np.array_equal(first.phase_starts, other.phase_starts)
        for other in raws[1:]
    )


def fit_operations(raws: Sequence[RawOperations], products: npt.NDArray[np.int8], values: Floats) -> Operations:
    """Finds the product of what each operation computes and moves; equal operations are counted together.

    Args:
        raws: One phase at each shape, alike (see are_alike).
        products: (c, MAX_FACTORS) the products that a size may be, see template_fit.candidates.
        values: (shapes, c) their values at the shapes.
    """
    flops_product, flops_coefficient = _nearest(np.array([raw.flops for raw in raws]), values)
    moved = np.array([raw.moved_bytes for raw in raws], dtype=np.float64)
    moved_product, moved_coefficient = _nearest(moved, values)
    first = raws[0]
    kinds: dict[tuple[object, ...], int] = {}
    members: list[list[int]] = []
    pieces: dict[int, list[tuple[int, float]]] = {number: [] for number in range(len(first.flops))}
    for owner, product, coefficient in zip(
        first.moved_by.tolist(), moved_product.tolist(), moved_coefficient.tolist(), strict=True
    ):
        pieces[owner].append((product, coefficient))
    for number, moves in pieces.items():
        key = (bool(first.half[number]), int(flops_product[number]), float(flops_coefficient[number]), tuple(moves))
        if key not in kinds:
            kinds[key] = len(members)
            members.append([])
        members[kinds[key]].append(number)
    heads = [numbers[0] for numbers in members]
    entries = [(kind, *piece) for kind, head in enumerate(heads) for piece in pieces[head]]
    used = sorted({int(flops_product[head]) for head in heads} | {entry[1] for entry in entries} or {0})
    place = {product: index for index, product in enumerate(used)}
    return Operations(
        products=products[used],
        count=np.array([len(numbers) for numbers in members], dtype=np.int32),
        half=first.half[heads].astype(np.bool_),
        flops_product=np.array([place[int(flops_product[head])] for head in heads], dtype=np.int16),
        flops_coefficient=flops_coefficient[heads],
        moved_kind=np.array([entry[0] for entry in entries], dtype=np.int16),
        moved_product=np.array([place[entry[1]] for entry in entries], dtype=np.int16),
        moved_coefficient=np.array([entry[2] for entry in entries], dtype=np.float64),
    )


def constant_operations(raw: RawOperations) -> Operations:
    """Returns the operations of a phase whose sizes depend only on the model."""
    products = np.full((1, MAX_FACTORS), len(ATOMS), dtype=np.int8)
    return fit_operations([raw], products, np.ones((1, 1)))


def _nearest(columns: Floats, values: Floats) -> tuple[Ints, Floats]:
    """Finds for each column of numbers the product whose growth comes nearest, and its coefficient.

    Seconds need no exact product: what memory traffic fits none is a small part, and nearest is near enough.
    """
    if not columns.shape[1]:
        return np.zeros(0, dtype=np.int64), np.zeros(0)
    distinct, inverse = np.unique(columns, axis=1, return_inverse=True)
    safe = np.maximum(distinct, 1e-300)
    growth = np.log(values[1:] / values[0])  # (shapes - 1, candidates)
    wanted = np.log(safe[1:] / safe[0])
    distance = np.abs(growth[:, None, :] - wanted[:, :, None]).sum(axis=0)  # (columns, candidates)
    chosen = distance.argmin(axis=1)
    coefficient = np.exp(np.log(safe / values[:, chosen]).mean(axis=0))
    coefficient = np.where(distinct[0] > 0, coefficient, 0.0)
    exact = distinct[-1] / values[-1, chosen]
    coefficient = np.where(np.isclose(coefficient, exact, rtol=1e-9), exact, coefficient)  # without a rounding error
    return chosen[inverse.reshape(-1)].astype(np.int64), coefficient[inverse.reshape(-1)]
