"""Runs a workload on meta tensors and records its allocations on a GPU, without weights or a GPU, in about a second.

Must not import torch at the top.
"""

import gc
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from cluster.estimator.cuda_imitation import Autocast, KernelFamily, imitation, kernel_workspace_bytes
from cluster.estimator.operations import Ints, RawOperations
from cluster.estimator.template import EventLog
from cluster.estimator.trace_recorder import GRADIENTS, OPTIMIZER, RawTape, Recorder, watching
from cluster.estimator.workload import Region, Shape, Workload

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

Part = Literal["train", "optimizer", "evaluate", "greedy", "beam"]
ALL_PARTS: tuple[Part, ...] = ("train", "optimizer", "evaluate", "greedy", "beam")


@dataclass(frozen=True, kw_only=True)
class Trace:
    """The allocations of a workload at one shape.

    Attributes:
        shape: The shape.
        weight_bytes: Sizes of parameters and buffers, one per block.
        model_parameters: Elements of all parameters, a tied one once.
        operations: Tensor operations of one forward and backward pass; 0 where training was not traced.
        tapes: By name: first and later (micro-steps), optimizer_first, optimizer_later, evaluate, greedy, beam.
    """

    shape: Shape
    weight_bytes: Ints
    model_parameters: int
    operations: int
    tapes: Mapping[str, RawTape]


@dataclass(frozen=True, kw_only=True)
class TracedPeaks:
    """Peak bytes of a workload in its trainer's order.

    Attributes:
        train: Over optimizer steps.
        evaluate: Loss of one batch after them.
        generate: Summaries of one batch after that.
    """

    train: int
    evaluate: int
    generate: int


class Program(Protocol):
    """A program with published memory measurements, see trace_program. Its tensors are on the default device."""

    def build(self, recompute: Region) -> "nn.Module":
        """Builds the model; `recompute` is for gradient checkpointing, as in Workload.build_model."""
        ...

    def run(self, model: "nn.Module", autocast: Region) -> None:
        """Runs its steps."""
        ...


def trace(workload: Workload, shape: Shape, *, family: KernelFamily, parts: tuple[Part, ...] = ALL_PARTS) -> Trace:
    """Traces parts of a workload, each with only the weights (some also gradients and states) in memory.

    Args:
        workload: The workload.
        shape: Batch, lengths and beams; a generation runs `decoder_len` forward passes.
        family: Which attention kernels the GPU prefers.
        parts: The parts to trace.
    """
    names: list[str] = []
    operations = 0
    with _stage(workload, family) as stage:
        if "train" in parts:
            stage.micro_step("first", shape)
            operations = stage.recorder.operations
            stage.recorder.mark_kept("first", GRADIENTS)
            stage.micro_step("later", shape)
            names += ["first", "later"]
        if "optimizer" in parts:
            stage.make_gradients()
            stage.optimizer_step("optimizer_first")
            stage.recorder.mark_kept("optimizer_first", OPTIMIZER)
            stage.optimizer_step("optimizer_later")
            names += ["optimizer_first", "optimizer_later"]
        stage.drop_gradients()
        if "evaluate" in parts:
            stage.evaluate("evaluate", shape)
            names.append("evaluate")
        if "greedy" in parts:
            stage.generate("greedy", replace(shape, beams=1))
            names.append("greedy")
        if "beam" in parts:
            stage.generate("beam", shape)
            names.append("beam")
        return Trace(
            shape=shape,
            weight_bytes=stage.weight_bytes,
            model_parameters=stage.model_parameters,
            operations=operations,
            tapes={name: stage.recorder.tape(name) for name in names},
        )


def traced_peaks(
    workload: Workload,
    shape: Shape,
    *,
    family: KernelFamily,
    micro_steps: int = 1,
    steps: int = 2,
    generated: Shape | None = None,
) -> TracedPeaks:
    """Returns the peaks of optimizer steps, an evaluation and a generation in order, as a reference for templates.

    Args:
        workload: What is run.
        shape: Batch, lengths and beams.
        family: Which attention kernels the GPU prefers.
        micro_steps: Micro-batches per optimizer step.
        steps: Optimizer steps; states exist from the second on.
        generated: Sizes of the generation; None: those of shape.
    """
    with _stage(workload, family) as stage:
        train = stage.train(shape, micro_steps=micro_steps, steps=steps)
        stage.evaluate("evaluate", shape)
        evaluate = stage.recorder.peak_bytes
        stage.generate("generate", generated or shape)
        return TracedPeaks(train=train, evaluate=evaluate, generate=stage.recorder.peak_bytes)


class _StopGeneration(Exception):  # noqa: N818  # not an error
    """Ends a generation after its last required forward pass."""


class _Stage:
    """A model on meta tensors under the modes, and its steps."""

    def __init__(self, workload: Workload, recorder: Recorder, model: "nn.Module") -> None:
        self._workload = workload
        self._model = model
        self._optimizer: Optimizer | None = None
        self.recorder = recorder
        self.weight_bytes = recorder.live_sizes("load")
        self.model_parameters = sum(parameter.numel() for parameter in model.parameters())
        recorder.know_parameters([tuple(parameter.shape) for parameter in model.parameters()])
        recorder.operations = 0

    def micro_step(self, section: str, shape: Shape) -> None:
        """Forward and backward pass of one micro-batch."""
        self._begin(section, "forward", training=True)
        batch = self._workload.batch(shape)
        loss = self._workload.loss(self._model, batch)
        self.recorder.enter_phase("backward")
        loss.backward()  # type: ignore[no-untyped-call]
        del loss, batch

    def make_gradients(self) -> None:
        """Creates the missing gradients of parameters."""
        import torch

        self._begin("gradients", "backward", training=True)
        for parameter in self._model.parameters():
            if parameter.requires_grad and parameter.grad is None:
                parameter.grad = torch.empty_like(parameter)

    def drop_gradients(self) -> None:
        """Sets gradients to None, as the trainer does after each step."""
        self._begin("zero", "optimizer", training=True)
        for parameter in self._model.parameters():
            parameter.grad = None

    def optimizer_step(self, section: str) -> None:
        """Runs an optimizer step; the first one builds the optimizer and its states."""
        self._begin(section, "optimizer", training=True)
        if self._optimizer is None:
            self._optimizer = self._workload.build_optimizer(self._model)
        self._workload.optimizer_step(self._model, self._optimizer)

    def train(self, shape: Shape, *, micro_steps: int, steps: int) -> int:
        """Runs whole optimizer steps and returns their peak bytes."""
        found = []
        for step in range(steps):
            for micro_step in range(micro_steps):
                self.micro_step(f"step {step} {micro_step}", shape)
                found.append(self.recorder.peak_bytes)
            self.optimizer_step(f"optimizer {step}")
            found.append(self.recorder.peak_bytes)
            self.drop_gradients()
        return max(found)

    def evaluate(self, section: str, shape: Shape) -> None:
        """Loss without gradients."""
        self._begin(section, "forward", training=False)
        self._workload.evaluate(self._model, shape)

    def generate(self, section: str, shape: Shape) -> None:
        """Generation of `decoder_len` forward passes; one phase each, and one for the releases at the end."""
        self._begin(section, "start", training=False)

        def on_forward(number: int) -> None:
            self.recorder.enter_phase(f"pass {number}" if number < shape.decoder_len else "end")
            if number >= shape.decoder_len:
                raise _StopGeneration

        try:
            self._workload.generate(self._model, shape, on_forward)
        except _StopGeneration as stop:
            stop.__traceback__ = None  # its frames hold the generation's tensors

    def _begin(self, section: str, phase: str, *, training: bool) -> None:
        self.recorder.open_section(section)
        self.recorder.enter_phase(phase)
        self._model.train(training)


@contextmanager
def _stage(workload: Workload, family: KernelFamily) -> Iterator[_Stage]:
    with _recording(workload.precision, family, workload.vocabulary) as recording:
        recording.recorder.open_section("load")
        recording.recorder.enter_phase("load")
        model = workload.build_model(recording.autocast, recording.recompute)
        stage = _Stage(workload, recording.recorder, model)
        with recording.cuda:
            yield stage


def trace_program(program: Program, *, family: KernelFamily, precision: str = "fp32") -> EventLog:
    """Runs a whole program on meta tensors and returns every allocation and release of it, for a replay.

    For measurements of other programs than our trainer.

    Args:
        program: The program.
        family: Which attention kernels the GPU prefers.
        precision: Format of its autocast region: fp16 or bf16; fp32 casts nothing.
    """
    with _recording(precision, family, vocabulary=0) as recording:
        recording.recorder.open_section("program")
        recording.recorder.enter_phase("program")
        model = program.build(recording.recompute)
        with recording.cuda:
            program.run(model, recording.autocast)
        tape = recording.recorder.tape("program")
    sizes = np.where(tape.events > 0, tape.sizes[np.abs(tape.events) - 1], 0)
    return EventLog(ids=tape.events.astype(np.int64), sizes=sizes)


def program_operations(program: Program, *, family: KernelFamily, precision: str = "fp32") -> RawOperations:
    """Returns what a program computes and moves in all its steps, without building its model; see trace_program."""
    with _recording(precision, family, vocabulary=0) as recording:
        recorder = recording.recorder
        recorder.open_section("load")
        recorder.enter_phase("load")
        model = program.build(recording.recompute)
        recorder.open_section("program")
        recorder.enter_phase("program")
        with recording.cuda:
            program.run(model, recording.autocast)
        return recorder.tape("program").operations


@dataclass(frozen=True, kw_only=True)
class _Recording:
    """The context of a traced run.

    Attributes:
        recorder: Receives every allocation.
        autocast: The region in which operations are cast.
        recompute: Context of the recomputation of a checkpointed layer, as the backward pass runs outside of the mode.
        cuda: The mode that imitates CUDA's choices.
    """

    recorder: Recorder
    autocast: Region
    recompute: Region
    cuda: AbstractContextManager[object]


@contextmanager
def _recording(precision: str, family: KernelFamily, vocabulary: int) -> Iterator[_Recording]:
    import torch

    autocast = Autocast(precision)
    recorder = Recorder(vocabulary=vocabulary)
    cuda = imitation(autocast, family)

    @contextmanager
    def recompute() -> Iterator[None]:
        with cuda, autocast.region():
            yield

    gc.collect()
    gc.disable()  # releases come from reference counts alone, so that a trace is the same every time
    try:
        with watching(recorder, kernel_workspace_bytes), torch.device("meta"):
            yield _Recording(recorder=recorder, autocast=autocast.region, recompute=recompute, cuda=cuda)
    finally:
        recorder.stop()
        gc.enable()
