"""Two traces tell every block's product, and the product tells its size at any other shape."""

from dataclasses import replace

import numpy as np
import pytest

from cluster.estimator import template_fit
from cluster.estimator.template_fit import (
    GENERATED_BEHIND,
    GENERATED_BESIDE,
    GENERATION_SHAPES,
    ONE_SEQUENCE,
    SHAPES,
    TWO_SEQUENCES,
    Growth,
    candidates,
    condense,
    constant_tape,
    fit,
)
from cluster.estimator.template_tape import ATOMS, LENGTH_FORMS, atom_values
from cluster.estimator.trace_recorder import RawTape
from cluster.estimator.workload import Shape
from tuning_common.errors import WorkError


def raw(sizes: list[int], events: list[int] | None = None, phases: tuple[str, ...] = ("forward",)) -> RawTape:
    made = events or [*range(1, len(sizes) + 1), *(-n for n in range(1, len(sizes) + 1))]
    return RawTape(
        sizes=np.array(sizes),
        terms=np.zeros(len(sizes), dtype=np.int8),
        events=np.array(made, dtype=np.int32),
        phase_starts=np.arange(len(phases), dtype=np.int32),
        phases=phases,
    )


@pytest.mark.parametrize(
    ("shapes", "growth"),
    [
        (SHAPES, ONE_SEQUENCE),
        (SHAPES, TWO_SEQUENCES),
        (GENERATION_SHAPES, replace(GENERATED_BEHIND, beams=True)),
        (GENERATION_SHAPES, replace(GENERATED_BESIDE, beams=True)),
    ],
)
def test_no_two_products_grow_alike_between_the_shapes(shapes: tuple[Shape, ...], growth: Growth) -> None:
    _, values = candidates(shapes, growth)
    apart = np.diff(np.sort(values[1, :-1] / values[0, :-1]))
    assert apart.min() > 1e6 * template_fit.RELATIVE_TOLERANCE


def test_traced_lengths_are_never_whole_steps() -> None:
    for shape in (*SHAPES, *GENERATION_SHAPES):
        assert shape.encoder_len % 8
        assert (shape.encoder_len + shape.decoder_len) % 8
        assert (shape.encoder_len + shape.decoder_len - 1) % 8
    assert all(shape.decoder_len % 8 for shape in SHAPES)


def test_sizes_are_found_exactly() -> None:
    def sizes(shape: Shape) -> list[int]:
        batch, encoder, decoder = shape.batch, shape.encoder_len, shape.decoder_len
        padded = -(-encoder // 8) * 8
        return [4096, 3072 * batch * encoder, 2 * batch * encoder * padded, 30_000 * batch * (decoder - 1), 8 * decoder]

    fitted = fit([raw(sizes(shape)) for shape in SHAPES], SHAPES, TWO_SEQUENCES)
    assert fitted.inexact_part == 0
    other = Shape(batch=17, encoder_len=1023, decoder_len=77)
    values = fitted.tape.values(atom_values(17, 1, 1023, 77))
    found = fitted.tape.block_coefficient * values[fitted.tape.block_product]
    assert found.tolist() == sizes(other)


def test_a_small_part_that_fits_no_product_is_bounded_from_above() -> None:
    def sizes(shape: Shape) -> list[int]:
        return [10**8 * shape.batch * shape.encoder_len, shape.encoder_len + 7 * shape.batch]

    fitted = fit([raw(sizes(shape)) for shape in SHAPES], SHAPES, TWO_SEQUENCES)
    assert 0 < fitted.inexact_part < 1e-6
    for shape in (*SHAPES, Shape(batch=9, encoder_len=800, decoder_len=100)):
        values = fitted.tape.values(atom_values(shape.batch, 1, shape.encoder_len, shape.decoder_len))
        assert (fitted.tape.block_coefficient * values[fitted.tape.block_product])[1] >= sizes(shape)[1] - 1e-6


def test_a_model_that_grows_otherwise_is_refused() -> None:
    with pytest.raises(WorkError, match="grows neither with batch and lengths"):
        fit([raw([1000 + 7 * shape.batch * shape.encoder_len]) for shape in SHAPES], SHAPES, TWO_SEQUENCES)


def test_a_model_that_runs_differently_is_refused() -> None:
    with pytest.raises(WorkError, match="runs differently for different lengths"):
        fit([raw([8]), raw([8, 8])], SHAPES, TWO_SEQUENCES)


def test_constant_sections_depend_on_nothing() -> None:
    tape = constant_tape(raw([100, 5000]))
    for atoms in (atom_values(1, 1, 1, 1), atom_values(64, 4, 1000, 99)):
        assert tape.block_bytes(atoms).tolist() == [512, 5120]


def test_a_generation_is_its_first_and_last_pass() -> None:
    # pass 0 makes a cache (1) and a temporary (2); every later pass makes the next cache and drops the one before
    events = [1, 2, -2, 3, -1, 4, -3, 5, -4, -5]
    whole = RawTape(
        sizes=np.array([10, 99, 11, 12, 13]),
        terms=np.zeros(5, dtype=np.int8),
        events=np.array(events, dtype=np.int32),
        phase_starts=np.array([0, 0, 3, 5, 7, 9], dtype=np.int32),
        phases=("start", "pass 0", "pass 1", "pass 2", "pass 3", "end"),
    )
    short = condense(whole)
    assert short.sizes.tolist() == [10, 99, 12, 13]  # the cache of pass 1 came and went between
    assert short.events.tolist() == [1, 2, -2, -1, 3, 4, -3, -4]
    assert short.phases == ("prefill", "decode")
    assert short.phase_starts.tolist() == [0, 3]


def test_every_form_of_a_length_is_an_atom() -> None:
    values = atom_values(2, 3, 100, 10)
    assert len(values) == len(ATOMS) + 1
    forms = [int(value) for value in values[2 : 2 + len(LENGTH_FORMS)]]
    assert dict(zip(LENGTH_FORMS, forms, strict=True)) == {
        "": 100, "-1": 99, "-2": 98, "+1": 101, "^8": 104, "^16": 112, "^32": 128, "^128": 128,
    }  # fmt: skip
    assert values.min() > 0
    assert atom_values(1, 1, 1, 1).min() == 0  # one position less than one is none, not minus one
