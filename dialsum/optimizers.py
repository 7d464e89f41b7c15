"""Optimizers by name: one function for the trainer and for the memory tracer."""

import importlib.util

import torch
from torch import nn
from torch.optim import Optimizer

from dialsum.config import OptimizerName
from tuning_common.errors import RequestError

BITSANDBYTES = {"adamw_8bit": "AdamW8bit", "paged_adamw": "PagedAdamW", "paged_adamw_8bit": "PagedAdamW8bit"}
NO_DECAY = ("bias", "norm", "layernorm", "layer_norm", "ln_")  # as in BERT and GPT-2: no decay of biases and norms


def build_optimizer(model: nn.Module, *, name: OptimizerName, learning_rate: float, weight_decay: float) -> Optimizer:
    """Builds the optimizer of a run.

    Args:
        model: Its parameters may be on the CPU, a GPU or the meta device.
        name: One of the names of RunConfig.optimizer.
        learning_rate: The peak; a schedule scales it.
        weight_decay: Decoupled, for matrices only.

    Returns:
        The optimizer; its states are made at the first step.

    Raises:
        RequestError: When the optimizer needs a missing package or device.
    """
    groups = parameter_groups(model, weight_decay)
    device = next(model.parameters()).device.type
    if name == "adamw_fused":
        # The fused kernel exists for CUDA and the CPU, not for meta tensors.
        return torch.optim.AdamW(groups, lr=learning_rate, fused=device in ("cuda", "cpu"))
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=learning_rate, foreach=True)
    if name == "sgd":
        return torch.optim.SGD(groups, lr=learning_rate, momentum=0.0, foreach=True)
    if name == "adafactor":
        from transformers.optimization import Adafactor

        return Adafactor(  # type: ignore[no-any-return]
            groups, lr=learning_rate, scale_parameter=False, relative_step=False, warmup_init=False
        )
    return _of_bitsandbytes(BITSANDBYTES[name], name, groups, learning_rate)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Splits trainable parameters into groups with and without weight decay.

    >>> [len(group["params"]) for group in parameter_groups(nn.Linear(2, 2), 0.01)]
    [1, 1]
    """
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (plain if any(part in name.lower() for part in NO_DECAY) else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def _of_bitsandbytes(made: str, name: str, groups: list[dict[str, object]], learning_rate: float) -> Optimizer:
    if importlib.util.find_spec("bitsandbytes") is None or not torch.cuda.is_available():
        raise RequestError(
            f"optimizer {name} needs the package bitsandbytes and a CUDA device; without them take adamw_fused or"
            " adafactor (the smallest state of the others)"
        )
    bitsandbytes = importlib.import_module("bitsandbytes")
    optimizer: Optimizer = getattr(bitsandbytes.optim, made)(groups, lr=learning_rate)
    return optimizer
