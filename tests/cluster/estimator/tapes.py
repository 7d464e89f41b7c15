"""Tapes made by hand: what a template holds at each moment, from a few blocks."""

import numpy as np

from cluster.estimator.template_tape import ATOMS, MAX_FACTORS, TERMS, Tape

Block = tuple[tuple[str, ...], float, str]  # atoms, bytes each, term


def tape(blocks: list[Block], events: list[int], phases: dict[str, int]) -> Tape:
    products = sorted({atoms for atoms, _, _ in blocks})
    indices = [[ATOMS.index(a) for a in atoms] + [len(ATOMS)] * (MAX_FACTORS - len(atoms)) for atoms in products]
    return Tape(
        products=np.array(indices, dtype=np.int8).reshape(-1, MAX_FACTORS),
        block_product=np.array([products.index(atoms) for atoms, _, _ in blocks], dtype=np.int16),
        block_coefficient=np.array([coefficient for _, coefficient, _ in blocks], dtype=np.float64),
        block_term=np.array([TERMS.index(term) for _, _, term in blocks], dtype=np.int8),
        events=np.array(events, dtype=np.int32),
        phase_starts=np.array(list(phases.values()), dtype=np.int32),
        phases=tuple(phases),
    )
