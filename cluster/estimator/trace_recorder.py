"""Records a trace: allocations and releases of storages, with purpose and section.

Recorder is plain Python; `watching` connects it to torch as a dispatch mode. Must not import torch at the top.
"""

import dataclasses
import weakref
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cluster.estimator.operation_trace import Counted, OperationLog, counter, storage_key
from cluster.estimator.operations import Ints, RawOperations
from cluster.estimator.template_tape import BLOCK_BYTES, TERMS, round_up

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS, GRADIENTS, OPTIMIZER, ACTIVATIONS, LOGITS, WORKSPACE = TERMS


@dataclasses.dataclass(frozen=True, kw_only=True)
class RawTape:
    """A section of a trace at one shape; see template_tape.Tape for its events.

    Attributes:
        sizes: (n) requested bytes of each block.
        terms: (n) index into TERMS.
        events: (m) block + 1 where it is allocated, -(block + 1) where it is released.
        phase_starts: Index of the first event of each phase.
        phases: Their names.
        operations: What was computed meanwhile, in the same phases.
    """

    sizes: Ints
    terms: npt.NDArray[np.int8]
    events: npt.NDArray[np.int32]
    phase_starts: npt.NDArray[np.int32]
    phases: tuple[str, ...]
    operations: RawOperations = dataclasses.field(default_factory=lambda: OperationLog().raw())

    @property
    def peak_bytes(self) -> int:
        """Peak bytes of this section's blocks, each rounded as in torch."""
        rounded = round_up(self.sizes, BLOCK_BYTES)
        steps = np.sign(self.events) * rounded[np.abs(self.events) - 1]
        return int(np.cumsum(steps).max(initial=0))


@dataclasses.dataclass(slots=True)
class _Section:
    name: str
    first_block: int
    events: list[int] = dataclasses.field(default_factory=list)
    phases: list[tuple[str, int]] = dataclasses.field(default_factory=list)
    operations: OperationLog = dataclasses.field(default_factory=OperationLog)


class Recorder:
    """Records allocations and releases; one section is open at a time.

    Attributes:
        held_bytes: Current bytes of all sections together, each block rounded as in torch.
        peak_bytes: Peak of held_bytes since the start of the current section.
        operations: Number of tensor operations.
        phase: Name of the current phase.
    """

    def __init__(self, *, vocabulary: int) -> None:
        self._vocabulary = vocabulary
        self._sizes: list[int] = []
        self._terms: list[str] = []
        self._sections: list[_Section] = []
        self._parameter_shapes: frozenset[tuple[int, ...]] = frozenset()
        self._live: dict[int, tuple[int, Callable[[], object]]] = {}
        self.held_bytes = 0
        self.peak_bytes = 0
        self.operations = 0
        self.phase = ""

    def open_section(self, name: str) -> None:
        """Starts a section and ends the one before."""
        self._sections.append(_Section(name=name, first_block=len(self._sizes)))
        self.phase = ""
        self.peak_bytes = self.held_bytes

    def enter_phase(self, name: str) -> None:
        """Starts a phase of the open section."""
        if name != self.phase:
            section = self._sections[-1]
            section.phases.append((name, len(section.events)))
            section.operations.phase_starts.append(len(section.operations.counted))
            self.phase = name

    def know_parameters(self, shapes: Iterable[tuple[int, ...]]) -> None:
        """Sets the shapes of parameters: copies with these shapes are weights, in the backward pass gradients."""
        self._parameter_shapes = frozenset(shape for shape in shapes if len(shape) > 1)

    def saw(self, outputs: Iterable["Tensor"], workspace_bytes: int) -> None:
        """Records an operation's outputs.

        Args:
            outputs: Tensors; those with a known storage are views or in place.
            workspace_bytes: The kernel's memory beside its outputs, released at its end.
        """
        self.operations += 1
        for tensor in outputs:
            if tensor.device.type == "meta":
                self._track(tensor)
        if workspace_bytes:
            block = self._allocate(workspace_bytes, WORKSPACE)
            self._release(block)

    def counted(self, operation: Counted) -> None:
        """Records what an operation computes and moves."""
        self._sections[-1].operations.counted.append(operation)

    def mark_kept(self, section: str, term: str) -> None:
        """Sets the purpose of the blocks that a section has allocated and still holds."""
        begin, end = self._block_range(section)
        for block, _ in self._live.values():
            if begin <= block < end:
                self._terms[block] = term

    def tape(self, name: str) -> RawTape:
        """Returns a section, without its releases of blocks that an earlier section has allocated.

        The optimizer's later steps have such releases, where a state is replaced (Adafactor's scalars); without them
        the section is slightly overestimated.
        """
        section = next(section for section in self._sections if section.name == name)
        begin, end = self._block_range(name)
        all_events = np.array(section.events, dtype=np.int64)
        own = np.abs(all_events) > begin
        events = all_events[own]
        own_before = np.concatenate([[0], np.cumsum(own)])
        return RawTape(
            sizes=np.array(self._sizes[begin:end], dtype=np.int64),
            terms=np.array([TERMS.index(term) for term in self._terms[begin:end]], dtype=np.int8),
            events=(events - np.sign(events) * begin).astype(np.int32),
            phase_starts=own_before[[start for _, start in section.phases]].astype(np.int32),
            phases=tuple(phase for phase, _ in section.phases),
            operations=section.operations.raw(),
        )

    def live_sizes(self, section: str) -> Ints:
        """Returns the sizes of blocks that a section has allocated and still holds, in order of allocation."""
        begin, end = self._block_range(section)
        blocks = sorted(block for block, _ in self._live.values() if begin <= block < end)
        return np.array([self._sizes[block] for block in blocks], dtype=np.int64)

    def stop(self) -> None:
        """Drops every storage that is still held."""
        for _, forget in self._live.values():
            forget()
        self._live.clear()

    def _block_range(self, name: str) -> tuple[int, int]:
        index = next(i for i, section in enumerate(self._sections) if section.name == name)
        last = index + 1 == len(self._sections)
        return self._sections[index].first_block, len(self._sizes) if last else self._sections[index + 1].first_block

    def _track(self, tensor: "Tensor") -> None:
        storage = tensor.untyped_storage()
        key = storage_key(storage)
        size = storage.nbytes()
        if key in self._live or not size:
            return
        block = self._allocate(size, self._term(tensor))
        finalizer = weakref.finalize(storage, self._dead, key)
        finalizer.atexit = False
        self._live[key] = (block, finalizer.detach)

    def _dead(self, key: int) -> None:
        block, _ = self._live.pop(key)
        self._release(block)

    def _allocate(self, size_bytes: int, term: str) -> int:
        self._sizes.append(size_bytes)
        self._terms.append(term)
        self._sections[-1].events.append(len(self._sizes))
        self.held_bytes += round_up(size_bytes, BLOCK_BYTES)
        self.peak_bytes = max(self.peak_bytes, self.held_bytes)
        return len(self._sizes) - 1

    def _release(self, block: int) -> None:
        self._sections[-1].events.append(-block - 1)
        self.held_bytes -= round_up(self._sizes[block], BLOCK_BYTES)

    def _term(self, tensor: "Tensor") -> str:
        if self.phase in ("load", "optimizer"):
            return WEIGHTS if self.phase == "load" else WORKSPACE
        shape = tuple(tensor.shape)
        if shape in self._parameter_shapes or shape[::-1] in self._parameter_shapes:
            return GRADIENTS if self.phase == "backward" else WEIGHTS
        wide = len(shape) > 1 and shape[-1] == self._vocabulary
        return LOGITS if wide and tensor.is_floating_point() else ACTIVATIONS


def watching(
    recorder: Recorder, workspace: Callable[[str, tuple[object, ...]], int]
) -> "AbstractContextManager[object]":
    """Returns a dispatch mode that passes every operation's outputs to a recorder.

    Args:
        recorder: Records them.
        workspace: Returns the workspace bytes of a kernel, from its name and arguments.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    count = counter()

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own base is not typed
        def __torch_dispatch__(
            self,
            func: Callable[..., object],
            types: object,
            args: tuple[object, ...] = (),
            kwargs: dict[str, object] | None = None,
        ) -> object:
            outputs = func(*args, **(kwargs or {}))
            packet = getattr(func, "overloadpacket", None)
            name = packet.__name__ if packet is not None else ""
            found = [outputs] if isinstance(outputs, torch.Tensor) else tree_leaves(outputs)
            tensors = [leaf for leaf in found if isinstance(leaf, torch.Tensor)]
            counted = count(func, name, args, kwargs or {}, outputs, tensors)
            if counted is not None:
                recorder.counted(counted)
            recorder.saw(tensors, workspace(name, args))
            return outputs

    return Watch()  # type: ignore[no-untyped-call]
