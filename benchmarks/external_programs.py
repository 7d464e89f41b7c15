"""Programs with published memory measurements, rewritten for meta tensors.

Works with the transformers that the measured program had, too, so it imports nothing of ours that needs a newer one.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from itertools import count

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, NestedIOFunction
from torch.overrides import TorchFunctionMode

from benchmarks.external_runs import Row
from cluster.estimator.workload import Region

STEPS = 2  # the second step includes the memory that the first keeps
NEW_TOKENS = 100  # of the generation benchmark


def model_of(row: Row) -> nn.Module:
    """Builds a row's model with random weights."""
    import transformers

    values = {name: value for name, value in row.model.items() if name != "model_type"}
    config = transformers.AutoConfig.for_model(str(row.model["model_type"]), **values)
    head = getattr(transformers, row.head)
    made: nn.Module = head.from_config(config, attn_implementation=row.attention, torch_dtype=getattr(torch, row.dtype))
    return made


def tokens_of(row: Row) -> Tensor:
    """Makes a batch of token ids."""
    return torch.empty(row.batch, row.length, dtype=torch.int64)


class SumOfLogits:
    """Training benchmark of transformers' SDPA pages: the loss is the sum of all logits, nothing is optimized.

    Outputs of one step live until the next one has made its own; gradients are set to None before each forward pass.
    """

    def __init__(self, row: Row) -> None:
        self._row = row

    def build(self, recompute: Region) -> nn.Module:
        """Builds the model."""
        return model_of(self._row).train()

    def run(self, model: nn.Module, autocast: Region) -> None:
        """Runs the steps."""
        inputs = tokens_of(self._row)
        for _ in range(STEPS):
            model.zero_grad()
            outputs = model(input_ids=inputs)
            loss = outputs.logits.sum()
            loss.backward()


class ForwardPass:
    """Inference benchmark of the same pages for models that do not generate: a forward pass without gradients."""

    def __init__(self, row: Row) -> None:
        self._row = row

    def build(self, recompute: Region) -> nn.Module:
        """Builds the model."""
        return model_of(self._row).eval()

    def run(self, model: nn.Module, autocast: Region) -> None:
        """Runs the passes; the output of a pass lives until the next one has returned."""
        inputs = tokens_of(self._row)
        mask = torch.ones(inputs.shape)
        with torch.no_grad():
            for _ in range(STEPS):
                outputs = model(inputs, mask)
        del outputs


class _Generated(Exception):  # noqa: N818  # no error
    """All new tokens are generated."""


class GreedyGeneration:
    """Inference benchmark of the same pages for models that generate: greedy, with a cache."""

    def __init__(self, row: Row) -> None:
        self._row = row

    def build(self, recompute: Region) -> nn.Module:
        """Builds the model."""
        return model_of(self._row).eval()

    def run(self, model: nn.Module, autocast: Region) -> None:
        """Generates once."""
        from transformers import GenerationConfig

        inputs = tokens_of(self._row)
        settings = GenerationConfig(
            max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, use_cache=True, pad_token_id=0, eos_token_id=None,
            num_beams=1, do_sample=False,
        )  # fmt: skip
        generate: Callable[..., Tensor] = getattr(model, "generate")  # noqa: B009  # not known of every module
        forward, passes = model.forward, count()

        @functools.wraps(forward)
        def counted(*args: object, **kwargs: object) -> object:
            if next(passes) == NEW_TOKENS:  # on meta tensors generate does not end by itself
                raise _Generated
            return forward(*args, **kwargs)

        model.forward = counted
        with torch.no_grad(), suppress(_Generated):
            generate(inputs, attention_mask=torch.ones(inputs.shape), generation_config=settings)


class OldTrainer:
    """transformers' trainer of January 2022 on torch 1.10: gradients are zeroed, softmax keeps its input too.

    Options: precision (fp32 or fp16), optimizer (adamw_hf, adafactor, adam_8bit), checkpointing, accumulation.
    """

    def __init__(self, row: Row) -> None:
        self._row = row
        self._optimizer = OPTIMIZERS[str(row.options["optimizer"])]
        self._accumulation = int(str(row.options["accumulation"]))

    def build(self, recompute: Region) -> nn.Module:
        """Builds the model."""
        model = model_of(self._row).train()
        if self._row.options["checkpointing"]:
            enable: Callable[[Mapping[str, object]], None] = getattr(
                model, "activation_checkpointing_enable", None
            ) or getattr(model, "gradient_checkpointing_enable")  # noqa: B009

            @contextmanager
            def again() -> Iterator[None]:
                with recompute(), WithOldSoftmax():
                    yield

            contexts = lambda: (nullcontext(), again())  # noqa: E731
            enable({"use_reentrant": False, "preserve_rng_state": False, "context_fn": contexts})
        return model

    def run(self, model: nn.Module, autocast: Region) -> None:
        """Runs the steps; the gradients stay, set to zero, as zero_grad did it."""
        states: dict[nn.Parameter, list[Tensor]] = {}
        region = autocast if self._row.options["precision"] == "fp16" else nullcontext
        with WithOldSoftmax():
            for _ in range(STEPS):
                for _ in range(self._accumulation):
                    inputs = {
                        "input_ids": tokens_of(self._row),
                        "labels": torch.empty(self._row.batch, dtype=torch.int64),
                    }
                    with region():
                        loss = model(**inputs)["loss"]
                    loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=False)
                with torch.no_grad():
                    for parameter in model.parameters():
                        self._optimizer(parameter, states.setdefault(parameter, []))
                model.zero_grad(set_to_none=False)


class OldSoftmax(torch.autograd.Function):
    """torch 1.10 kept softmax's input for its backward kernel, which only used the type."""

    @staticmethod
    def forward(ctx: FunctionCtx, scores: Tensor) -> Tensor:
        shares = torch.softmax(scores, -1)
        ctx.save_for_backward(scores, shares)
        return shares

    @staticmethod
    def backward(ctx: NestedIOFunction, gradient: Tensor) -> Tensor:
        shares = ctx.saved_tensors[1]
        return torch.ops.aten._softmax_backward_data(gradient, shares, -1, shares.dtype)  # type: ignore[no-any-return]


class WithOldSoftmax(TorchFunctionMode):
    """Replaces functional.softmax by OldSoftmax."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        if func is functional.softmax and isinstance(args[0], Tensor):
            return OldSoftmax.apply(args[0].float())  # type: ignore[no-untyped-call]  # autocast raises it to fp32
        return func(*args, **(kwargs or {}))


def _adamw_hf(parameter: nn.Parameter, states: list[Tensor]) -> None:
    """transformers.AdamW of that time, one parameter after the other."""
    assert parameter.grad is not None
    if not states:
        states += [torch.zeros_like(parameter) for _ in range(2)]
    first, second = states
    first.mul_(0.9).add_(parameter.grad, alpha=0.1)
    second.mul_(0.999).addcmul_(parameter.grad, parameter.grad, value=0.001)
    denominator = second.sqrt().add_(1e-8)
    parameter.addcdiv_(first, denominator, value=-1e-5)


def _adafactor(parameter: nn.Parameter, states: list[Tensor]) -> None:
    """Adafactor: rows and columns of the squares for matrices, the squares themselves for vectors."""
    assert parameter.grad is not None
    squares = parameter.grad.pow(2) + 1e-30
    if not states:
        shapes = [parameter.shape[:-1], parameter.shape[:-2] + parameter.shape[-1:]]
        states += [torch.zeros(shape) for shape in shapes] if parameter.dim() > 1 else [torch.zeros_like(parameter)]
    if parameter.dim() > 1:
        rows, columns = states
        rows.mul_(0.9).add_(squares.mean(-1), alpha=0.1)
        columns.mul_(0.9).add_(squares.mean(-2), alpha=0.1)
        update = (rows / rows.mean(-1, keepdim=True)).rsqrt_().unsqueeze(-1) * columns.rsqrt().unsqueeze(-2)
        update = update.mul_(parameter.grad)
    else:
        update = states[0].mul_(0.9).add_(squares, alpha=0.1).rsqrt().mul_(parameter.grad)
    parameter.add_(-update.mul_(1e-3))


def _adam_8bit(parameter: nn.Parameter, states: list[Tensor]) -> None:
    """bitsandbytes 0.26: two states of a byte per element, and a scale for each 2,048; small ones in fp32."""
    if not states and parameter.numel() < 4096:
        states += [torch.zeros_like(parameter) for _ in range(2)]
    elif not states:
        states += [torch.zeros_like(parameter, dtype=torch.uint8) for _ in range(2)]
        states += [torch.zeros(-(-parameter.numel() // 2048)) for _ in range(2)]


OPTIMIZERS: Mapping[str, Callable[[nn.Parameter, list[Tensor]], None]] = {
    "adamw_hf": _adamw_hf, "adafactor": _adafactor, "adam_8bit": _adam_8bit,
}  # fmt: skip
