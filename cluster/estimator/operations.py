"""The operations of one routine: what each computes and moves, as exact products of batch, beams and lengths.

They give the seconds on a device by a roofline (Williams, Waterman, Patterson, CACM 2009): an operation takes as long
as its arithmetic or its memory traffic, whichever is longer, and one launch. Imports numpy only.
"""

import dataclasses

import numpy as np
import numpy.typing as npt

from cluster.estimator.roofline import Roofline

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int32]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RawOperations:
    """The operations of a section of a trace at one shape, in order; see Operations.

    Attributes:
        flops: (o) floating-point operations of each.
        half: (o) whether they are of 16-bit numbers.
        moved_bytes: (e) bytes of each tensor that an operation reads or writes.
        moved_by: (e) that operation.
        phase_starts: Index of the first operation of each phase.
    """

    flops: Floats
    half: npt.NDArray[np.bool_]
    moved_bytes: Ints
    moved_by: Indices
    phase_starts: Indices

    def between(self, begin: int, end: int) -> "RawOperations":
        """Returns the operations from one index to before another, as one phase."""
        chosen = (self.moved_by >= begin) & (self.moved_by < end)
        return RawOperations(
            flops=self.flops[begin:end],
            half=self.half[begin:end],
            moved_bytes=self.moved_bytes[chosen],
            moved_by=(self.moved_by[chosen] - begin).astype(np.int32),
            phase_starts=np.zeros(1, dtype=np.int32),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Operations:
    """The operations of one routine, equal ones together.

    Attributes:
        products: (p, MAX_FACTORS) indices of atoms whose product is one basis function, see template_tape.
        count: (k) how many operations are of each kind.
        half: (k) whether they compute with 16-bit numbers.
        flops_product: (k) the product that floating-point operations are a multiple of.
        flops_coefficient: (k) flops = coefficient · product.
        moved_kind: (e) the kind that moves some bytes.
        moved_product: (e) which product these are a multiple of.
        moved_coefficient: (e) bytes = coefficient · product.
    """

    products: npt.NDArray[np.int8]
    count: Indices
    half: npt.NDArray[np.bool_]
    flops_product: npt.NDArray[np.int16]
    flops_coefficient: Floats
    moved_kind: npt.NDArray[np.int16]
    moved_product: npt.NDArray[np.int16]
    moved_coefficient: Floats

    @property
    def launches(self) -> int:
        """Number of operations."""
        return int(self.count.sum())

    def seconds(self, atoms: Floats, roofline: Roofline) -> "Seconds":
        """Returns how long a device works on them.

        Args:
            atoms: (atoms + 1), see template_tape.atom_values.
            roofline: The device.
        """
        values = atoms[self.products].prod(axis=1)
        flops = self.flops_coefficient * values[self.flops_product]
        moved = self.moved_coefficient * values[self.moved_product]
        moved_bytes = np.bincount(self.moved_kind, moved, minlength=len(self.count))
        compute_s = flops / np.where(self.half, roofline.half_flops_s, roofline.single_flops_s)
        memory_s = moved_bytes / roofline.bytes_s
        by_compute = compute_s > memory_s
        return Seconds(
            compute_s=float((compute_s * self.count)[by_compute].sum()),
            memory_s=float((memory_s * self.count)[~by_compute].sum()),
            launch_s=self.launches * roofline.launch_s,
            host_s=self.launches * roofline.host_s,
            flops=float((flops * self.count).sum()),
            moved_bytes=float((moved_bytes * self.count).sum()),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seconds:
    """How long a device works on some operations.

    Attributes:
        compute_s: In operations that arithmetic bounds.
        memory_s: In operations that memory traffic bounds.
        launch_s: Starting them on the device.
        host_s: The host's work to submit them, beside the device's.
        flops: Floating-point operations.
        moved_bytes: Bytes read and written.
    """

    compute_s: float = 0.0
    memory_s: float = 0.0
    launch_s: float = 0.0
    host_s: float = 0.0
    flops: float = 0.0
    moved_bytes: float = 0.0

    @property
    def device_s(self) -> float:
        """Seconds in which the device works."""
        return self.compute_s + self.memory_s + self.launch_s

    @property
    def total_s(self) -> float:
        """Seconds until all are done: host and device work side by side, so the slower one decides.

        >>> Seconds(compute_s=2.0, memory_s=1.0, host_s=2.5).total_s
        3.0
        """
        return max(self.device_s, self.host_s)

    @property
    def bound(self) -> str:
        """What takes most of the time: compute, memory or launches.

        >>> Seconds(compute_s=2.0, memory_s=1.0, host_s=2.5).bound, Seconds(memory_s=1.0, host_s=2.5).bound
        ('compute', 'launches')
        """
        if self.host_s > self.device_s or self.launch_s > max(self.compute_s, self.memory_s):
            return "launches"
        return "compute" if self.compute_s > self.memory_s else "memory"

    def __add__(self, other: "Seconds") -> "Seconds":
        return self.plus(other, 1.0)

    def plus(self, other: "Seconds", times: float) -> "Seconds":
        """Returns these seconds and some others so many times.

        >>> Seconds(compute_s=1.0).plus(Seconds(compute_s=0.5, host_s=1.0), 3)
        Seconds(compute_s=2.5, memory_s=0.0, launch_s=0.0, host_s=3.0, flops=0.0, moved_bytes=0.0)
        """
        fields = [field.name for field in dataclasses.fields(Seconds)]
        return Seconds(**{name: getattr(self, name) + times * getattr(other, name) for name in fields})
