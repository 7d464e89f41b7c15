"""The estimator's request: a model, its training and scoring, and the card. Checked on construction."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from cluster.estimator.calibration import ONE_CARD, Layout
from cluster.estimator.gpu_profile import GpuProfile
from cluster.estimator.model_facts import ModelFacts
from cluster.estimator.sharding import Sharding
from tuning_common.errors import Problems
from tuning_common.strict import nearest

Precision = Literal["fp32", "fp16", "bf16", "bf16_pure"]
Allocator = Literal["expandable", "native"]
PRECISIONS = ("fp32", "fp16", "bf16", "bf16_pure")
OPTIMIZERS = ("adamw_fused", "adamw", "adafactor", "adamw_8bit", "paged_adamw", "paged_adamw_8bit", "sgd")
ATTENTIONS = ("sdpa", "eager")
ALLOCATORS = ("expandable", "native")
PAD_MULTIPLE = 8  # on a GPU the trainer pads every batch to a multiple of it, see dialsum.encoding.Collator
BF16_SM = (8, 0)  # older cards emulate bf16


@dataclass(frozen=True, kw_only=True)
class MemoryRequest:
    """The memory-relevant settings of one trial.

    Attributes:
        model: See model_facts.
        gpu: The card.
        batch_size: Effective batch.
        gradient_accumulation_steps: Micro-batches per effective batch; divides it.
        encoder_max_len: Longest dialogue in tokens.
        decoder_max_len: Longest summary in tokens.
        precision: fp32, autocast to fp16 or bf16, or bf16_pure: weights, gradients and states in bf16, no autocast.
            Frozen weights below an adapter have the format of the computation.
        adapter: Settings of the adapter that alone is trained, for the workload; None where all weights are.
        optimizer: A name of OPTIMIZERS.
        attention: sdpa or eager.
        gradient_checkpointing: Whether activations are computed again in the backward pass.
        label_smoothing: 0 to 1; only whether it is 0 changes memory.
        dropout: None keeps the model's own; only whether it is 0 changes memory.
        num_beams: Beams of the generation.
        generation_batch_size: Dialogues that are summarized together.
        loss_batch_size: Dialogues per forward pass of the dev loss; a micro-batch when None.
        generation_max_len: Longest generated summary; decoder_max_len when None.
        no_repeat_ngram_size: Setting of the generation; only whether it is 0 changes memory.
        allocator: expandable (expandable_segments:True, as the guard sets it) or native (torch's default).
        torch_compile: Bounded, not modelled.
        ranks: Data-parallel processes, each on a card of its own. Above 1 the estimate is of one of these cards,
            bounded and not modelled: one more copy of all gradients for DDP's buckets, and NCCL's buffers.
        sharding: Gathered units of a sharded model (FSDP); None where each process holds the whole model.
        lengths: (encoder, decoder) tokens of each training dialogue: an estimate then also replays shorter batches.

    Raises:
        RequestError: With every invalid value.
    """

    model: ModelFacts
    gpu: GpuProfile
    batch_size: int
    gradient_accumulation_steps: int = 1
    encoder_max_len: int = 512
    decoder_max_len: int = 128
    precision: Precision = "bf16"
    adapter: Mapping[str, object] | None = None
    optimizer: str = "adamw_fused"
    attention: str = "sdpa"
    gradient_checkpointing: bool = False
    label_smoothing: float = 0.0
    dropout: float | None = None
    num_beams: int = 1
    generation_batch_size: int = 32
    loss_batch_size: int | None = None
    generation_max_len: int | None = None
    no_repeat_ngram_size: int = 0
    allocator: Allocator = "expandable"
    torch_compile: bool = False
    ranks: int = 1
    sharding: Sharding | None = None
    lengths: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        problems = Problems()
        _check_numbers(self, problems)
        _check_names(self, problems)
        if not problems:
            _check_positions(self, problems)
        problems.raise_if_any("memory estimate")

    @property
    def micro_batch(self) -> int:
        """Samples in one forward pass of one process."""
        return self.batch_size // self.gradient_accumulation_steps // self.ranks

    @property
    def loss_batch(self) -> int:
        """Dialogues per forward pass of the dev loss."""
        return self.loss_batch_size or self.micro_batch

    @property
    def layout(self) -> Layout:
        """The layout of the model on its cards; see calibration.Peak."""
        if self.ranks == 1:
            return ONE_CARD
        return "data-parallel" if self.sharding is None else "divided"

    @property
    def new_tokens(self) -> int:
        """Longest generated summary."""
        return self.generation_max_len or self.decoder_max_len

    @property
    def padded_lengths(self) -> tuple[int, int]:
        """Encoder and decoder length of the longest training batch, as the trainer's collator pads it.

        For a causal model both make one sequence, which is padded as a whole.
        """
        return self.padded(self.encoder_max_len, self.decoder_max_len)

    def padded(self, encoder_len: int, decoder_len: int) -> tuple[int, int]:
        """Returns the lengths of a batch with these longest texts, as the trainer's collator pads it."""
        if self.model.kind == "causal":
            return encoder_len, _whole_steps(encoder_len + decoder_len) - encoder_len
        return _whole_steps(encoder_len), _whole_steps(decoder_len)


def _whole_steps(length: int) -> int:
    return -(-length // PAD_MULTIPLE) * PAD_MULTIPLE


def _check_numbers(request: MemoryRequest, problems: Problems) -> None:
    least = {
        "batch_size": 1, "gradient_accumulation_steps": 1, "encoder_max_len": 1, "decoder_max_len": 2, "num_beams": 1,
        "loss_batch_size": 1, "generation_batch_size": 1, "generation_max_len": 2, "no_repeat_ngram_size": 0,
        "ranks": 1,
    }  # fmt: skip
    for name, smallest in least.items():
        value = getattr(request, name)
        if value is not None and value < smallest:
            problems.add(f"{name} must be at least {smallest}, but is {value}")
    pieces = request.gradient_accumulation_steps
    if pieces >= 1 and request.ranks >= 1 and request.batch_size >= 1 and request.batch_size % (pieces * request.ranks):
        over = f" on {request.ranks} cards" if request.ranks > 1 else ""
        problems.add(f"gradient_accumulation_steps must divide batch_size {request.batch_size}{over}, but is {pieces}")
    if request.sharding is not None and request.ranks < 2:
        problems.add(f"a model is divided among at least 2 cards, but ranks is {request.ranks}")
    if request.sharding is not None and request.precision == "bf16_pure":
        problems.add("a model in bf16_pure is not divided among cards; take bf16 or fp32")
    if request.adapter is not None and request.precision == "bf16_pure":
        problems.add("an adapter is not trained in bf16_pure; take bf16 or fp32")
    if any(encoder_len < 1 or decoder_len < 1 for encoder_len, decoder_len in request.lengths):
        problems.add("lengths must be at least 1 token each")
    for name in ("label_smoothing", "dropout"):
        value = getattr(request, name)
        if value is not None and not 0 <= value < 1:
            problems.add(f"{name} must be at least 0 and below 1, but is {value}")


def _check_names(request: MemoryRequest, problems: Problems) -> None:
    choices = (
        ("precision", PRECISIONS),
        ("optimizer", OPTIMIZERS),
        ("attention", ATTENTIONS),
        ("allocator", ALLOCATORS),
    )
    for name, known in choices:
        value = str(getattr(request, name))
        if value not in known:
            problems.add(f"{name} must be one of {', '.join(known)}, but is {value!r}{nearest(value, known)}")


def _check_positions(request: MemoryRequest, problems: Problems) -> None:
    positions = request.model.positions
    if positions is None:
        return
    lengths = {"encoder_max_len": request.encoder_max_len}
    names = {"decoder_max_len": request.decoder_max_len, "generation_max_len": request.generation_max_len or 0}
    if request.model.kind == "causal":  # dialogue and summary are one sequence
        lengths |= {f"encoder_max_len + {name}": request.encoder_max_len + value for name, value in names.items()}
    else:
        lengths |= names
    longest: dict[int, str] = {}
    for name, value in lengths.items():
        longest.setdefault(value, name)
    for value, name in longest.items():
        if value > positions:
            problems.add(f"{name} must be at most {positions}, the positions of {request.model.name}, but is {value}")
