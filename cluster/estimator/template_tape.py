"""A tape: the allocations and releases of one routine, each size an exact product of batch, beams and lengths.

A tape gives the peak bytes, their terms and the requests to an allocator. Imports numpy only.
"""

import dataclasses
from functools import cached_property
from typing import overload

import numpy as np
import numpy.typing as npt

from cluster.estimator.operations import Floats, Ints, Operations

BLOCK_BYTES = 512  # torch rounds every request up to this (c10/cuda/CUDACachingAllocator.h, kMinBlockSize)
TERMS = ("weights", "gradients", "optimizer", "activations", "logits", "workspace")
LENGTHS = ("encoder", "decoder", "both")
LENGTH_FORMS = ("", "-1", "-2", "+1", "^8", "^16", "^32", "^128")
ATOMS = ("batch", "beams", *(length + form for length in LENGTHS for form in LENGTH_FORMS))
"""The factors of sizes. both is encoder + decoder length; ^8 is rounded up to a multiple of 8, and so on."""
MAX_FACTORS = 5
ONE = len(ATOMS)  # index after the last atom: the factor 1
_CHUNK = 2048  # queries evaluated together: rows x queries must stay small


Sizes = int | Ints  # a number, or one per query


@overload
def round_up(size: int, multiple: int) -> int: ...
@overload
def round_up(size: Ints, multiple: int) -> Ints: ...
def round_up(size: Sizes, multiple: int) -> Sizes:
    """Rounds a number, or every number of an array, up to a multiple.

    >>> round_up(17, 16), round_up(np.array([0, 1, 16, 17]), 16).tolist()
    (32, [0, 16, 16, 32])
    """
    return -(-size // multiple) * multiple


def atom_values(batch: Sizes, beams: int, encoder_len: Sizes, decoder_len: Sizes) -> Floats:
    """Returns the value of every atom, and of the factor 1 behind them.

    Args:
        batch: A number, or one per query.
        beams: The same for all queries.
        encoder_len: Like batch.
        decoder_len: Like batch.

    Returns:
        (atoms + 1), or (atoms + 1, queries).

    >>> atom_values(8, 4, 100, 10)[2:9].astype(int).tolist()
    [100, 99, 98, 101, 104, 112, 128]
    """
    one = batch * 0 + 1
    forms = (*_forms(encoder_len), *_forms(decoder_len), *_forms(encoder_len + decoder_len))
    return np.maximum(np.array([batch, one * beams, *forms, one], dtype=np.float64), 0.0)


def _forms(length: Sizes) -> list[Sizes]:
    """Returns a length in each of LENGTH_FORMS."""
    whole_steps = [round_up(length, multiple) for multiple in (8, 16, 32, 128)]
    return [length, length - 1, length - 2, length + 1, *whole_steps]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
    """The possible peaks of a tape: held bytes as a linear function of the products.

    Attributes:
        coefficients: (r, p); never negative.
        slack_bytes: (r) upper bound of the rounding of every block to 512 bytes.
        event: (r) the event before each row's moment.
    """

    coefficients: Floats
    slack_bytes: Floats
    event: npt.NDArray[np.int32]

    def fullest(self, values: Floats) -> tuple[int, int]:
        """Returns the peak bytes, never below the exact count, and the event before the peak.

        Args:
            values: (p) of Tape.values.
        """
        held = self.coefficients @ values + self.slack_bytes
        best = int(held.argmax())
        return int(held[best]), int(self.event[best])

    def peak_bytes(self, values: Floats) -> Ints:
        """Returns the peak bytes of many queries at once.

        Args:
            values: (p, q).

        Returns:
            (q).
        """
        parts = [
            (self.coefficients @ values[:, start : start + _CHUNK] + self.slack_bytes[:, None]).max(axis=0)
            for start in range(0, values.shape[1], _CHUNK)
        ]
        return np.concatenate(parts).astype(np.int64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tape:
    """Events of one routine.

    Attributes:
        products: (p, MAX_FACTORS) indices of atoms whose product is one basis function.
        block_product: (n) which product a block's size is a multiple of.
        block_coefficient: (n) bytes = coefficient · product.
        block_term: (n) index into TERMS.
        events: (m) block + 1 where it is allocated, -(block + 1) where it is released.
        phase_starts: (k) index of the first event of each phase, ascending, the first 0.
        phases: k names.
        operations: What each phase computes and moves, see operations; of a generation, those of its first and of its
            last pass. Empty where that was not traced.
    """

    products: npt.NDArray[np.int8]
    block_product: npt.NDArray[np.int16]
    block_coefficient: Floats
    block_term: npt.NDArray[np.int8]
    events: npt.NDArray[np.int32]
    phase_starts: npt.NDArray[np.int32]
    phases: tuple[str, ...]
    operations: tuple[Operations, ...] = ()

    def values(self, atoms: Floats) -> Floats:
        """Returns each product's value: (p, *shape) for atoms (atoms + 1, *shape)."""
        gathered = atoms[self.products]
        result: Floats = gathered.prod(axis=1)
        return result

    @cached_property
    def rows(self) -> Rows:
        """The possible peaks, see Rows."""
        return peak_rows(self)

    def block_bytes(self, atoms: Floats) -> Ints:
        """Returns every block's size, rounded as torch rounds it."""
        exact = self.block_coefficient * self.values(atoms)[self.block_product]
        return round_up(np.rint(exact).astype(np.int64), BLOCK_BYTES)

    def live_at(self, event: int) -> npt.NDArray[np.bool_]:
        """Returns which blocks are held right after an event."""
        past = self.events[: event + 1]
        live = np.zeros(len(self.block_product), dtype=np.bool_)
        live[past[past > 0] - 1] = True
        live[-past[past < 0] - 1] = False
        return live

    def terms_at(self, event: int, atoms: Floats) -> dict[str, int]:
        """Returns the bytes that are held right after an event, by term; every term is there."""
        live = self.live_at(event)
        sums = np.bincount(self.block_term[live], self.block_bytes(atoms)[live], minlength=len(TERMS))
        return {name: int(total) for name, total in zip(TERMS, sums, strict=True)}

    def phase_at(self, event: int) -> str:
        """Returns the name of an event's phase."""
        return self.phases[int(np.searchsorted(self.phase_starts, event, side="right")) - 1]

    @property
    def kept(self) -> npt.NDArray[np.bool_]:
        """Which blocks are still held at the end."""
        return self.live_at(len(self.events) - 1)


def peak_rows(tape: Tape) -> Rows:
    """Returns the moments that can be the peak at some batch and lengths.

    Between two releases the last moment is the largest. As every product is at least 0, a moment with at most as much
    of every product as another one can be dropped: the Pareto front remains.
    """
    moments = _candidate_moments(tape.events)
    coefficients, slack = _held(tape, moments)
    order = np.lexsort((slack, coefficients.sum(axis=1)))[::-1]
    both = np.column_stack([coefficients, slack])[order]
    chosen: list[int] = []
    front = np.empty_like(both)
    for index, row in enumerate(both):
        if not (front[: len(chosen)] >= row).all(axis=1).any():
            front[len(chosen)] = row
            chosen.append(index)
    kept = front[: len(chosen)]
    return Rows(
        coefficients=np.ascontiguousarray(kept[:, :-1]),
        slack_bytes=np.ascontiguousarray(kept[:, -1]),
        event=moments[order][chosen].astype(np.int32),
    )


def _candidate_moments(events: npt.NDArray[np.int32]) -> Ints:
    grows = events > 0
    last = grows & np.append(~grows[1:], True)
    return np.flatnonzero(last).astype(np.int64)


def _held(tape: Tape, moments: Ints) -> tuple[Floats, Floats]:
    """Returns the held bytes at given moments, by product; blocks of constant size are rounded exactly."""
    constant = (tape.products[tape.block_product] == ONE).all(axis=1)
    rounded = np.where(constant, round_up(np.rint(tape.block_coefficient).astype(np.int64), BLOCK_BYTES), 0)
    coefficient = np.where(constant, rounded, tape.block_coefficient)
    slack = np.where(constant, 0, rounding_slack(tape.block_coefficient))
    block = np.abs(tape.events) - 1
    sign = np.sign(tape.events).astype(np.float64)
    steps = np.zeros((len(tape.events), len(tape.products) + 1))
    steps[np.arange(len(block)), tape.block_product[block]] = sign * coefficient[block]
    steps[:, -1] = sign * slack[block]
    held = np.cumsum(steps, axis=0)[moments]
    # Coefficients are whole numbers of bytes or simple fractions; what a cancelled sum leaves behind is not a byte.
    held[np.abs(held) < 1e-6] = 0.0
    return held[:, :-1], held[:, -1]


def rounding_slack(coefficient: Floats) -> Floats:
    """Returns the most that rounding `coefficient · whole number` up to 512 bytes can add.

    >>> rounding_slack(np.array([1024.0, 8.0, 2.5])).tolist()
    [0.0, 504.0, 511.0]
    """
    whole = np.rint(coefficient).astype(np.int64)
    common = np.gcd(whole, BLOCK_BYTES)
    return np.where(whole == coefficient, BLOCK_BYTES - common, BLOCK_BYTES - 1).astype(np.float64)
