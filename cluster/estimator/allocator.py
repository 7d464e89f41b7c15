"""A model of torch's CUDA caching allocator: replays events and counts reserved bytes. Pure Python.

Written from the documented rules of c10/cuda/CUDACachingAllocator.cpp: sizes are rounded to 512 bytes, small and large
requests have separate pools, the best fit is taken and split, neighbours merge, and where the device has no memory
left, free segments are released and the request is retried. Two backends: segments of a fixed size each (`native`), and
`expandable_segments:True`, where each pool is one range of addresses whose pages are mapped on demand.
"""

import dataclasses
from bisect import bisect_left, insort

from cluster.estimator.template import EventLog
from cluster.estimator.template_tape import BLOCK_BYTES, round_up

MIB = 2**20
SMALL_REQUEST_BYTES = MIB  # kSmallSize: up to this from the small pool
SMALL_SEGMENT_BYTES = 2 * MIB  # kSmallBuffer
LARGE_SEGMENT_BYTES = 20 * MIB  # kLargeBuffer: for requests up to kMinLargeAlloc, and the page of a large range
OWN_SEGMENT_BYTES = 10 * MIB  # kMinLargeAlloc: from this size, one segment per request
SEGMENT_ROUND_BYTES = 2 * MIB  # kRoundLarge
ADDRESS_SPACE_BYTES = LARGE_SEGMENT_BYTES * 2**30  # of an expandable range: whole pages, more than any device has


@dataclasses.dataclass(frozen=True, kw_only=True)
class Replayed:
    """The result of a replay.

    Attributes:
        peak_allocated_bytes: torch.cuda.max_memory_allocated: blocks in use, including unsplit tails.
        peak_reserved_bytes: torch.cuda.max_memory_reserved.
        flushes: Number of releases of all free memory because the capacity was reached.
        fits: Whether every request was served; where not, the peaks are those before the failure.
    """

    peak_allocated_bytes: int
    peak_reserved_bytes: int
    flushes: int
    fits: bool


class OutOfCapacityError(Exception):
    """A request does not fit, even after a release of all free memory."""


def replay(log: EventLog, *, expandable: bool, capacity_bytes: int | None = None) -> Replayed:
    """Replays allocations and releases.

    Args:
        log: Events from Template.events.
        expandable: Whether expandable_segments is on.
        capacity_bytes: The cap of set_per_process_memory_fraction; None for no limit.

    >>> import numpy as np
    >>> log = EventLog(ids=np.array([1, 2, -1, 3]), sizes=np.array([3 * MIB, 100, 0, 2 * MIB]))
    >>> replayed = replay(log, expandable=False)
    >>> replayed.peak_reserved_bytes // MIB, replayed.peak_allocated_bytes - 3 * MIB
    (22, 512)
    """
    allocator = CachingAllocator(expandable=expandable, capacity_bytes=capacity_bytes)
    fits = True
    try:
        for number, size in zip(log.ids.tolist(), log.sizes.tolist(), strict=True):
            if number < 0:
                allocator.release(-number)
            else:
                allocator.allocate(number, size)
    except OutOfCapacityError:
        fits = False
    return Replayed(
        peak_allocated_bytes=allocator.peak_allocated_bytes,
        peak_reserved_bytes=allocator.peak_reserved_bytes,
        flushes=allocator.flushes,
        fits=fits,
    )


class _Block:
    """A piece of a segment: in use, free, or (expandable only) unmapped addresses."""

    __slots__ = ("address", "following", "free", "mapped", "preceding", "size")

    def __init__(self, address: int, size: int, *, mapped: bool = True) -> None:
        self.address = address
        self.size = size
        self.mapped = mapped
        self.free = False
        self.preceding: _Block | None = None
        self.following: _Block | None = None


_Entry = tuple[int, int, _Block]  # size, address (no two are equal), block


class _Pool:
    """Free blocks of one pool, by size."""

    def __init__(self, page_bytes: int) -> None:
        self.page_bytes = page_bytes
        self.free: list[_Entry] = []
        self.unmapped: list[tuple[int, _Block]] = []  # by address

    def put(self, block: _Block) -> None:
        block.free = True
        insort(self.free, (block.size, block.address, block))

    def take(self, block: _Block) -> None:
        del self.free[bisect_left(self.free, (block.size, block.address))]
        block.free = False

    def put_unmapped(self, block: _Block) -> None:
        insort(self.unmapped, (block.address, block))

    def take_unmapped(self, block: _Block) -> None:
        del self.unmapped[bisect_left(self.unmapped, (block.address,))]


class CachingAllocator:
    """One process's allocator for one device and one stream.

    Args:
        expandable: Whether expandable_segments is on.
        capacity_bytes: At most this much is reserved; None for no limit.
    """

    def __init__(self, *, expandable: bool, capacity_bytes: int | None = None) -> None:
        self._expandable = expandable
        self._capacity_bytes = capacity_bytes
        self._small, self._large = _Pool(SMALL_SEGMENT_BYTES), _Pool(LARGE_SEGMENT_BYTES)
        self._used: dict[int, tuple[_Block, _Pool]] = {}
        self._next_address = 0
        self.allocated_bytes = self.peak_allocated_bytes = 0
        self.reserved_bytes = self.peak_reserved_bytes = 0
        self.flushes = 0
        if expandable:
            for pool in (self._small, self._large):
                pool.put_unmapped(_Block(self._next_address, ADDRESS_SPACE_BYTES, mapped=False))
                self._next_address += ADDRESS_SPACE_BYTES

    def allocate(self, number: int, size_bytes: int) -> None:
        """Allocates a block.

        Args:
            number: Identifies the block until its release.
            size_bytes: The requested size.

        Raises:
            OutOfCapacityError: When the capacity does not allow it.
        """
        size = max(BLOCK_BYTES, round_up(size_bytes, BLOCK_BYTES))
        pool = self._small if size <= SMALL_REQUEST_BYTES else self._large
        block = self._best_fit(pool, size) or self._grow(pool, size)
        if block is None:
            self._flush()
            block = self._grow(pool, size)
        if block is None:
            raise OutOfCapacityError(f"{size} bytes beside {self.reserved_bytes} of {self._capacity_bytes}")
        self._split(pool, block, size)
        self._used[number] = (block, pool)
        self.allocated_bytes += block.size
        self.peak_allocated_bytes = max(self.peak_allocated_bytes, self.allocated_bytes)

    def release(self, number: int) -> None:
        """Returns a block to its pool, merged with free neighbours."""
        block, pool = self._used.pop(number)
        self.allocated_bytes -= block.size
        pool.put(_merge(pool, block))

    def _best_fit(self, pool: _Pool, size: int) -> _Block | None:
        index = bisect_left(pool.free, (size,))
        if index == len(pool.free):
            return None
        if self._expandable:  # prefer blocks that cannot grow
            while index + 1 < len(pool.free) and _room(pool.free[index + 1][2]) < _room(pool.free[index][2]):
                index += 1
        block = pool.free.pop(index)[2]
        block.free = False
        return block

    def _split(self, pool: _Pool, block: _Block, size: int) -> None:
        rest = block.size - size
        if rest < BLOCK_BYTES if (self._expandable or pool is self._small) else rest <= SMALL_REQUEST_BYTES:
            return
        _link(block, _Block(block.address + size, rest))
        block.size = size
        assert block.following is not None
        pool.put(block.following)

    def _grow(self, pool: _Pool, size: int) -> _Block | None:
        """Reserves memory for a request; None where the capacity does not allow it."""
        if self._expandable:
            return self._map_range(pool, size)
        if size <= SMALL_REQUEST_BYTES:
            segment = SMALL_SEGMENT_BYTES
        else:
            segment = LARGE_SEGMENT_BYTES if size < OWN_SEGMENT_BYTES else round_up(size, SEGMENT_ROUND_BYTES)
        if not self._reserve(segment):
            return None
        block = _Block(self._next_address, segment)
        self._next_address += segment
        return block

    def _reserve(self, size: int) -> bool:
        if self._capacity_bytes is not None and self.reserved_bytes + size > self._capacity_bytes:
            return False
        self.reserved_bytes += size
        self.peak_reserved_bytes = max(self.peak_reserved_bytes, self.reserved_bytes)
        return True

    def _map_range(self, pool: _Pool, size: int) -> _Block | None:
        """Maps pages at the lowest address where free and unmapped neighbours together are large enough."""
        for _, unmapped in pool.unmapped:
            before = unmapped.preceding
            first = before if before is not None and before.free else unmapped
            if _joined_size(first, size) >= size:
                break
        block = first
        if not block.mapped:
            mapped = self._map(pool, block, min(block.size, size))
            if mapped is None:
                return None
            block = mapped
        while block.size < size:
            following = block.following
            assert following is not None
            assert not following.mapped
            mapped = self._map(pool, following, min(following.size, size - block.size))
            if mapped is None:
                return None
            block = mapped
        pool.take(block)
        return block

    def _map(self, pool: _Pool, block: _Block, size: int) -> _Block | None:
        """Maps whole pages at the start of an unmapped block; the result is free and merged."""
        pages = min(block.size, round_up(size, pool.page_bytes))
        if not self._reserve(pages):
            return None
        pool.take_unmapped(block)
        if block.size > pages:
            rest = _Block(block.address + pages, block.size - pages, mapped=False)
            _link(block, rest)
            block.size = pages
            pool.put_unmapped(rest)
        block.mapped = True
        merged = _merge(pool, block)
        pool.put(merged)
        return merged

    def _flush(self) -> None:
        """Releases all free segments, or free pages of an expandable range."""
        self.flushes += 1
        for pool in (self._small, self._large):
            for _, _, block in list(pool.free):
                if self._expandable:
                    self._unmap(pool, block)
                elif block.preceding is None and block.following is None:
                    pool.take(block)
                    self.reserved_bytes -= block.size

    def _unmap(self, pool: _Pool, block: _Block) -> None:
        start = round_up(block.address, pool.page_bytes)
        end = (block.address + block.size) // pool.page_bytes * pool.page_bytes
        if end <= start:
            return
        pool.take(block)
        if end < block.address + block.size:
            tail = _Block(end, block.address + block.size - end)
            _link(block, tail)
            block.size -= tail.size
            pool.put(tail)
        if start > block.address:
            middle = _Block(start, end - start)
            _link(block, middle)
            block.size -= middle.size
            pool.put(block)
            block = middle
        self.reserved_bytes -= block.size
        block.mapped = False
        pool.put_unmapped(_merge_unmapped(pool, block))


def _link(block: _Block, fresh: _Block) -> None:
    """Inserts a fresh block after another one."""
    fresh.preceding, fresh.following = block, block.following
    if block.following is not None:
        block.following.preceding = fresh
    block.following = fresh


def _absorb(block: _Block, following: _Block) -> None:
    block.size += following.size
    block.following = following.following
    if following.following is not None:
        following.following.preceding = block


def _merge(pool: _Pool, block: _Block) -> _Block:
    """Merges a block, which is in no list, with its free neighbours."""
    before, behind = block.preceding, block.following
    if behind is not None and behind.free:
        pool.take(behind)
        _absorb(block, behind)
    if before is not None and before.free:
        pool.take(before)
        _absorb(before, block)
        return before
    return block


def _merge_unmapped(pool: _Pool, block: _Block) -> _Block:
    before, behind = block.preceding, block.following
    if behind is not None and not behind.mapped:
        pool.take_unmapped(behind)
        _absorb(block, behind)
    if before is not None and not before.mapped:
        pool.take_unmapped(before)
        _absorb(before, block)
        return before
    return block


def _room(block: _Block) -> int:
    behind = block.following
    return block.size + (behind.size if behind is not None and not behind.mapped else 0)


def _joined_size(block: _Block, enough: int) -> int:
    total, current = 0, block
    while total < enough and (current.free or not current.mapped):
        total += current.size
        if current.following is None:
            break
        current = current.following
    return total
