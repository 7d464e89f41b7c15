"""Counts what each operation of a trace computes and moves. Must not import torch at the top."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from cluster.estimator.operations import RawOperations

if TYPE_CHECKING:
    from torch import Tensor, UntypedStorage

_FREE = ("empty", "new_empty", "lift_fresh", "_local_scalar_dense", "set_", "_unsafe_view", "resize_")  # no kernel
_READS_AS_MUCH_AS_IT_WRITES = frozenset(("embedding", "index", "index_select", "gather", "nll_loss_forward"))
_WRITES_ONLY = frozenset(("zero_", "fill_", "uniform_", "normal_", "bernoulli_", "random_", "nll_loss_backward"))
_ADDS_NOTHING = frozenset(("copy_",))  # its target is among its arguments


@dataclass(frozen=True, slots=True)
class Counted:
    """What one operation costs.

    Attributes:
        flops: Floating-point operations.
        half: Whether these are of 16-bit numbers.
        moved_bytes: Of each tensor that it reads or writes.
    """

    flops: int
    half: bool
    moved_bytes: tuple[int, ...]


@dataclass(slots=True)
class OperationLog:
    """The operations of one section, as they are counted."""

    counted: list[Counted] = field(default_factory=list)
    phase_starts: list[int] = field(default_factory=list)

    def raw(self) -> RawOperations:
        """Returns them as arrays."""
        moved = [(number, size) for number, one in enumerate(self.counted) for size in one.moved_bytes]
        return RawOperations(
            flops=np.array([one.flops for one in self.counted], dtype=np.float64),
            half=np.array([one.half for one in self.counted], dtype=np.bool_),
            moved_bytes=np.array([size for _, size in moved], dtype=np.int64),
            moved_by=np.array([number for number, _ in moved], dtype=np.int32),
            phase_starts=np.array(self.phase_starts, dtype=np.int32),
        )


def storage_key(storage: "UntypedStorage") -> int:
    """Returns what tells a storage from all others that exist at the same time, on the meta device too.

    The private name is the only such number: there, data_ptr() is 0 for each of them. A contract test holds it.
    """
    key: int = storage._cdata
    return key


def counter() -> Callable[
    [Callable[..., object], str, Sequence[object], Mapping[str, object], object, Sequence["Tensor"]], Counted | None
]:
    """Returns a function that counts an operation: of its overload, name, arguments, result and tensors in the result.

    It returns None for what starts no kernel: views, and memory that is not written. Floating-point operations are
    those of torch's own registry (torch.utils.flop_counter): matrix products, convolutions and attention.
    """
    import torch
    from torch.utils.flop_counter import flop_registry

    def count(
        function: Callable[..., object],
        name: str,
        args: Sequence[object],
        kwargs: Mapping[str, object],
        result: object,
        outputs: Sequence["Tensor"],
    ) -> Counted | None:
        if name.startswith(_FREE) or getattr(function, "is_view", False):
            return None
        inputs = list(_tensors(args, torch.Tensor))
        read = {storage_key(one.untyped_storage()) for one in inputs}
        if name.endswith("_") and not outputs:  # lists of tensors in place
            outputs = list(_tensors(args[:1], torch.Tensor))
        elif not name.endswith("_") and all(storage_key(one.untyped_storage()) in read for one in outputs):
            return None  # an alias
        written = [_bytes(one) for one in outputs]
        if name in _READS_AS_MUCH_AS_IT_WRITES:
            moved = [*written, *written]
        elif name in _WRITES_ONLY:
            moved = written
        else:
            moved = [*(_bytes(one) for one in inputs), *([] if name in _ADDS_NOTHING else written)]
        formula = flop_registry.get(getattr(function, "overloadpacket", None))
        flops = int(formula(*args, **kwargs, out_val=result)) if formula is not None else 0
        half = flops > 0 and any(one.is_floating_point() and one.element_size() == 2 for one in inputs)
        return Counted(flops=flops, half=half, moved_bytes=tuple(size for size in moved if size))

    return count


def _tensors(values: Sequence[object], kind: type["Tensor"]) -> Iterator["Tensor"]:
    for value in values:
        if isinstance(value, kind):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value, kind)


def _bytes(tensor: "Tensor") -> int:
    """Returns the bytes of a tensor's elements, each that an expansion repeats once."""
    elements = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        elements *= size if stride else 1
    return elements * tensor.element_size()
