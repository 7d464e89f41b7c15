"""The allocator on paper follows the documented rules of torch's caching allocator."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.estimator.allocator import MIB, CachingAllocator, OutOfCapacityError, replay
from cluster.estimator.template import EventLog


def log(*events: tuple[int, int]) -> EventLog:
    return EventLog(ids=np.array([n for n, _ in events]), sizes=np.array([size for _, size in events]))


@pytest.mark.parametrize(
    ("request_bytes", "reserved_mib"),
    [(1, 2), (MIB, 2), (MIB + 1, 20), (10 * MIB - 512, 20), (10 * MIB, 10), (21 * MIB + 1, 22)],
)
def test_native_segments(request_bytes: int, reserved_mib: int) -> None:
    assert replay(log((1, request_bytes)), expandable=False).peak_reserved_bytes == reserved_mib * MIB


def test_large_tails_up_to_a_mebibyte_stay_with_their_block() -> None:
    block = CachingAllocator(expandable=False)
    block.allocate(1, 20 * MIB - MIB)
    assert block.allocated_bytes == 20 * MIB
    block.allocate(2, 20 * MIB - MIB - 512)
    assert block.allocated_bytes == 20 * MIB + 19 * MIB - 512  # here 1 MiB + 512 bytes are left: split off


def test_expandable_blocks_are_split_to_the_last_512_bytes() -> None:
    block = CachingAllocator(expandable=True)
    block.allocate(1, 20 * MIB - MIB)
    assert block.allocated_bytes == 19 * MIB
    block.allocate(2, 2 * MIB)
    assert (block.allocated_bytes, block.reserved_bytes) == (21 * MIB, 40 * MIB)


def test_the_best_fit_is_reused_and_split() -> None:
    events = [(1, 64 * MIB), (2, 2 * MIB), (3, 32 * MIB), (4, 2 * MIB), (-1, 0), (-3, 0), (5, 30 * MIB), (6, 60 * MIB)]
    assert replay(log(*events), expandable=False).peak_reserved_bytes == (64 + 20 + 32) * MIB


def test_fragments_cost_reserved_memory_only_without_expandable_segments() -> None:
    grow = [event for n in range(1, 21) for event in ((n, n * 20 * MIB), (-n, 0))]
    assert replay(log(*grow), expandable=False).peak_reserved_bytes == sum(range(1, 21)) * 20 * MIB
    assert replay(log(*grow), expandable=True).peak_reserved_bytes == 400 * MIB


def test_a_cap_flushes_what_is_free_before_it_fails() -> None:
    events = [(1, 100 * MIB), (-1, 0), (2, 120 * MIB)]
    for expandable in (False, True):
        capped = replay(log(*events), expandable=expandable, capacity_bytes=120 * MIB)
        assert capped.fits
        assert capped.peak_reserved_bytes == 120 * MIB
        assert capped.flushes == (0 if expandable else 1)  # an expandable range just grows
        assert not replay(log(*events), expandable=expandable, capacity_bytes=119 * MIB).fits


def test_pages_inside_a_hole_are_unmapped_and_mapped_again() -> None:
    block = CachingAllocator(expandable=True, capacity_bytes=200 * MIB)
    for number, size in ((1, 100), (2, 60), (3, 40)):
        block.allocate(number, size * MIB)
    block.release(1)
    block.release(3)
    block.allocate(4, 120 * MIB)  # needs the pages of both holes
    assert (block.flushes, block.reserved_bytes, block.allocated_bytes) == (1, 180 * MIB, 180 * MIB)
    block.release(2)
    with pytest.raises(OutOfCapacityError, match="210763776 bytes"):
        block.allocate(5, 201 * MIB)


def history(sizes: list[int], order: list[int]) -> EventLog:
    events: list[tuple[int, int]] = []
    live: list[int] = []
    for number, (size, pick) in enumerate(zip(sizes, order, strict=True), start=1):
        events.append((number, size))
        live.append(number)
        if pick % 3:
            events.append((-live.pop(pick % len(live)), 0))
    return log(*events)


@given(
    st.lists(st.integers(1, 80 * MIB), min_size=1, max_size=60).flatmap(
        lambda sizes: st.tuples(
            st.just(sizes), st.lists(st.integers(0, 1000), min_size=len(sizes), max_size=len(sizes))
        )
    )
)
def test_any_history_keeps_the_books(case: tuple[list[int], list[int]]) -> None:
    events = history(*case)
    exact, held = 0, {}
    for number, size in zip(events.ids.tolist(), events.sizes.tolist(), strict=True):
        if number > 0:
            held[number] = -(-size // 512) * 512
        else:
            del held[-number]
        exact = max(exact, sum(held.values()))
    for expandable in (False, True):
        free = replay(events, expandable=expandable)
        assert free.fits
        assert exact <= free.peak_allocated_bytes <= free.peak_reserved_bytes
        if expandable:
            assert free.peak_allocated_bytes == exact
        capped = replay(events, expandable=expandable, capacity_bytes=free.peak_reserved_bytes)
        assert capped.fits
        assert capped.flushes == 0
        tight = replay(events, expandable=expandable, capacity_bytes=max(exact, 2 * MIB))
        assert tight.peak_reserved_bytes <= max(exact, 2 * MIB)
