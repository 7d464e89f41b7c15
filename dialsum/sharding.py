"""Divides a model among the processes of a run, so that one too large for a card trains on several.

torch's fully_shard (FSDP2, torch 2.13; ZeRO stage 3 of Rajbhandari et al. 2020): each process keeps its part of every
weight, gradient and optimizer state, and gathers the weights of a layer when it computes that layer. Checkpoints and
models are written whole, the same files as those of a run on one card: either goes on from the other's.
"""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from common.errors import RequestError


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """What is gathered together, in elements.

    Attributes:
        layer: The largest layer: gathered when it is computed.
        rest: All that is in no layer, such as embeddings and the output head: gathered for a whole step.
        table: The largest weight of the rest.
    """

    layer: int
    rest: int
    table: int


def layers_of(model: nn.Module) -> list[nn.Module]:
    """Lists the layers that are gathered one at a time: those that transformers recomputes one at a time.

    Raises:
        RequestError: When the model has none.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    found = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not found:
        raise RequestError(f"fsdp: {type(model).__name__} names no layers of its own, so it cannot be divided")
    return found


def pieces_of(model: nn.Module) -> Pieces:
    """Counts what a process gathers of a model; its parameters may be on the meta device.

    Raises:
        RequestError: When the model cannot be divided.
    """
    layers = layers_of(model)
    inside = {id(parameter) for layer in layers for parameter in layer.parameters()}
    rest = [parameter.numel() for parameter in model.parameters() if id(parameter) not in inside]
    return Pieces(
        layer=max(sum(parameter.numel() for parameter in layer.parameters()) for layer in layers),
        rest=sum(rest),
        table=max(rest),
    )


def check_divisible(processes: int, precision: str) -> None:
    """Refuses what cannot be trained divided, beside what RunConfig refuses.

    Args:
        processes: How many share the run.
        precision: The number format that "auto" became.

    Raises:
        RequestError: With what would do.

    >>> check_divisible(2, "bf16")
    """
    if processes < 2:
        raise RequestError(
            "fsdp divides a model among several processes, but there is one; start it with"
            " torchrun --nproc-per-node 2, give a sweep's trials several cards (resources.gpus_per_trial), or leave it"
            " out"
        )
    if precision == "fp16":
        raise RequestError("fsdp: this GPU computes in fp16, which cannot be scaled for a divided model; take fp32")


def shard(model: nn.Module, device: str, precision: str) -> None:
    """Divides a model's weights among all processes, in place; each keeps its part in fp32 on its device.

    In bf16 the weights are gathered in bf16: autocast alone would keep a copy of all of them for the backward pass.
    The residual stream is then in bf16 too, and gradients are added up in fp32.

    Args:
        model: A transformers model with its weights, the same ones in each process.
        device: Kind of the processes' devices, cuda or cpu; the model is moved there layer by layer.
        precision: fp32 or bf16.
    """
    world = distributed.group.WORLD
    assert world is not None, "the processes have met"
    mesh = DeviceMesh.from_group(world, device)
    policy = MixedPrecisionPolicy()
    if precision == "bf16":
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    # T5's blocks hand a view of the position bias on, to which nothing is added in place.
    warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view tensor")
    for layer in layers_of(model):
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    register_fsdp_forward_method(model, "generate")  # it calls an encoder past the model's own forward
    # What transformers itself sets where it divides: its generation then keeps all processes in step.
    model._is_fsdp_managed_module = True  # type: ignore[assignment]


def whole_weights(model: nn.Module, *, keep: bool) -> dict[str, Tensor]:
    """Gathers a divided model's weights on the host, one at a time; all processes take part.

    Args:
        model: The model.
        keep: Whether this process wants them.

    Returns:
        By the names of the model's state; tied weights are one tensor. Empty where they are not kept.
    """
    found: dict[str, Tensor] = {}
    tied: dict[int, Tensor] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if id(value) not in tied:
            tied[id(value)] = _whole(value.detach(), keep=keep)
        found[name] = tied[id(value)]
    return found if keep else {}


def whole_state(state: Mapping[str, object], *, keep: bool) -> dict[str, object]:
    """Gathers a divided optimizer's state on the host, as an optimizer of one process writes it; all take part.

    Args:
        state: Optimizer.state_dict() of this process.
        keep: Whether this process wants it.
    """
    of_parameters = state["state"]
    assert isinstance(of_parameters, Mapping)
    gathered = {
        index: {
            name: _whole(value, keep=keep) if isinstance(value, Tensor) else value for name, value in values.items()
        }
        for index, values in of_parameters.items()
    }
    return {**state, "state": gathered} if keep else {}


def divided_state(state: Mapping[str, object], parameters: Iterable[Tensor]) -> dict[str, object]:
    """Takes this process's part of a whole optimizer state.

    Args:
        state: As whole_state returns it, or as an optimizer of one process wrote it.
        parameters: Those of the optimizer, in its order.
    """
    of_parameters = state["state"]
    assert isinstance(of_parameters, Mapping)
    ordered = list(parameters)
    return {
        **state,
        "state": {
            index: {name: _part(value, ordered[index]) for name, value in values.items()}
            for index, values in of_parameters.items()
        },
    }


def _whole(value: Tensor, *, keep: bool) -> Tensor:
    if isinstance(value, DTensor):
        value = value.full_tensor()
    return value.cpu() if keep else value.new_empty(0)


def _part(value: object, parameter: Tensor) -> object:
    if not isinstance(value, Tensor) or not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value  # a number of steps
    mesh = parameter.device_mesh
    return distribute_tensor(value.to(mesh.device_type), mesh, parameter.placements, src_data_rank=None)
