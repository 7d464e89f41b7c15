"""The loss of one training step: one function for the trainer and for the memory tracer.

A model's own loss computes scores over the vocabulary for every position, prompt and padding included, and holds up to
three more copies of them. Here the output head sees only positions whose label counts, and cross-entropy overwrites
their scores with its gradient: one copy. The value is the same within the rounding of fp32.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

IGNORED_LABEL = -100  # positions without loss: padding and the prompt of a causal model
OTHER_LOSS = ("prophetnet",)  # its own loss is over several future tokens


def forward_loss(model: nn.Module, batch: Mapping[str, Tensor], *, label_smoothing: float, causal: bool) -> Tensor:
    """Runs the model on one micro-batch and returns its loss.

    Without smoothing it is the model's own cross-entropy. With it, the value is that of transformers' LabelSmoother
    (transformers 5.23, trainer_pt_utils.py): all tokens share `label_smoothing` of the probability.

    Args:
        model: A Hugging Face causal or seq2seq language model.
        batch: `input_ids` and `attention_mask` (batch, encoder length), `labels` (batch, decoder length), `positions`
            (see counted_positions); a causal model has labels of the same length as its input.
        label_smoothing: Probability taken from the right token, 0 to 1.
        causal: Whether labels are shifted by one position against the logits.

    Returns:
        The mean loss over positions whose label is not -100; a scalar. Of no position it is 0.
    """
    inputs = dict(batch)
    labels, positions = inputs.pop("labels"), inputs.pop("positions")
    inner: PreTrainedModel = getattr(model, "module", model)  # a data-parallel wrapper hides the model's methods
    if not label_smoothing and has_other_loss(inner.config):
        return _other_loss(model, inputs, labels, is_empty=len(positions) == 0)
    if not causal:  # without labels the model does not create the decoder's input
        inputs["decoder_input_ids"] = shifted_right(inner, labels)
    with _head_at(inner, positions):
        scores: Tensor = model(**inputs, use_cache=False)["logits"]
    if scores.shape[:2] != (1, len(positions)):  # this model does not call its head as a module
        scores = scores.flatten(0, 1).index_select(0, positions).unsqueeze(0)
    targets = labels.flatten().index_select(0, positions + 1 if causal else positions)
    return cross_entropy_in_place(scores.squeeze(0).float(), targets, label_smoothing)


def has_other_loss(config: "PretrainedConfig") -> bool:
    """Returns whether a model's own loss is more than the cross-entropy of the next token.

    Experts may add a term for their balance, and Bamba one for the size of its scores.

    >>> from transformers import MixtralConfig
    >>> has_other_loss(MixtralConfig()), has_other_loss(MixtralConfig(output_router_logits=True))
    (False, True)
    """
    terms = ("output_router_logits", "z_loss_coefficient")
    return config.model_type in OTHER_LOSS or any(getattr(config, name, None) for name in terms)


def _other_loss(model: nn.Module, inputs: Mapping[str, Tensor], labels: Tensor, *, is_empty: bool) -> Tensor:
    """Returns the model's own loss; of no position 0, where its mean would be no number."""
    loss: Tensor = model(**inputs, labels=labels.clamp(min=0) if is_empty else labels, use_cache=False)["loss"]
    return loss * 0 if is_empty else loss


def counted_positions(labels: Tensor, *, causal: bool) -> Tensor:
    """Returns the flat positions of the model's output whose label counts.

    Made on the host with the batch: on a GPU it would wait for all kernels before it.

    Args:
        labels: (batch, length), -100 where a position does not count.
        causal: Whether a position predicts the label of the next one.

    >>> counted_positions(torch.tensor([[-100, 5, 6], [7, 8, -100]]), causal=True).tolist()
    [0, 1, 3]
    >>> counted_positions(torch.tensor([[-100, 5, 6], [7, 8, -100]]), causal=False).tolist()
    [1, 2, 3, 4]
    """
    if causal:
        labels = nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED_LABEL)
    return (labels.flatten() != IGNORED_LABEL).nonzero().squeeze(1)


def shifted_right(model: "PreTrainedModel", labels: Tensor) -> Tensor:
    """Returns the decoder's input for labels, by the model's own rule or the usual one (start token, padding).

    Args:
        model: A seq2seq model.
        labels: (batch, decoder length).
    """
    # mBART looks for the last token of each row, which a filler lacks.
    labels = labels.masked_fill((labels == IGNORED_LABEL).all(1, keepdim=True), 0)
    prepare = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    if prepare is not None:
        made: Tensor = prepare(labels=labels)
        return made
    shifted = nn.functional.pad(labels[:, :-1], (1, 0), value=model.config.decoder_start_token_id)
    return shifted.masked_fill(shifted == IGNORED_LABEL, model.config.pad_token_id)


@contextmanager
def _head_at(model: "PreTrainedModel", positions: Tensor) -> Iterator[None]:
    """Lets the output head compute (1, positions, vocabulary) instead of (batch, length, vocabulary)."""

    def select(head: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if not arguments or arguments[0].dim() != 3:
            return None
        return (arguments[0].flatten(0, 1).index_select(0, positions).unsqueeze(0), *arguments[1:])

    head = model.get_output_embeddings()
    handle = head.register_forward_pre_hook(select) if head is not None else None
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()


def cross_entropy_in_place(scores: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
    """Returns the mean cross-entropy and destroys the scores; one backward pass is possible.

    Args:
        scores: (positions, vocabulary), fp32.
        targets: (positions).
        label_smoothing: 0 to 1.

    >>> round(cross_entropy_in_place(torch.zeros(1, 4), torch.tensor([2]), 0.1).exp().item(), 4)  # log 4
    4.0
    """
    loss: Tensor = _CrossEntropyInPlace.apply(scores, targets, label_smoothing)  # type: ignore[no-untyped-call]
    return loss


class _Context(FunctionCtx):
    """What the forward pass leaves to the backward pass."""

    exponentials: Tensor  # the scores' storage
    totals: Tensor
    targets: Tensor
    label_smoothing: float


class _CrossEntropyInPlace(torch.autograd.Function):
    """See cross_entropy_in_place. A fixed number of operations, so that its memory is a product of the sizes."""

    @staticmethod
    def forward(ctx: _Context, scores: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
        """Returns the loss; leaves the exponentials in the scores' storage."""
        index = targets.unsqueeze(1)
        expected = scores.gather(1, index) * (1 - label_smoothing)
        if label_smoothing:
            expected += scores.mean(1, keepdim=True) * label_smoothing
        highest = scores.amax(1, keepdim=True)
        totals = scores.sub_(highest).exp_().sum(1, keepdim=True)
        ctx.exponentials, ctx.totals, ctx.targets = scores.detach(), totals, index
        ctx.label_smoothing = label_smoothing
        return (totals.log() + highest - expected).sum() / max(len(scores), 1)

    @staticmethod
    def backward(ctx: _Context, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Turns the exponentials into the gradient."""
        scale = gradients[0] / max(len(ctx.targets), 1)
        gradient = ctx.exponentials.mul_(scale / ctx.totals)
        if ctx.label_smoothing:
            gradient.sub_(scale * (ctx.label_smoothing / gradient.shape[1]))
        right = (scale * (ctx.label_smoothing - 1)).expand_as(ctx.targets)
        gradient.scatter_add_(1, ctx.targets, right)
        del ctx.exponentials
        return gradient, None, None
