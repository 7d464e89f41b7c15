"""Fits a tape to traces at two shapes: every block's size becomes an exact product of batch, beams and lengths. Pure.

No two products grow by the same ratio between the shapes (a test checks that), so a block's growth identifies its
product. There is no regression; blocks without a product are bounded and counted.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from cluster.estimator.operation_fit import are_alike, by_phase, constant_operations, fit_operations, joined
from cluster.estimator.operations import Floats, Ints
from cluster.estimator.template_tape import ATOMS, LENGTH_FORMS, MAX_FACTORS, Tape, atom_values
from cluster.estimator.trace_recorder import RawTape
from cluster.estimator.workload import Shape
from tuning_common.errors import WorkError

# Odd, so that masks are padded: at whole steps a little less is held, and a template must never be under. Large enough
# for the branches of long inputs, small enough to trace quickly, and prime to each other.
SHAPES = (
    Shape(batch=3, encoder_len=211, decoder_len=79, beams=4),
    Shape(batch=5, encoder_len=588, decoder_len=230, beams=7),
)
GENERATION_SHAPES = (
    Shape(batch=2, encoder_len=197, decoder_len=7, beams=3),
    Shape(batch=7, encoder_len=350, decoder_len=9, beams=5),
)
# Within a window of 512 tokens, the smallest that is in use; smaller ones are traced at the exact sizes.
SHORT_SHAPES = (
    Shape(batch=3, encoder_len=107, decoder_len=41, beams=4),
    Shape(batch=5, encoder_len=294, decoder_len=118, beams=7),
)
PASSES = (4, 6)  # of a generation that is traced at its exact batch and prompt
PAIRED_FORMS = ("", "-1", "+1", "^8", "^16")  # of lengths that are multiplied with each other: scores and masks
RELATIVE_TOLERANCE = 1e-12  # sizes are whole numbers below 2^53: equal ratios are equal to the last digits
LARGEST_INEXACT_PART = 1e-6  # of all bytes at the larger shape, that may be bounded instead of exact


@dataclass(frozen=True, kw_only=True)
class Growth:
    """The factors of sizes in a section.

    Attributes:
        alone: Atoms that are single factors.
        paired: Lengths that are multiplied with each other and with themselves, in each of PAIRED_FORMS.
        beams: Several beams are searched.
    """

    alone: tuple[str, ...]
    paired: tuple[str, ...]
    beams: bool = False


def _all_forms(*lengths: str) -> tuple[str, ...]:
    return tuple(length + form for length in lengths for form in LENGTH_FORMS)


def _of_one_query(length: str) -> tuple[str, ...]:  # ^32 and ^128 are steps of queries
    return tuple(length + form for form in ("", "-1", "-2", "+1", "^8"))


ONE_SEQUENCE = Growth(alone=(*_all_forms("both"), "decoder"), paired=("both",))
TWO_SEQUENCES = Growth(alone=_all_forms("encoder", "decoder"), paired=("encoder", "decoder"))
GENERATED_BEHIND = Growth(
    alone=(*_all_forms("encoder"), *_of_one_query("both"), *_of_one_query("decoder")), paired=("encoder",)
)
GENERATED_BESIDE = Growth(alone=(*_all_forms("encoder"), *_of_one_query("decoder")), paired=("encoder",))


class UnevenModelError(WorkError):
    """A model's sizes are not products of batch and lengths: it must be traced at the exact sizes."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A tape and its exactness.

    Attributes:
        tape: The tape.
        inexact_part: Fraction of bytes, at the larger shape, in blocks that are bounded instead of exact.
    """

    tape: Tape
    inexact_part: float


def fit(tapes: Sequence[RawTape], shapes: Sequence[Shape], growth: Growth) -> Fitted:
    """Finds the product of every block.

    Args:
        tapes: The same section at each shape.
        shapes: Shapes of the traces, the larger last.
        growth: The possible factors of sizes.

    Raises:
        UnevenModelError: When the section differs between the shapes, or too many bytes fit no product.
    """
    _check_alike(tapes)
    sizes = np.array([tape.sizes for tape in tapes], dtype=np.float64)  # (shapes, blocks)
    columns, inverse = np.unique(sizes, axis=1, return_inverse=True)
    products, values = candidates(tuple(shapes), growth)
    chosen, coefficients, exact = _match(columns, values)
    inexact_part = float((sizes[-1] * ~exact[inverse]).sum() / max(1.0, sizes[-1].sum()))
    if inexact_part > LARGEST_INEXACT_PART:
        raise UnevenModelError(
            f"{inexact_part:.2%} of what this model allocates grows neither with batch and"
            " lengths nor with their products (windows, routing, sizes that depend on values)"
        )
    used, block_product = np.unique(chosen[inverse], return_inverse=True)
    phases = zip(*(by_phase(tape.operations) for tape in tapes), strict=True)
    tape = Tape(
        products=products[used],
        block_product=block_product.astype(np.int16),
        block_coefficient=coefficients[inverse],
        block_term=tapes[0].terms,
        events=tapes[0].events,
        phase_starts=tapes[0].phase_starts,
        phases=tapes[0].phases,
        operations=tuple(fit_operations(phase, products, values) for phase in phases),
    )
    return Fitted(tape=tape, inexact_part=inexact_part)


def constant_tape(raw: RawTape) -> Tape:
    """Returns the tape of a section whose sizes depend only on the model (the optimizer)."""
    return Tape(
        products=np.full((1, MAX_FACTORS), len(ATOMS), dtype=np.int8),
        block_product=np.zeros(len(raw.sizes), dtype=np.int16),
        block_coefficient=raw.sizes.astype(np.float64),
        block_term=raw.terms,
        events=raw.events,
        phase_starts=raw.phase_starts,
        phases=raw.phases,
        operations=tuple(constant_operations(phase) for phase in by_phase(raw.operations)),
    )


def condense(raw: RawTape) -> RawTape:
    """Reduces a generation to its first and last pass.

    Memory never shrinks from pass to pass, so the first (the prompt) and the last pass decide. Between them come the
    net changes of the other passes: their releases of blocks of the first pass, then their remaining allocations. So
    tapes of generations of different lengths have the same events, and their sizes are comparable.

    Args:
        raw: Phases start, pass 0, pass 1, ..., end.
    """
    starts = dict(zip(raw.phases, raw.phase_starts.tolist(), strict=True))
    last = max((name for name in raw.phases if name.startswith("pass ")), key=lambda name: int(name.split()[1]))
    begin, end = starts[last], starts["end"]
    prompt = raw.events[: starts["pass 1"]] if "pass 1" in starts else raw.events[:begin]
    between = raw.events[len(prompt) : begin]
    born = set(between[between > 0].tolist())
    dead = set((-between[between < 0]).tolist())
    bridge = [int(event) for event in between if event < 0 and -event not in born]
    bridge += sorted(born - dead)
    tail = raw.events[begin:end]
    events = np.concatenate([prompt, np.array(bridge, dtype=np.int32), tail])
    closing = sorted(_held(events))
    events = np.concatenate([events, -np.array(closing, dtype=np.int32)])
    condensed = _renumbered(raw, events, phases=("prefill", "decode"), phase_starts=(0, len(prompt)))
    computed = dict(zip(raw.phases, by_phase(raw.operations), strict=False))
    return replace(condensed, operations=joined([computed["pass 0"], computed[last]])) if computed else condensed


def _held(events: Ints) -> set[int]:
    held: set[int] = set()
    for event in events.tolist():
        if event > 0:
            held.add(event)
        else:
            held.discard(-event)
    return held


def _renumbered(raw: RawTape, events: Ints, *, phases: tuple[str, ...], phase_starts: tuple[int, ...]) -> RawTape:
    """Renumbers blocks in order of allocation and drops unused ones."""
    order = events[events > 0]
    fresh = np.zeros(len(raw.sizes) + 1, dtype=np.int64)
    fresh[order] = np.arange(1, len(order) + 1)
    return RawTape(
        sizes=raw.sizes[order - 1],
        terms=raw.terms[order - 1],
        events=(np.sign(events) * fresh[np.abs(events)]).astype(np.int32),
        phase_starts=np.array(phase_starts, dtype=np.int32),
        phases=phases,
    )


def _check_alike(tapes: Sequence[RawTape]) -> None:
    first = tapes[0]
    if not are_alike([tape.operations for tape in tapes]):
        raise UnevenModelError("this model computes differently for different lengths")
    for other in tapes[1:]:
        if not np.array_equal(first.events, other.events) or first.phases != other.phases:
            raise UnevenModelError(
                f"this model runs differently for different lengths"
                f" ({len(first.events)} and {len(other.events)} allocations and releases)"
            )


def shapes_beyond(shapes: Sequence[Shape], window: int) -> tuple[Shape, ...]:
    """Returns shapes whose first sequence is longer than a window.

    >>> shapes_beyond(SHAPES, 512)[0].encoder_len
    723
    """
    return tuple(replace(shape, encoder_len=shape.encoder_len + window) for shape in shapes)


@lru_cache(maxsize=32)
def candidates(shapes: tuple[Shape, ...], growth: Growth) -> tuple[npt.NDArray[np.int8], Floats]:
    """Returns the products that a size may be, (c, MAX_FACTORS), and their values at the shapes, (shapes, c).

    The last product bounds sizes that fit no other, see _match.
    """
    one = len(ATOMS)
    alone = [ATOMS.index(name) for name in growth.alone]
    paired = [ATOMS.index(length + form) for length in growth.paired for form in PAIRED_FORMS]
    plain = [(one, one), *((form, one) for form in alone), *itertools.combinations_with_replacement(paired, 2)]
    prefixes = [(one, one), (0, one)] + ([(0, 1), (one, 1)] if growth.beams else [])  # 0 is batch, 1 is beams
    rows = [[*prefix, *pair] + [one] * (MAX_FACTORS - 4) for pair in plain for prefix in prefixes]
    rows.append([0, 1 if growth.beams else one, ATOMS.index("encoder"), ATOMS.index("decoder"), one])
    products = np.array(rows, dtype=np.int8)
    values: Floats = np.array([_shape_atoms(shape)[products].prod(axis=1) for shape in shapes])
    return products, values


def _shape_atoms(shape: Shape) -> Floats:
    return atom_values(shape.batch, shape.beams, shape.encoder_len, shape.decoder_len)


def _match(columns: Floats, values: Floats) -> tuple[Ints, Floats, npt.NDArray[np.bool_]]:
    """Finds for each column of sizes the product with the same growth.

    Returns:
        Index of the product, coefficient, and whether it is exact. A column that fits none gets the last product, which
        is all of batch, beams and lengths: it is covered from the smallest of the shapes on.
    """
    growth = values[1:, :-1] / values[0, :-1]  # (shapes - 1, candidates)
    wanted = columns[1:] / columns[0]  # (shapes - 1, columns)
    distance = np.abs(growth[:, None, :] / wanted[:, :, None] - 1).max(axis=0)  # (columns, candidates)
    chosen = distance.argmin(axis=1)
    exact = distance[np.arange(len(chosen)), chosen] < RELATIVE_TOLERANCE
    chosen = np.where(exact, chosen, values.shape[1] - 1)
    return chosen.astype(np.int64), (columns / values[:, chosen]).max(axis=0), exact
