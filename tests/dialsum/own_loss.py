"""The loss of a model as transformers computes it: over all positions, by its own code or by LabelSmoother."""

from collections.abc import Mapping

from torch import Tensor, nn
from transformers.trainer_pt_utils import LabelSmoother


def own_loss(model: nn.Module, batch: Mapping[str, Tensor], *, label_smoothing: float, causal: bool) -> Tensor:
    """Takes what forward_loss takes."""
    inputs = {name: tensor for name, tensor in batch.items() if name != "positions"}
    outputs = model(**inputs, use_cache=False)
    outputs["logits"] = outputs["logits"].float()  # a model in bf16 does so for its own loss
    smoother = LabelSmoother(epsilon=label_smoothing)
    loss: Tensor = smoother(outputs, inputs["labels"], shift_labels=causal) if label_smoothing else outputs["loss"]
    return loss
