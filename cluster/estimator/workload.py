"""The protocol of traced jobs: a model with one training step, evaluation and generation.

The training package implements it with the functions of its trainer, so that an estimate is of the code that runs.
Must not import torch at the top.
"""

import importlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

Region = Callable[[], "AbstractContextManager[object]"]
"""Makes a context manager, for example one in which operations are cast."""
OnForward = Callable[[int], None]
"""Called with the number of each forward pass of a generation, from 0; may raise to end the generation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """The sizes of one trace.

    Attributes:
        batch: Samples in one forward pass.
        encoder_len: Tokens of the input; for a causal model those of the prompt.
        decoder_len: Tokens of the summary, with padding; in a generation the new tokens.
        beams: Beams of the generation; 1 is greedy.
    """

    batch: int
    encoder_len: int
    decoder_len: int
    beams: int = 1


class Workload(Protocol):
    """A training job for the tracer. It creates every tensor on the current default device."""

    @property
    def causal(self) -> bool:
        """Whether prompt and summary are one sequence (decoder only)."""
        ...

    @property
    def precision(self) -> str:
        """fp32, fp16 or bf16."""
        ...

    @property
    def vocabulary(self) -> int:
        """Width of the logits, which identifies them among activations."""
        ...

    def build_model(self, autocast: Region, recompute: Region) -> "nn.Module":
        """Builds the model in training mode, without weights.

        Args:
            autocast: Context of its forward pass, as in the trainer.
            recompute: Context of the recomputation of a checkpointed layer in the backward pass.
        """
        ...

    def build_optimizer(self, model: "nn.Module") -> "Optimizer":
        """Builds the optimizer; its states are made in its first step."""
        ...

    def batch(self, shape: Shape) -> Mapping[str, "Tensor"]:
        """Makes one micro-batch."""
        ...

    def loss(self, model: "nn.Module", batch: Mapping[str, "Tensor"]) -> "Tensor":
        """Runs the forward pass and returns the loss, scaled for the backward pass."""
        ...

    def optimizer_step(self, model: "nn.Module", optimizer: "Optimizer") -> None:
        """Clips the gradients and steps; the gradients stay."""
        ...

    def evaluate(self, model: "nn.Module", shape: Shape) -> None:
        """Computes the loss of one batch without gradients."""
        ...

    def generate(self, model: "nn.Module", shape: Shape, on_forward: OnForward) -> None:
        """Writes `decoder_len` new tokens for one batch."""
        ...


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Describes how another process builds a workload, by name, so that this package imports none.

    Attributes:
        factory: "module:callable", for example "dialsum.workload:summarizer_workload".
        settings: Keyword arguments of the callable; JSON values only.
    """

    factory: str
    settings: Mapping[str, object] = field(default_factory=dict)

    def make(self) -> Workload:
        """Imports the factory and calls it."""
        module, _, name = self.factory.partition(":")
        made: Workload = getattr(importlib.import_module(module), name)(**self.settings)
        return made
