"""Shards a model over the processes of a run, for models that are too large for one card.

torch's fully_shard (FSDP2, torch 2.13; ZeRO stage 3 of Rajbhandari et al. 2020): each process keeps its shard of
every weight, gradient and optimizer state, and gathers the weights of a layer to compute it. Checkpoints and models are
written unsharded, in the same files as by a run on one card: each can resume from the other's.
"""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from dialsum.adapters import has_adapter, without_adapter
from tuning_common.errors import RequestError


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """Sizes of the gathered units, in elements.

    Attributes:
        layer: The largest layer, gathered for its computation.
        rest: Everything outside the layers, such as embeddings and the output head, gathered for a whole step.
        table: The largest weight of the rest.
    """

    layer: int
    rest: int
    table: int


def layers_of(model: nn.Module) -> list[nn.Module]:
    """Returns the layers that are gathered one at a time: the units of transformers' gradient checkpointing.

    Raises:
        RequestError: When the model has none.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    found = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not found:
        raise RequestError(f"fsdp: {type(model).__name__} names no layers of its own, so it cannot be divided")
    return found


def pieces_of(model: nn.Module) -> Pieces:
    """Returns the sizes of a model's gathered units; its parameters may be on the meta device.

    Raises:
        RequestError: When the model cannot be sharded.
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
    """Refuses settings that cannot be sharded, beyond the checks of RunConfig.

    Args:
        processes: Number of processes of the run.
        precision: The number format, resolved from "auto".

    Raises:
        RequestError: With a remedy.

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
    """Shards a model's weights over all processes, in place; each keeps its shard on its device.

    Weights that are trained are kept in fp32, frozen ones below an adapter in the format of the computation.

    In bf16 the weights are gathered in bf16: autocast alone would keep a copy of all of them for the backward pass.
    The residual stream is then in bf16 too, and gradients are added up in fp32.

    Args:
        model: A transformers model with its weights, the same ones in each process.
        device: Kind of the processes' devices, cuda or cpu; the model is moved there layer by layer.
        precision: fp32 or bf16.
    """
    world = distributed.group.WORLD
    assert world is not None, "the process group is initialized"
    mesh = DeviceMesh.from_group(world, device)
    policy = MixedPrecisionPolicy()
    if precision == "bf16":
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    # T5's blocks return a view of the position bias, which nothing changes in place.
    warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view tensor")
    for layer in layers_of(model):
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    register_fsdp_forward_method(model, "generate")  # it calls an encoder without the model's own forward
    # Set by transformers where it shards itself: generation then synchronizes all processes.
    for one in {model, without_adapter(model)}:
        one._is_fsdp_managed_module = True


def whole_weights(model: nn.Module, *, keep: bool) -> dict[str, Tensor]:
    """Gathers a sharded model's weights on the host, one at a time; of an adapter's model only those that are trained.

    A collective call.

    Args:
        model: The model.
        keep: Whether this process keeps them.

    Returns:
        By the names of the model's state; tied weights are one tensor. Empty where they are not kept.
    """
    found: dict[str, Tensor] = {}
    tied: dict[int, Tensor] = {}
    alone = has_adapter(model)
    for name, value in model.state_dict(keep_vars=True).items():
        if alone and not value.requires_grad:
            continue
        if id(value) not in tied:
            tied[id(value)] = _whole(value.detach(), keep=keep)
        found[name] = tied[id(value)]
    return found if keep else {}


def whole_state(state: Mapping[str, object], *, keep: bool) -> dict[str, object]:
    """Gathers a sharded optimizer's state on the host, in the format of a single process; a collective call.

    Args:
        state: Optimizer.state_dict() of this process.
        keep: Whether this process keeps it.
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
    """Returns this process's shard of an unsharded optimizer state.

    Args:
        state: From whole_state, or from an optimizer of a single process.
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
