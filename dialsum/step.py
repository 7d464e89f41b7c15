"""The loss of one training step: one function for the trainer and for the memory tracer."""

from collections.abc import Mapping

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

IGNORED_LABEL = -100  # positions without loss: padding and the prompt of a causal model


def forward_loss(model: nn.Module, batch: Mapping[str, Tensor], *, label_smoothing: float, causal: bool) -> Tensor:
    """Runs the model on one micro-batch and returns its loss.

    Without smoothing the model's own cross-entropy is used. With it, the arithmetic of transformers' LabelSmoother
    (transformers 5.23, trainer_pt_utils.py): all tokens share `label_smoothing` of the probability.

    Args:
        model: A Hugging Face causal or seq2seq language model.
        batch: `input_ids` and `attention_mask` (batch, encoder length), `labels` (batch, decoder length); a causal
            model has labels of the same length as its input.
        label_smoothing: Probability taken from the right token, 0 to 1.
        causal: Whether labels are shifted by one position against the logits.

    Returns:
        The mean loss over positions whose label is not -100; a scalar.
    """
    inputs = dict(batch)
    if not label_smoothing:
        outputs = model(**inputs, use_cache=False)
        loss: Tensor = outputs["loss"]
        return loss
    labels = inputs.pop("labels")
    if not causal:  # without labels the model does not create the decoder's input
        inputs["decoder_input_ids"] = shifted_right(model, labels)
    logits: Tensor = model(**inputs, use_cache=False)["logits"]
    if causal:
        logits, labels = logits[..., :-1, :].contiguous(), labels[..., 1:].contiguous()
    return smoothed_cross_entropy(logits, labels, label_smoothing)


def shifted_right(model: nn.Module, labels: Tensor) -> Tensor:
    """Returns the decoder's input for labels, by the model's own rule (start token, padding).

    Args:
        model: A seq2seq model.
        labels: (batch, decoder length).
    """
    model = getattr(model, "module", model)  # a data-parallel wrapper hides the model's methods
    prepare = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    if prepare is None:
        raise TypeError(f"{type(model).__name__} makes no decoder input from labels; label smoothing needs that")
    made: Tensor = prepare(labels=labels)
    return made


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """Returns the cross-entropy with label smoothing.

    Args:
        logits: (batch, length, vocabulary).
        labels: (batch, length), -100 where a position does not count.
        label_smoothing: 0 to 1.

    Returns:
        The mean over counted positions; a scalar.

    >>> round(smoothed_cross_entropy(torch.zeros(1, 1, 4), torch.tensor([[2]]), 0.1).exp().item(), 4)  # log 4
    4.0
    """
    negative_log = -functional.log_softmax(logits, dim=-1)
    ignored = labels.eq(IGNORED_LABEL).unsqueeze(-1)
    right = negative_log.gather(dim=-1, index=labels.clamp(min=0).unsqueeze(-1)).masked_fill(ignored, 0.0)
    spread = negative_log.sum(dim=-1, keepdim=True, dtype=torch.float32).masked_fill(ignored, 0.0)
    counted = ignored.numel() - ignored.long().sum()
    return (1 - label_smoothing) * right.sum() / counted + label_smoothing * spread.sum() / (counted * logits.shape[-1])
