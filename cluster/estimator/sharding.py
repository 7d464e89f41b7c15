"""Converts a template to that of one process of a sharded model (FSDP, ZeRO stage 3).

Bounded, not modelled: every block whose size depends only on the model shrinks to its shard, and the buffers that
torch's fully_shard gathers (torch 2.13, torch.distributed.fsdp) are added to each routine. Imports numpy only.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from cluster.estimator.operations import Ints
from cluster.estimator.template import Template, TrainTapes
from cluster.estimator.template_tape import MAX_FACTORS, ONE, TERMS, Tape

MASTER_BYTES = 4  # of one element: weights are stored, and gradients reduced, in fp32
_BACKWARD = "backward"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sharding:
    """Sizes of the gathered units of a sharded model, in elements.

    Attributes:
        layer_parameters: The largest layer, gathered one layer ahead of its computation.
        rest_parameters: Everything outside the layers (embeddings, output head), gathered for a whole step.
        table_parameters: The largest weight of the rest; where it is used twice, each use has a gradient.
    """

    layer_parameters: int
    rest_parameters: int
    table_parameters: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Gathered:
    """A block to add to a tape: held from before one of its events until after another."""

    elements_bytes: int
    term: str
    start: int
    end: int


def divided(template: Template, ranks: int, sharding: Sharding) -> Template:
    """Returns the template of one process of a sharded job.

    Gathered in a forward pass: the rest, and of layers one that is computed, one that comes next, and the buffer it
    arrives in. In a backward pass also the gradients of the rest, one more of its largest table, and two layers' with
    the copies in which they are added up; at its end, when all layers are gone, the copy of the rest's.

    Args:
        template: Template of the whole job on one card.
        ranks: Number of processes.
        sharding: See Sharding.
    """
    train = template.train
    return dataclasses.replace(
        template,
        weight_bytes=_part(template.weight_bytes, ranks),
        train=TrainTapes(
            first=_step(train.first, template, ranks, sharding),
            later=_step(train.later, template, ranks, sharding),
            optimizer_first=_divided(train.optimizer_first, ranks),
            optimizer_later=_divided(train.optimizer_later, ranks),
        ),
        evaluate=_forward_only(template.evaluate, template, ranks, sharding),
        greedy=_forward_only(template.greedy, template, ranks, sharding),
        beam=_forward_only(template.beam, template, ranks, sharding),
        source=f"{template.source}, divided by {ranks}",
    )


def _step(tape: Tape, template: Template, ranks: int, sharding: Sharding) -> Tape:
    element_bytes = _element_bytes(template)
    begins = int(tape.phase_starts[tape.phases.index(_BACKWARD)])
    last = len(tape.events) - 1
    layer, rest = sharding.layer_parameters, sharding.rest_parameters
    gathered = [
        _Gathered(elements_bytes=rest * element_bytes, term="weights", start=0, end=last + 1),
        _Gathered(elements_bytes=3 * layer * element_bytes, term="weights", start=0, end=last),
        _Gathered(elements_bytes=rest * element_bytes, term="gradients", start=begins, end=last + 1),
        _Gathered(elements_bytes=layer * (element_bytes + 2 * MASTER_BYTES), term="gradients", start=begins, end=last),
        _Gathered(elements_bytes=sharding.table_parameters * element_bytes, term="gradients", start=begins, end=last),
        _Gathered(elements_bytes=rest * MASTER_BYTES, term="gradients", start=last + 1, end=last + 1),
    ]
    return _with(_divided(tape, ranks), gathered)


def _forward_only(tape: Tape, template: Template, ranks: int, sharding: Sharding) -> Tape:
    elements = sharding.rest_parameters + 3 * sharding.layer_parameters
    gathered = _Gathered(
        elements_bytes=elements * _element_bytes(template), term="weights", start=0, end=len(tape.events) - 1
    )
    return _with(_divided(tape, ranks), [gathered])


def _element_bytes(template: Template) -> int:
    """Returns the bytes of a gathered element: weights and gradients have the format of the computation."""
    return MASTER_BYTES if template.key.precision == "fp32" else 2


def _divided(tape: Tape, ranks: int) -> Tape:
    """Shrinks the blocks whose size does not depend on the batch: cast weights, gradients, states, temporaries."""
    constant = (tape.products[tape.block_product] == ONE).all(axis=1)
    return dataclasses.replace(
        tape, block_coefficient=np.where(constant, np.ceil(tape.block_coefficient / ranks), tape.block_coefficient)
    )


def _part(sizes: Ints, ranks: int) -> Ints:
    return -(-sizes // ranks)


def _with(tape: Tape, gathered: Sequence[_Gathered]) -> Tape:
    """Adds blocks to a tape."""
    constant = np.full((1, MAX_FACTORS), ONE, dtype=tape.products.dtype)
    first = len(tape.block_product)
    before: dict[int, list[int]] = {}
    behind: dict[int, list[int]] = {}
    for number, block in enumerate(gathered, start=first + 1):
        before.setdefault(block.start, []).append(number)
        behind.setdefault(block.end, []).append(-number)
    events: list[int] = []
    positions = []  # index of each old event among the new ones
    for index in range(len(tape.events) + 1):
        events += before.get(index, [])
        positions.append(len(events))
        events += tape.events[index : index + 1].tolist()
        events += behind.get(index, [])
    added = len(gathered)
    return dataclasses.replace(
        tape,
        products=np.concatenate([tape.products, constant]),
        block_product=np.append(tape.block_product, np.full(added, len(tape.products), dtype=np.int16)).astype(
            tape.block_product.dtype
        ),
        block_coefficient=np.append(tape.block_coefficient, [float(block.elements_bytes) for block in gathered]),
        block_term=np.append(tape.block_term, [TERMS.index(block.term) for block in gathered]).astype(
            tape.block_term.dtype
        ),
        events=np.array(events, dtype=tape.events.dtype),
        phase_starts=np.array(
            [_moved(int(start), positions, tape, before) for start in tape.phase_starts], dtype=tape.phase_starts.dtype
        ),
    )


def _moved(start: int, positions: Sequence[int], tape: Tape, before: dict[int, list[int]]) -> int:
    """Returns the new start of a phase, before the blocks gathered for it."""
    return positions[start] - len(before.get(start, []))
