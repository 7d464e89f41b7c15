"""Seconds of a training step, an evaluation batch and a generation batch, from the same traces as the bytes. Pure.

A prediction for the longest texts: a batch of shorter dialogues is quicker, and a generation may end early.
"""

from dataclasses import dataclass

from cluster.estimator.operations import Floats, Operations, Seconds
from cluster.estimator.request import MemoryRequest
from cluster.estimator.roofline import Roofline
from cluster.estimator.template import Template
from cluster.estimator.template_tape import Tape, atom_values


@dataclass(frozen=True, kw_only=True)
class StepSeconds:
    """How long the parts of a run take on one device.

    Attributes:
        step: One optimizer step, all its micro-batches included.
        evaluate: The loss of as many dev dialogues as are summarized together.
        generate: Their summaries.
        source: Where the device's numbers come from.
    """

    step: Seconds
    evaluate: Seconds
    generate: Seconds
    source: str

    @property
    def busy(self) -> float:
        """Part of a training step's time in which the device works."""
        return self.step.device_s / self.step.total_s if self.step.total_s else 0.0


def predict_seconds(template: Template, request: MemoryRequest, roofline: Roofline) -> StepSeconds | None:
    """Predicts the seconds of a run's parts.

    Args:
        template: Of the request.
        request: Batch and lengths.
        roofline: The device.

    Returns:
        None where the template has no operations.
    """
    if not template.train.first.operations:
        return None
    train = atom_values(request.micro_batch, 1, *request.padded_lengths)
    step = _sum(template.train.first, train, roofline)
    step = step.plus(_sum(template.train.later, train, roofline), request.gradient_accumulation_steps - 1)
    step = step + _sum(template.train.optimizer_later, train, roofline)
    evaluate = atom_values(request.loss_batch, 1, *request.padded_lengths)
    passes = request.generation_batch_size / request.loss_batch
    return StepSeconds(
        step=step,
        evaluate=Seconds().plus(_sum(template.evaluate, evaluate, roofline), passes),
        generate=_generation(template, request, roofline),
        source=roofline.source,
    )


def _sum(tape: Tape, atoms: Floats, roofline: Roofline) -> Seconds:
    total = Seconds()
    for operations in tape.operations:
        total = total + operations.seconds(atoms, roofline)
    return total


def _generation(template: Template, request: MemoryRequest, roofline: Roofline) -> Seconds:
    """The prompt's pass, then a pass for every further token: its work grows in proportion to the tokens before it."""
    beams, tokens = request.num_beams, request.new_tokens
    tape = template.greedy if beams == 1 else template.beam

    def seconds(operations: Operations, new_tokens: int) -> Seconds:
        atoms = atom_values(request.generation_batch_size, beams, request.encoder_max_len, new_tokens)
        return operations.seconds(atoms, roofline)

    prefill, decode = tape.operations
    first, last = seconds(decode, 2), seconds(decode, max(2, tokens))
    half = (tokens - 1) / 2
    return seconds(prefill, 1).plus(first, half).plus(last, half)
