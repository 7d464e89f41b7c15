"""One training job for the memory tracer, built from the functions that the trainer calls.

Implements the tracer's protocol structurally, without importing the tracer.
"""

import functools
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dialsum.adapters import has_adapter, with_adapter, without_adapter
from dialsum.config import Attention, OptimizerName, Precision, RunConfig
from dialsum.device import weights_dtype
from dialsum.generate import generate_ids
from dialsum.models import BROKEN, Kind, model_class, reason_of, with_dropout
from dialsum.optimizers import BITSANDBYTES, build_optimizer, parameter_groups
from dialsum.step import forward_loss
from tuning_common.errors import RequestError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

Region = Callable[[], "AbstractContextManager[object]"]
EIGHT_BIT_LEAST_ELEMENTS = 4096  # bitsandbytes keeps 32-bit states for smaller tensors (Optimizer8bit, min_8bit_size)
EIGHT_BIT_BLOCK = 256  # elements behind one scale (bitsandbytes 0.44 and later, Optimizer2State.init_state)


class BatchShape(Protocol):
    """Sizes of a batch; see the tracer's Shape."""

    @property
    def batch(self) -> int: ...
    @property
    def encoder_len(self) -> int: ...
    @property
    def decoder_len(self) -> int: ...
    @property
    def beams(self) -> int: ...


class SummarizerWorkload:
    """A summarizer's optimizer step, evaluation and generation.

    Attributes:
        causal: Whether prompt and summary are one sequence.
        precision: fp32, fp16, bf16 or bf16_pure.
        vocabulary: Width of the logits.
    """

    def __init__(self, shape: "PretrainedConfig", run: RunConfig, *, untied: bool) -> None:
        self._shape = shape
        self._run = run
        self._untied = untied
        self._autocast: Region = nullcontext
        self._kind: Kind = "seq2seq" if shape.is_encoder_decoder else "causal"
        self.causal = self._kind == "causal"
        self.precision = str(run.precision)
        self.vocabulary = int(shape.get_text_config(decoder=True).vocab_size)

    def build_model(self, autocast: Region, recompute: Region) -> nn.Module:
        """Builds the model with random weights, wrapped as transformers' trainer and accelerate wrap it.

        Args:
            autocast: Context of the forward pass in half precision.
            recompute: Context of the recomputation of a checkpointed layer.

        Raises:
            RequestError: When transformers cannot build the model.
        """
        try:
            model = model_class(self._kind).from_config(
                self._shape,
                attn_implementation=self._run.attention,
                dtype=weights_dtype(self._run.precision, frozen=self._run.adapter_type is not None),
            )
        except ValueError as error:  # for example an architecture without sdpa
            reason = str(error).splitlines()[0].partition(" Please")[0]
            remedy = ["take attention: eager"] if self._run.attention == "sdpa" else []
            raise RequestError(f"{self._shape.model_type}: {reason}", remedy) from None
        if self._untied:
            _untie(model)
        if self._run.adapter_type is not None:
            model = with_adapter(model, self._run)
        if self._run.gradient_checkpointing:
            # No saving of the random state: meta tensors draw no random numbers.
            model.activation_checkpointing_enable(
                {
                    "use_reentrant": False,
                    "preserve_rng_state": False,
                    "context_fn": lambda: (nullcontext(), recompute()),
                }
            )
        if self.precision in ("fp16", "bf16"):
            model.forward = _mixed(model.forward, autocast)
            self._autocast = autocast
        trained: nn.Module = model.train()
        return trained

    def build_optimizer(self, model: nn.Module) -> Optimizer:
        """Builds the optimizer of the run, with substitutes for fused and 8-bit ones on meta tensors."""
        run = self._run
        if run.optimizer in BITSANDBYTES:
            eight_bit = run.optimizer != "paged_adamw"
            return _BitsAndBytesStates(parameter_groups(model, run.weight_decay), eight_bit=eight_bit)
        optimizer = build_optimizer(
            model, name=run.optimizer, learning_rate=run.learning_rate, weight_decay=run.weight_decay
        )
        if run.optimizer == "adamw_fused":
            _fuse_on_meta(optimizer)
        return optimizer

    def batch(self, shape: BatchShape) -> Mapping[str, Tensor]:
        """Returns one micro-batch in the collator's format, on the default device."""
        size = shape.batch
        if self.causal:
            length = shape.encoder_len + shape.decoder_len
            batch = {name: _tokens(size, length) for name in ("input_ids", "attention_mask", "labels")}
        else:
            batch = {name: _tokens(size, shape.encoder_len) for name in ("input_ids", "attention_mask")}
            batch["labels"] = _tokens(size, shape.decoder_len)
        positions = torch.empty(size * shape.decoder_len, dtype=torch.int64)  # every summary is as long as the longest
        return batch | {"positions": positions}

    def loss(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Computes the loss as the trainer's compute_loss does, then scales it as its training_step does."""
        loss = forward_loss(model, batch, label_smoothing=self._run.label_smoothing, causal=self.causal)
        loss = loss / 2  # by the number of micro-steps; dividing by 1 makes the same scalar
        return loss * torch.empty(()) if self.precision == "fp16" else loss  # the gradient scaler's

    def optimizer_step(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Clips the gradients and steps."""
        if self._run.max_grad_norm:
            nn.utils.clip_grad_norm_(model.parameters(), self._run.max_grad_norm)
        optimizer.step()

    def evaluate(self, model: nn.Module, shape: BatchShape) -> None:
        """Computes the loss of a dev batch."""
        with torch.no_grad():
            forward_loss(model, self.batch(shape), label_smoothing=0.0, causal=self.causal)

    def generate(self, model: nn.Module, shape: BatchShape, on_forward: Callable[[int], None]) -> None:
        """Writes summaries of a dev batch.

        Args:
            model: The model.
            shape: `decoder_len` new tokens by `beams` beams.
            on_forward: Called with the number of each forward pass before it runs; may raise.
        """
        run = self._run.with_changes({"num_beams": shape.beams, "generation_max_len": max(2, shape.decoder_len)})
        wrapped = has_adapter(model)
        language_model = without_adapter(cast("PreTrainedModel", model))
        forward = language_model.forward
        language_model.forward = _counted(forward, on_forward)
        # Meta tensors have no values to decide whether a beam is finished: none is.
        language_model._beam_search_has_unfinished_sequences = lambda *args, **kwargs: True
        inputs = _tokens(shape.batch, shape.encoder_len)
        try:
            with self._autocast() if wrapped else nullcontext():  # as SummarizerTrainer.summarize_dev
                generate_ids(language_model, inputs, torch.empty_like(inputs), run, pad_id=0)
        finally:
            language_model.forward = forward


def summarizer_workload(
    *,
    model_config: Mapping[str, object],
    untied: bool = False,
    precision: Precision = "fp32",
    adapter: Mapping[str, object] | None = None,
    optimizer: OptimizerName = "adamw_fused",
    attention: Attention = "sdpa",
    gradient_checkpointing: bool = False,
    dropout: float | None = None,
    label_smoothing: float = 0.0,
    no_repeat_ngram_size: int = 0,
) -> SummarizerWorkload:
    """Returns the workload of a model configuration; all arguments are plain values.

    Args:
        model_config: Values as in config.json; `model_type` names the architecture.
        untied: Whether the output head has weights of its own.
        precision: fp32, autocast to fp16 or bf16, or bf16_pure: all in bf16 without autocast.
        adapter: See adapters.memory_settings; None trains all weights.
        optimizer: Name of the optimizer.
        attention: sdpa or eager.
        gradient_checkpointing: Whether layers are computed again in the backward pass.
        dropout: None keeps the model's own.
        label_smoothing: 0 to 1.
        no_repeat_ngram_size: Setting of the generation.

    Raises:
        RequestError: When transformers has no such model.
    """
    run = RunConfig(
        precision=precision, optimizer=optimizer, attention=attention, gradient_checkpointing=gradient_checkpointing,
        label_smoothing=label_smoothing, decoder_max_len=2, no_repeat_ngram_size=no_repeat_ngram_size,
    )  # fmt: skip
    if adapter is not None:
        run = run.with_changes({"model": str(model_config.get("model_type")), **adapter})  # its name is not read
    return SummarizerWorkload(with_dropout(_configuration(model_config), dropout), run, untied=untied)


def empty_model(
    values: Mapping[str, object], *, untied: bool, adapter: Mapping[str, object] | None = None
) -> "PreTrainedModel":
    """Builds a model on the meta device, without weights, to count its parameters.

    Args:
        values: Values of its config.json.
        untied: Whether the output head has weights of its own.
        adapter: See adapters.memory_settings; None without one.

    Raises:
        RequestError: When transformers cannot build it.
    """
    shape = _configuration(values)
    with torch.device("meta"):
        model = model_class("seq2seq" if shape.is_encoder_decoder else "causal").from_config(shape)
        if untied:
            _untie(model)
        if adapter is not None:
            model = with_adapter(model, RunConfig().with_changes({"model": str(shape.model_type), **adapter}))
    return model


def _configuration(values: Mapping[str, object]) -> "PretrainedConfig":
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    rest = {name: value for name, value in values.items() if name != "model_type"}
    try:
        config = AutoConfig.for_model(str(values.get("model_type")), **rest)
    except (*BROKEN, StrictDataclassError) as error:
        raise RequestError(f"model_type {values.get('model_type')!r}: {reason_of(error)}") from None
    for name, fallback in (("decoder_start_token_id", 0), ("eos_token_id", 1), ("bos_token_id", 0)):
        if getattr(config, name, None) is None:  # generation needs them; their values do not change the bytes
            setattr(config, name, fallback)
    return config


def _tokens(rows: int, length: int) -> Tensor:
    return torch.empty(rows, length, dtype=torch.int64)


def _untie(model: "PreTrainedModel") -> None:
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head.weight is embedding.weight:
        head.weight = nn.Parameter(torch.empty_like(embedding.weight))


def _mixed(forward: Callable[..., object], autocast: Region) -> Callable[..., object]:
    """Wraps a forward pass as accelerate's prepare_model does: autocast inside, outputs in fp32 outside."""
    from accelerate.utils import convert_outputs_to_fp32

    @functools.wraps(forward)
    def under_autocast(*args: object, **kwargs: object) -> object:
        with autocast():
            return forward(*args, **kwargs)

    wrapped: Callable[..., object] = convert_outputs_to_fp32(under_autocast)
    return functools.wraps(forward)(wrapped)  # generation reads the signature


def _counted(forward: Callable[..., object], on_forward: Callable[[int], None]) -> Callable[..., object]:
    passes = iter(range(2**31))

    @functools.wraps(forward)
    def counted(*args: object, **kwargs: object) -> object:
        on_forward(next(passes))
        return forward(*args, **kwargs)

    return counted


def _fuse_on_meta(optimizer: Optimizer) -> None:
    """Enables the fused kernel on meta tensors: torch does not check the device once the states exist."""
    for group in optimizer.param_groups:
        group["fused"], group["foreach"] = True, False
        for parameter in group["params"]:
            if parameter.device.type == "meta":
                optimizer.state[parameter] = {
                    "step": torch.zeros((), dtype=torch.float32),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }


class _BitsAndBytesStates(Optimizer):
    """Allocates the states of bitsandbytes' AdamW, in 8 or 32 bits, without updates; its kernels need no other memory.

    A paged optimizer may move states to host memory; here they stay on the card, the larger case.
    """

    def __init__(self, groups: list[dict[str, object]], *, eight_bit: bool) -> None:
        super().__init__(groups, {})
        self._eight_bit = eight_bit
        self._code_books: list[Tensor] = []

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        """Allocates the states at the first step."""
        if self._eight_bit and not self._code_books:
            self._code_books = [torch.zeros(256, dtype=torch.float32) for _ in range(2)]
        states = _eight_bit_states if self._eight_bit else _full_states
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and not self.state[parameter]:
                    self.state[parameter] = dict(enumerate(states(parameter)))


def _full_states(parameter: Tensor) -> list[Tensor]:
    return [torch.zeros_like(parameter, dtype=torch.float32) for _ in range(2)]


def _eight_bit_states(parameter: Tensor) -> list[Tensor]:
    if parameter.numel() < EIGHT_BIT_LEAST_ELEMENTS:
        return _full_states(parameter)
    scales = -(-parameter.numel() // EIGHT_BIT_BLOCK)
    codes = [torch.zeros_like(parameter, dtype=torch.uint8) for _ in range(2)]
    return codes + [torch.zeros(scales, dtype=torch.float32) for _ in range(2)]
