"""Imitates CUDA's choices on meta tensors: autocast, fused dropout and optimizer, attention kernels.

Meta tensors use no device's code paths, so this module makes the choices that CUDA makes before the dispatcher. From
the sources of torch 2.13: ATen/autocast_mode.h (lists of operations), native/transformers/cuda/sdp_utils.cpp (choice
of the attention kernel), native/transformers/attention.cpp (masks), cuda/attention_backward.cu and
cuda/flash_attn/flash_api.cpp (workspaces of backward kernels). Must not import torch at the top.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor, dtype

KernelFamily = Literal["cudnn", "flash", "efficient"]
KERNEL_FAMILIES: tuple[KernelFamily, ...] = ("cudnn", "flash", "efficient")
Kernel = Literal["cudnn", "flash", "efficient", "math"]

_LOW_PRECISION = (
    "linear", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "mv", "addmm", "addmv", "addr", "addbmm", "baddbmm",
    "einsum", "chain_matmul", "prelu", "conv1d", "conv2d", "conv3d", "scaled_dot_product_attention",
)  # fmt: skip
_FULL_PRECISION = (
    "exp", "expm1", "log", "log10", "log2", "log1p", "pow", "__pow__", "__rpow__", "rsqrt", "reciprocal", "softplus",
    "layer_norm", "group_norm", "norm", "nll_loss", "logsumexp", "cosine_similarity", "mse_loss", "l1_loss", "cdist",
    "binary_cross_entropy_with_logits", "kl_div", "acos", "asin", "cosh", "sinh", "tan", "erfinv",
)  # fmt: skip
_FULL_UNLESS_ASKED = ("softmax", "log_softmax", "cumsum", "cumprod", "prod", "sum")
_MASK_ALIGNMENT = 8  # elements; attention.cpp, preprocess_mask
_FLASH_BLOCK = 128  # flash_api.cpp, mha_bwd: query length is rounded up to it
_FLASH_HEAD_STEP = 32  # likewise the width of a head
_SORT_BYTES = 32  # per index: two int64 arrays of keys and values, in and out (EmbeddingBackwardKernel.cu)


def kernel_family(compute_capability: tuple[int, int]) -> KernelFamily:
    """Returns the attention kernels that a GPU prefers.

    From compute capability 9.0 to below 11.0 cuDNN comes first (with cuDNN above 9.15.0, which torch 2.13 brings); from
    8.0 on flash, then the memory-efficient kernel; older ones have only the latter.

    >>> kernel_family((9, 0)), kernel_family((8, 6)), kernel_family((7, 5)), kernel_family((12, 0))
    ('cudnn', 'flash', 'efficient', 'flash')
    """
    major = compute_capability[0]
    if major in (9, 10):
        return "cudnn"
    return "flash" if major >= 8 else "efficient"


def choose_kernel(
    family: KernelFamily,
    *,
    half: bool,
    head_size: int,
    query_len: int,
    key_len: int,
    masked: bool,
    causal: bool,
    dropout: float,
    learned_mask: bool = False,
) -> Kernel:
    """Returns the attention kernel by the rules of sdp_utils.cpp.

    Args:
        family: See kernel_family.
        half: Whether the inputs are fp16 or bf16.
        head_size: Width of one head.
        query_len: Length of the queries.
        key_len: Length of the keys.
        masked: Whether an attention mask is given.
        causal: Whether is_causal is set.
        dropout: Probability inside the kernel.
        learned_mask: Whether the mask needs a gradient, as T5's position bias does (check_attn_mask_shape).

    >>> common = dict(half=True, head_size=64, query_len=512, key_len=512, causal=False)
    >>> choose_kernel("cudnn", masked=True, dropout=0.0, **common)
    'cudnn'
    >>> choose_kernel("cudnn", masked=True, dropout=0.1, **common)  # cuDNN takes sixteenths only
    'efficient'
    >>> choose_kernel("cudnn", masked=True, dropout=0.0, learned_mask=True, **common)  # it has no gradient for it
    'efficient'
    >>> choose_kernel("flash", masked=False, dropout=0.1, **common)
    'flash'
    """
    sixteenths = dropout * 16 == math.floor(dropout * 16)
    by_cudnn = half and head_size <= 128 and head_size % 8 == 0 and key_len != 1 and not (dropout and query_len == 1)
    if family == "cudnn" and by_cudnn and sixteenths and not learned_mask:
        return "cudnn"
    if family != "efficient" and half and not masked and head_size <= 256 and not (causal and query_len != key_len):
        return "flash"
    alignment = 8 if half else 4
    return "efficient" if head_size % alignment == 0 or (family == "efficient" and not half) else "math"


def kernel_workspace_bytes(name: str, args: tuple[object, ...]) -> int:
    """Returns the workspace bytes of a CUDA kernel, beside its outputs.

    Covers the sorted indices of an embedding's gradient and the fp32 buffers of attention's backward kernels, not
    cuDNN's own workspace and the split accumulators of the memory-efficient kernel.

    Args:
        name: Name of the ATen operation.
        args: Its arguments.
    """
    import torch

    if name == "embedding_dense_backward":
        indices = args[1]
        # No sort below 3,072 indices; counted anyway, as it is small.
        return indices.numel() * _SORT_BYTES if isinstance(indices, torch.Tensor) else 0
    if name not in ("_scaled_dot_product_flash_attention_backward", "_scaled_dot_product_efficient_attention_backward"):
        return 0
    query = args[1]
    if not isinstance(query, torch.Tensor):
        return 0
    batch, heads, length, width = query.shape
    if "flash" in name:  # softmax_d and dq_accum
        rounded = -(-length // _FLASH_BLOCK) * _FLASH_BLOCK
        return 4 * batch * heads * rounded * (1 + -(-width // _FLASH_HEAD_STEP) * _FLASH_HEAD_STEP)
    if query.dtype == torch.float32:  # delta = (grad_out * out).sum(-1) is computed outside of the kernel
        return 4 * batch * heads * length * (1 + width)
    return 4 * batch * heads * length


class Autocast:
    """Casts as torch.autocast("cuda") does, with its cache of cast weights. Nothing is cast in fp32."""

    def __init__(self, precision: str) -> None:
        import torch

        halves: dict[str, dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16}
        self._half = halves.get(precision)
        self._depth = 0
        self._cache: dict[int, Tensor] = {}

    @property
    def active(self) -> bool:
        """Whether operations are currently cast."""
        return self._depth > 0 and self._half is not None

    @contextmanager
    def region(self) -> Iterator[None]:
        """Runs its body under autocast; the end of the outermost region drops the cache."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                self._cache.clear()

    def lowered(self, value: object) -> object:
        """Returns a floating tensor in half precision, a weight from the cache; anything else as it is."""
        import torch

        if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.dtype == torch.float64:
            return value
        if value.dtype == self._half:
            return value
        weight = value.dtype == torch.float32 and value.is_leaf and value.requires_grad and value._base is None
        if not weight:
            return value.to(self._half)
        if id(value) not in self._cache:
            self._cache[id(value)] = value.to(self._half)
        return self._cache[id(value)]


def raised(value: object) -> object:
    """Returns a half-precision tensor in fp32; anything else as it is."""
    import torch

    is_half = isinstance(value, torch.Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if isinstance(value, torch.Tensor) and is_half else value


def imitation(autocast: Autocast, family: KernelFamily) -> "AbstractContextManager[object]":
    """Returns a function mode under which meta tensors follow CUDA's choices.

    Conditions on values (`if mask.all():`) are False: batches are padded, no sequence is finished.

    Args:
        autocast: Its state.
        family: Which attention kernels the GPU prefers.
    """
    import torch
    import torch.nn.functional as functional
    from torch.overrides import TorchFunctionMode
    from torch.utils._pytree import tree_map

    low, full, full_unless_asked = (_named(names) for names in (_LOW_PRECISION, _FULL_PRECISION, _FULL_UNLESS_ASKED))
    questions, replaced = _value_questions(), _replacements(family)

    class Imitation(TorchFunctionMode):
        def __torch_function__(
            self,
            func: Callable[..., object],
            types: object,
            args: tuple[object, ...] = (),
            kwargs: dict[str, object] | None = None,
        ) -> object:
            named = kwargs or {}
            if func in questions and isinstance(args[0], torch.Tensor) and args[0].device.type == "meta":
                return questions[func](args[0])
            if autocast.active:
                if func in low:
                    args, named = tree_map(autocast.lowered, args), tree_map(autocast.lowered, named)
                elif func in full or (func in full_unless_asked and named.get("dtype") is None):
                    args, named = tree_map(raised, args), tree_map(raised, named)
                elif func is functional.cross_entropy:
                    return _autocast_cross_entropy(func, args, named)
            return replaced.get(func, func)(*args, **named)

    return Imitation()


def _value_questions() -> dict[Callable[..., object], Callable[["Tensor"], object]]:
    from torch import Tensor

    return {
        Tensor.__bool__: lambda tensor: False,
        Tensor.__contains__: lambda tensor: False,
        Tensor.__int__: lambda tensor: 1,
        Tensor.__index__: lambda tensor: 1,
        Tensor.item: lambda tensor: 1,
        Tensor.tolist: lambda tensor: [1] * tensor.numel(),
    }


def _named(names: tuple[str, ...]) -> frozenset[Callable[..., object]]:
    """Returns the Python functions and methods of torch with these names."""
    import torch
    import torch.nn.functional as functional

    places = (torch, torch.Tensor, functional)
    return frozenset(getattr(place, name) for place in places for name in names if hasattr(place, name))


def _replacements(family: KernelFamily) -> dict[Callable[..., object], Callable[..., object]]:
    import torch
    import torch.nn.functional as functional

    def dropout(value: "Tensor", p: float = 0.5, training: bool = True, inplace: bool = False) -> "Tensor":
        if not training or p == 0:
            return value
        kept, _ = torch.native_dropout(value, p, True)  # fused on CUDA: a mask of one byte per element
        return kept

    def attention(
        query: "Tensor", key: "Tensor", value: "Tensor", attn_mask: "Tensor | None" = None, dropout_p: float = 0.0,
        is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
    ) -> "Tensor":  # fmt: skip
        if enable_gqa and query.shape[1] != key.shape[1]:
            groups = query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        kernel = choose_kernel(
            family, half=query.element_size() == 2, head_size=query.shape[-1], query_len=query.shape[2],
            key_len=key.shape[2], masked=attn_mask is not None, causal=is_causal, dropout=dropout_p,
            learned_mask=attn_mask is not None and attn_mask.requires_grad,
        )  # fmt: skip
        return _attend(kernel, query, key, value, _additive(attn_mask, query), dropout_p, is_causal, scale)

    def full(size: object, fill_value: object, **rest: object) -> object:
        if isinstance(fill_value, torch.Tensor):  # its value is unknown and irrelevant
            return torch.zeros(size, **{"dtype": fill_value.dtype, **rest})  # type: ignore[call-overload]
        return torch.full(size, fill_value, **rest)  # type: ignore[call-overload]

    def fused_optimizer(*args: object, **kwargs: object) -> None:
        """Works in place, without more memory."""

    return {
        functional.dropout: dropout,
        torch.dropout: dropout,
        functional.scaled_dot_product_attention: attention,
        torch.full: full,
        torch._fused_adamw_: fused_optimizer,
    }


def _additive(mask: "Tensor | None", query: "Tensor") -> "Tensor | None":
    """Converts a bool mask to an additive one (attention.cpp, convert_boolean_attn_mask)."""
    import torch

    if mask is None or mask.dtype != torch.bool:
        return mask
    zero = torch.zeros((), dtype=query.dtype, device=query.device)
    return torch.where(mask.logical_not(), float("-inf"), zero)


def _attend(
    kernel: Kernel, query: "Tensor", key: "Tensor", value: "Tensor", mask: "Tensor | None", dropout: float,
    causal: bool, scale: float | None,
) -> "Tensor":  # fmt: skip
    import torch

    aten = torch.ops.aten
    backward = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (query, key, value))
    outputs: tuple[Tensor, ...]
    if kernel == "flash":
        outputs = aten._scaled_dot_product_flash_attention(query, key, value, dropout, causal, False, scale=scale)
        return outputs[0]
    if kernel == "math":
        return _attend_by_math(query, key, value, mask, dropout, causal, scale)
    if mask is not None:
        padded = _aligned(mask) if kernel == "efficient" else mask
        mask = padded.expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
    if kernel == "cudnn":
        outputs = aten._scaled_dot_product_cudnn_attention(
            query, key, value, mask, backward, dropout, causal, False, scale=scale
        )
        return outputs[0]
    outputs = aten._scaled_dot_product_efficient_attention(
        query, key, value, mask, backward, dropout, causal, scale=scale
    )
    return outputs[0]


def _aligned(mask: "Tensor") -> "Tensor":
    """Pads rows of a mask to the alignment and slices the view (attention.cpp, pad_bias)."""
    import torch.nn.functional as functional

    if all(stride % _MASK_ALIGNMENT == 0 for stride in mask.stride()[:-1]) and mask.stride(-1) == 1:
        return mask
    length = mask.shape[-1]
    return functional.pad(mask, [0, _MASK_ALIGNMENT - length % _MASK_ALIGNMENT])[..., :length]


def _attend_by_math(
    query: "Tensor", key: "Tensor", value: "Tensor", mask: "Tensor | None", dropout: float, causal: bool,
    scale: float | None,
) -> "Tensor":  # fmt: skip
    """The reference implementation in pieces (attention.cpp, _scaled_dot_product_attention_math)."""
    import torch

    root = math.sqrt(scale if scale is not None else 1 / math.sqrt(query.shape[-1]))
    if causal:
        lower = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
        mask = _additive(lower, query)
    scores = torch.matmul(query * root, key.transpose(-2, -1) * root)
    if mask is not None:
        scores = scores.add_(mask)
    shares = torch.softmax(scores, -1)
    if dropout:
        shares = torch.native_dropout(shares, dropout, True)[0]
    return torch.matmul(shares, value)


def _autocast_cross_entropy(
    cross_entropy: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object]
) -> object:
    """Imitates the C++ function: log_softmax keeps the logits' type, only nll_loss runs in fp32."""
    import torch
    import torch.nn.functional as functional

    logits, target = args[0], args[1]
    assert isinstance(logits, torch.Tensor)
    assert isinstance(target, torch.Tensor)
    if logits.dtype == torch.float32 or kwargs.get("label_smoothing"):
        return cross_entropy(*args, **kwargs)
    logarithms = torch.log_softmax(logits, 1, dtype=logits.dtype)
    ignored, reduction = kwargs.get("ignore_index", -100), kwargs.get("reduction", "mean")
    return functional.nll_loss(logarithms.float(), target, ignore_index=int(str(ignored)), reduction=str(reduction))
