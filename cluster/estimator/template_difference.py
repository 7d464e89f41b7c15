"""Compares a new trace with an earlier template. Pure."""

from collections.abc import Iterator

import numpy as np

from cluster.estimator.template_file import Part
from cluster.estimator.template_tape import ATOMS, TERMS, Tape

_ROUNDING = 1e-12  # coefficients are quotients of whole numbers


def differences(before: Part, now: Part) -> list[str]:
    """Compares two parts of the same job; versions may differ.

    Args:
        before: For example the shipped one.
        now: Traced now.

    Returns:
        The differences as text, the first one of each tape; empty when both are equal.
    """
    found = []
    for name in ("model_parameters", "operations"):
        old, new = getattr(before, name), getattr(now, name)
        if old != new:
            found.append(f"{name}: {old} before, {new} now")
    if not np.array_equal(before.weight_bytes, now.weight_bytes):
        found.append(f"weights: {before.weight_bytes.sum()} bytes before, {now.weight_bytes.sum()} now")
    if set(before.tapes) != set(now.tapes):
        found.append(f"tapes: {', '.join(before.tapes)} before, {', '.join(now.tapes)} now")
    for name in before.tapes.keys() & now.tapes.keys():
        found += [f"{name}: {text}" for text in _tape_differences(before.tapes[name], now.tapes[name])]
    return found


def _tape_differences(before: Tape, now: Tape) -> Iterator[str]:
    if before.phases != now.phases:
        yield f"phases {', '.join(before.phases)} before, {', '.join(now.phases)} now"
        return
    if len(before.events) != len(now.events):
        yield f"{len(before.events)} allocations and releases before, {len(now.events)} now"
    shared = min(len(before.events), len(now.events))
    place = _first(before.events[:shared] != now.events[:shared])
    if place is not None:
        yield f"event {place}, in {before.phase_at(place)}: {_event(before, place)} before, {_event(now, place)} now"
        return
    if len(before.events) == len(now.events) and not np.array_equal(before.phase_starts, now.phase_starts):
        yield "its phases begin at other events"
    blocks = min(len(before.block_product), len(now.block_product))
    same = (before.products[before.block_product[:blocks]] == now.products[now.block_product[:blocks]]).all(axis=1)
    same &= np.isclose(before.block_coefficient[:blocks], now.block_coefficient[:blocks], rtol=_ROUNDING, atol=0)
    same &= before.block_term[:blocks] == now.block_term[:blocks]
    block = _first(~same)
    if block is not None:
        yield f"block {block}: {_block(before, block)} before, {_block(now, block)} now"


def _first(places: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> int | None:
    found = np.flatnonzero(places)
    return int(found[0]) if len(found) else None


def _event(tape: Tape, place: int) -> str:
    event = int(tape.events[place])
    return f"{'allocates' if event > 0 else 'releases'} {_block(tape, abs(event) - 1)}"


def _block(tape: Tape, block: int) -> str:
    """Describes a block, for example "61440·batch·encoder bytes of activations"."""
    factors = [ATOMS[atom] for atom in tape.products[tape.block_product[block]].tolist() if atom < len(ATOMS)]
    size = "·".join([f"{tape.block_coefficient[block]:g}", *factors])
    return f"{size} bytes of {TERMS[tape.block_term[block]]}"
