"""A template: the device bytes of one training job as an exact function of batch and lengths.

Built once from a few traces (template_fit), stored as a file (template_file), evaluated in microseconds. Imports numpy
only.
"""

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import Literal, overload

import numpy as np

from cluster.estimator.operations import Floats, Ints
from cluster.estimator.template_tape import BLOCK_BYTES, Tape, atom_values, round_up
from tuning_common.errors import RequestError

Routine = Literal["train", "evaluate", "generate"]
ROUTINES: tuple[Routine, ...] = ("train", "evaluate", "generate")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TemplateKey:
    """Everything except batch and lengths that changes a job's memory.

    Attributes:
        model: sha256 of the model's configuration, see model_hash; tied and untied heads differ.
        precision: fp32, fp16 or bf16.
        optimizer: Name of the optimizer.
        attention: sdpa or eager.
        gradient_checkpointing: Whether activations are computed again in the backward pass.
        dropout: Whether any dropout is above 0.
        label_smoothing: Whether it is above 0.
        accumulation: Whether an optimizer step has more than one micro-batch.
        kernels: Which attention kernels the GPU prefers, see cuda_imitation.kernel_family.
        torch: Version of torch, without the build ("2.13.0").
        transformers: Version of transformers.
        no_repeat_ngrams: Whether the generation forbids repetitions, which takes a copy of the scores.
        window: Sides of the attention window, see template_keys.window_sides; empty without one.
        sizes: The only valid sizes, see template_keys.ExactSizes; empty where all sizes are valid.
    """

    model: str
    precision: str
    optimizer: str
    attention: str
    gradient_checkpointing: bool
    dropout: bool
    label_smoothing: bool
    accumulation: bool
    kernels: str
    torch: str
    transformers: str
    no_repeat_ngrams: bool = False
    window: str = ""
    sizes: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoutinePeak:
    """The memory peak of a routine.

    Attributes:
        allocated_bytes: Torch's bytes for tensors at the peak; never below the traced count.
        phase: forward, backward, optimizer, prefill or decode.
        terms: The same bytes by purpose, with every name of TERMS; the sum is allocated_bytes.
    """

    allocated_bytes: int
    phase: str
    terms: dict[str, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EventLog:
    """Allocations and releases in order, for a replay.

    Attributes:
        ids: A positive number for the allocation of a block, the same number negative for its release.
        sizes: Requested bytes; 0 at a release.
    """

    ids: Ints
    sizes: Ints


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainTapes:
    """One optimizer step: micro-steps, then the optimizer.

    Attributes:
        first: The first micro-step, whose gradients stay until the optimizer's step.
        later: Any further micro-step, which adds to those gradients.
        optimizer_first: The optimizer's first step, which creates its states.
        optimizer_later: Any further step.
    """

    first: Tape
    later: Tape
    optimizer_first: Tape
    optimizer_later: Tape


@dataclasses.dataclass(frozen=True, kw_only=True)
class Template:
    """The memory of all jobs of one key.

    Attributes:
        key: The jobs for which it is valid.
        model_parameters: Elements of all parameters, a tied one once.
        operations: Tensor operations of one forward and backward pass.
        weight_bytes: Sizes of parameters and buffers, one per block.
        train: Tapes of training.
        evaluate: Tape of the loss without gradients.
        greedy: Tape of a generation with one beam.
        beam: Tape of a generation with several.
        source: Source of the template: "shipped", a file, "traced now".
    """

    key: TemplateKey
    model_parameters: int
    operations: int
    weight_bytes: Ints
    train: TrainTapes
    evaluate: Tape
    greedy: Tape
    beam: Tape
    source: str

    @overload
    def allocated_bytes(
        self, batch: int, encoder_len: int, decoder_len: int, *, routine: Routine = "train", beams: int = 1
    ) -> int: ...

    @overload
    def allocated_bytes(
        self, batch: Ints, encoder_len: Ints, decoder_len: Ints, *, routine: Routine = "train", beams: int = 1
    ) -> Ints: ...

    def allocated_bytes(
        self,
        batch: int | Ints,
        encoder_len: int | Ints,
        decoder_len: int | Ints,
        *,
        routine: Routine = "train",
        beams: int = 1,
    ) -> int | Ints:
        """Returns the peak of torch's allocated bytes in a routine, including the optimizer's states.

        Args:
            batch: Samples in one forward pass (the micro-batch, or the generation's batch); a number, or an array of
                int64 with one entry per query (then all three are arrays of one length).
            encoder_len: Tokens of the longest dialogue, with padding; for a causal model those of the prompt.
            decoder_len: Tokens of the longest summary; for a generation the new tokens.
            routine: train, evaluate (loss of a dev batch) or generate (summaries of a dev batch).
            beams: Beams of the generation.

        Returns:
            Bytes; never below the tracer's count for the same sizes.

        Raises:
            RequestError: When a number is below 1.
        """
        if isinstance(batch, int) and isinstance(encoder_len, int) and isinstance(decoder_len, int):
            return self._fullest(batch, encoder_len, decoder_len, routine, beams)[0]
        sizes = [np.asarray(size, dtype=np.int64) for size in (batch, encoder_len, decoder_len)]
        _check(min(int(size.min(initial=1)) for size in sizes), beams)
        atoms = atom_values(sizes[0], beams, sizes[1], sizes[2])
        tapes = self._tapes(routine, beams)
        held = [tape.rows.peak_bytes(tape.values(atoms)) + base for tape, base in tapes]
        answer: Ints = np.max(held, axis=0)
        return np.maximum(answer, self._optimizer_peak_bytes) if routine == "train" else answer

    def peak(
        self, batch: int, encoder_len: int, decoder_len: int, *, routine: Routine = "train", beams: int = 1
    ) -> RoutinePeak:
        """Returns the peak with its phase and terms; arguments as for allocated_bytes."""
        allocated_bytes, index, event = self._fullest(batch, encoder_len, decoder_len, routine, beams)
        atoms = atom_values(batch, beams, encoder_len, decoder_len)
        if index < 0:
            tape = self.train.optimizer_later
            terms = tape.terms_at(event, atoms)
            terms["gradients"] += self.gradient_bytes
        else:
            tape = self._tapes(routine, beams)[index][0]
            terms = tape.terms_at(event, atoms)
            if routine == "train" and index == 1:
                terms["gradients"] += self.gradient_bytes
        terms["weights"] += self._weights
        terms["optimizer"] += self.state_bytes
        terms["workspace"] += allocated_bytes - sum(terms.values())  # rounding
        return RoutinePeak(allocated_bytes=allocated_bytes, phase=tape.phase_at(event), terms=terms)

    def terms(
        self, batch: int, encoder_len: int, decoder_len: int, *, routine: Routine = "train", beams: int = 1
    ) -> dict[str, int]:
        """Returns the bytes at the peak by term; the sum is allocated_bytes of the same arguments."""
        return self.peak(batch, encoder_len, decoder_len, routine=routine, beams=beams).terms

    def peak_phase(
        self, batch: int, encoder_len: int, decoder_len: int, *, routine: Routine = "train", beams: int = 1
    ) -> str:
        """Returns the phase of the peak: forward, backward, optimizer, prefill or decode."""
        return self.peak(batch, encoder_len, decoder_len, routine=routine, beams=beams).phase

    def events(
        self,
        shapes: Sequence[tuple[int, int, int]],
        *,
        micro_steps: int | None = None,
        generate: Sequence[tuple[int, int, int]] = (),
        beams: int = 1,
    ) -> EventLog:
        """Returns the requests to an allocator: the weights, then optimizer steps, then generations.

        Args:
            shapes: (batch, encoder_len, decoder_len) of each micro-batch in order.
            micro_steps: Micro-batches per optimizer step; 2 for a key with accumulation, else 1, when None.
            generate: (batch, encoder_len, new tokens) of each batch that is summarized after training.
            beams: Of the generation.
        """
        script = _Script()
        script.add(self.weight_bytes)
        pieces = micro_steps or (2 if self.key.accumulation else 1)
        optimizer = self.train.optimizer_first
        for index, (batch, *lengths) in enumerate(shapes):
            atoms = atom_values(batch, 1, *lengths)
            begins = index % pieces == 0
            script.play(self.train.first if begins else self.train.later, atoms, keep="step")
            if index % pieces == pieces - 1 or index == len(shapes) - 1:
                # A later step replaces a state by one of the same size: count the old one.
                script.play(optimizer, atoms, keep="always" if optimizer is self.train.optimizer_first else "step")
                script.release("step")
                optimizer = self.train.optimizer_later
        for batch, *lengths in generate:
            tape = self.greedy if beams == 1 else self.beam
            script.play(tape, atom_values(batch, beams, *lengths), keep="generation")
            script.release("generation")
        return script.log()

    def _tapes(self, routine: Routine, beams: int) -> list[tuple[Tape, int]]:
        """Returns the tapes that may have the peak, each with the bytes held in addition."""
        base = self._weights + self.state_bytes
        if routine == "evaluate":
            return [(self.evaluate, base)]
        if routine == "generate":
            return [(self.greedy if beams == 1 else self.beam, base)]
        tapes = [(self.train.first, base)]
        return [*tapes, (self.train.later, base + self.gradient_bytes)] if self.key.accumulation else tapes

    def _fullest(
        self, batch: int, encoder_len: int, decoder_len: int, routine: Routine, beams: int
    ) -> tuple[int, int, int]:
        """Returns the peak bytes, the index of their tape (-1: the optimizer's) and the event before them."""
        _check(min(batch, encoder_len, decoder_len), beams)
        atoms = atom_values(batch, beams, encoder_len, decoder_len)
        found = []
        for index, (tape, base) in enumerate(self._tapes(routine, beams)):
            held, event = tape.rows.fullest(tape.values(atoms))
            found.append((held + base, index, event))
        if routine == "train":
            found.append((self._optimizer_peak_bytes, -1, self._optimizer_peak_event))
        return max(found)

    @cached_property
    def _weights(self) -> int:
        return int(round_up(self.weight_bytes, BLOCK_BYTES).sum())

    @cached_property
    def state_bytes(self) -> int:
        """Bytes of the optimizer's states."""
        tape = self.train.optimizer_first
        return int(tape.block_bytes(_NO_SIZES)[tape.kept].sum())

    @cached_property
    def gradient_bytes(self) -> int:
        """Bytes of the gradients, which the first micro-step keeps."""
        tape = self.train.first
        return int(tape.block_bytes(_NO_SIZES)[tape.kept].sum())

    @cached_property
    def _optimizer_peak(self) -> tuple[int, int]:
        tape = self.train.optimizer_later
        held, event = tape.rows.fullest(tape.values(_NO_SIZES))
        return held + self._weights + self.state_bytes + self.gradient_bytes, event

    @property
    def _optimizer_peak_bytes(self) -> int:
        return self._optimizer_peak[0]

    @property
    def _optimizer_peak_event(self) -> int:
        return self._optimizer_peak[1]


_NO_SIZES: Floats = atom_values(1, 1, 1, 1)  # for blocks of constant size


class _Script:
    """Concatenates tapes, with unique block numbers."""

    def __init__(self) -> None:
        self._ids: list[Ints] = []
        self._sizes: list[Ints] = []
        self._next = 1
        self._held: dict[str, list[Ints]] = {}

    def add(self, sizes: Ints) -> None:
        """Allocates blocks that are never released."""
        self._ids.append(np.arange(self._next, self._next + len(sizes), dtype=np.int64))
        self._sizes.append(sizes)
        self._next += len(sizes)

    def play(self, tape: Tape, atoms: Floats, *, keep: str) -> None:
        """Appends a tape; the blocks that it keeps are stored under a name for release."""
        exact = np.rint(tape.block_coefficient * tape.values(atoms)[tape.block_product]).astype(np.int64)
        events = tape.events.astype(np.int64)
        self._ids.append(np.where(events > 0, events + self._next - 1, events - self._next + 1))
        self._sizes.append(np.where(events > 0, exact[np.abs(events) - 1], 0))
        self._held.setdefault(keep, []).append(np.flatnonzero(tape.kept) + self._next)
        self._next += len(tape.block_product)

    def release(self, name: str) -> None:
        """Releases the blocks that are stored under a name."""
        for ids in self._held.pop(name, []):
            self._ids.append(-ids)
            self._sizes.append(np.zeros_like(ids))

    def log(self) -> EventLog:
        """Returns all events in order."""
        return EventLog(ids=np.concatenate(self._ids), sizes=np.concatenate(self._sizes))


def _check(smallest: int, beams: int) -> None:
    if smallest < 1 or beams < 1:
        raise RequestError(f"batch, lengths and beams must be at least 1, but one is {min(smallest, beams)}")
