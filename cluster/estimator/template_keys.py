"""Keys of template parts, hashed to file names so that equal jobs share a file. Imports nothing heavy."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Literal

from cluster.estimator.cuda_imitation import KernelFamily
from cluster.estimator.template import TemplateKey

PartName = Literal["step", "optimizer", "evaluation"]
PART_NAMES: tuple[PartName, ...] = ("step", "optimizer", "evaluation")
FORMAT = 4  # of files; increase it when the content of traces changes
# Paged states are counted as if they stayed on the card: then these hold the same (adamw_fused a scalar more for each).
PAGED = {"paged_adamw": "adamw_fused", "paged_adamw_8bit": "adamw_8bit"}
DROPOUTS = re.compile(r"(dropout|dropout_rate|_pdrop|layerdrop)$")
ABOVE_ZERO_UNLESS_SAID = frozenset({"dropout", "dropout_rate", "resid_pdrop", "embd_pdrop", "attn_pdrop"})
TOKENS = re.compile(r"_token_ids?$")
NOT_MEMORY = re.compile(  # keys of config.json that do not change memory
    r"^(_.*|architectures|transformers_version|(torch_)?dtype|id2label|label2id|num_labels|task_specific_params|"
    r"tokenizer_class|init_std|initializer_.*|auto_map|author|name_or_path|model_type_name|is_encoder_decoder|"
    r"use_cache|output_.*|return_dict|tie_word_embeddings|tie_encoder_decoder|attn_implementation|problem_type|"
    r"n_ctx|kobart_version|gradient_checkpointing)$"
)


@dataclass(frozen=True, kw_only=True)
class PartKey:
    """The key of a template part, which templates with equal options share.

    Attributes:
        part: step (micro-steps), optimizer or evaluation (loss and generation).
        model: See model_hash.
        options: Other options of the part, in a fixed order.
        torch: Version.
        transformers: Version.
    """

    part: PartName
    model: str
    options: tuple[tuple[str, str], ...]
    torch: str
    transformers: str

    def to_dict(self) -> dict[str, object]:
        """Returns plain values for JSON."""
        return {
            "format": FORMAT, "part": self.part, "model": self.model, "options": dict(self.options),
            "torch": self.torch, "transformers": self.transformers,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, stored: Mapping[str, object]) -> "PartKey":
        """Builds a key from the values of to_dict.

        Raises:
            ValueError: When it is not a key, or of another format.
        """
        options = stored.get("options")
        part = next((name for name in PART_NAMES if name == stored.get("part")), None)
        if part is None or not isinstance(options, Mapping) or stored.get("format") != FORMAT:
            raise ValueError(f"no key of a part: {stored}")
        return cls(
            part=part,
            model=str(stored["model"]),
            options=tuple((str(name), str(value)) for name, value in options.items()),
            torch=str(stored["torch"]),
            transformers=str(stored["transformers"]),
        )

    @property
    def file_name(self) -> str:
        """Name of its file, readable where short, unique by a hash."""
        digest = hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]
        words = "-".join(value for _, value in self.options)
        return f"{self.part}-{words}-{digest}.npz"

    @property
    def uneven_name(self) -> str:
        """Name of the file that records why this part cannot hold for all sizes."""
        return f"{self.file_name}.uneven"


def model_hash(config: Mapping[str, object], *, untied: bool, adapter: Mapping[str, object] | None = None) -> str:
    """Hashes the memory-relevant part of a model's configuration.

    Ignores names and versions; token ids count only by their presence, a dropout only by being 0 or not.

    Args:
        config: Values as in config.json.
        untied: Whether the output head has weights of its own.
        adapter: Settings of the adapter, if any.

    >>> small = {"model_type": "bart", "d_model": 8, "eos_token_id": 1}
    >>> model_hash(small, untied=False) == model_hash(small | {"eos_token_id": 2, "dropout": 0.3}, untied=False)
    True
    >>> model_hash(small, untied=False) == model_hash(small, untied=True)
    False
    >>> model_hash(small, untied=False) == model_hash(small | {"attention_dropout": 0.1}, untied=False)
    False
    """
    kept: dict[str, object] = {"untied": untied} | ({"adapter": dict(adapter)} if adapter else {})
    for name, value in config.items():
        if value is None or NOT_MEMORY.match(name):
            continue
        if DROPOUTS.search(name):
            above_zero = isinstance(value, (int, float)) and value > 0
            if above_zero != (name in ABOVE_ZERO_UNLESS_SAID):
                kept[name] = above_zero
        else:
            kept[name] = True if TOKENS.search(name) else value
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()


def has_dropout(config: Mapping[str, object], dropout: float | None) -> bool:
    """Returns whether any dropout is above 0.

    Args:
        config: Values as in config.json; a missing value counts as above 0, as in most models.
        dropout: Replaces the model's own; None keeps it.

    >>> has_dropout({"dropout_rate": 0.0}, None), has_dropout({}, None), has_dropout({}, 0.0)
    (False, True, False)
    """
    if dropout is not None:
        return dropout > 0
    named = [value for name, value in config.items() if DROPOUTS.search(name) and isinstance(value, (int, float))]
    return any(value > 0 for value in named) if named else True


def kernels_that_matter(family: KernelFamily, *, precision: str, attention: str) -> KernelFamily:
    """Returns the kernel family in a job's key: in fp32 and with eager attention all families are equal.

    >>> kernels_that_matter("cudnn", precision="fp32", attention="sdpa")
    'efficient'
    """
    return family if precision != "fp32" and attention == "sdpa" else "efficient"


@dataclass(frozen=True, kw_only=True)
class ExactSizes:
    """The sizes at which a model is traced, where they are not products of batch and lengths.

    Attributes:
        micro_batch: Samples of one forward pass in training.
        loss_batch: Samples of one forward pass of the dev loss.
        generation_batch: Samples that are summarized together.
        encoder_len: Encoder length of the longest training batch, with padding.
        decoder_len: Its decoder length.
        prompt_len: Longest dialogue of the generation; the number of new tokens stays variable.
        beams: Beams of the generation.

    >>> sizes = ExactSizes(
    ...     micro_batch=4, loss_batch=8, generation_batch=32, encoder_len=512, decoder_len=128, prompt_len=512, beams=1
    ... )
    >>> sizes.of("step"), sizes.of("optimizer"), sizes.of("evaluation")
    ('4x512x128', '', '8x512x128x32x512x1')
    """

    micro_batch: int
    loss_batch: int
    generation_batch: int
    encoder_len: int
    decoder_len: int
    prompt_len: int
    beams: int

    def of(self, part: PartName) -> str:
        """Returns the sizes that a part depends on, as text."""
        if part == "optimizer":
            return ""
        lengths = f"{self.encoder_len}x{self.decoder_len}"
        if part == "step":
            return f"{self.micro_batch}x{lengths}"
        return f"{self.loss_batch}x{lengths}x{self.generation_batch}x{self.prompt_len}x{self.beams}"


def window_of(config: Mapping[str, object]) -> int | None:
    """Returns the tokens that a layer with a sliding window sees; None where every layer sees all.

    >>> window_of({"sliding_window": 512}), window_of({"sliding_window": 512, "use_sliding_window": False})
    (512, None)
    """
    window = config.get("sliding_window")
    used = config.get("use_sliding_window") is not False
    return window if used and type(window) is int and window > 0 else None


def window_sides(window: int, *, sequence_len: int, prompt_len: int) -> str:
    """Returns the side of a window on which training and evaluation run, and that of the prompt of a generation.

    >>> window_sides(512, sequence_len=640, prompt_len=512)
    'beyond512-within512'
    """
    sides = ("beyond" if length > window else "within" for length in (sequence_len, prompt_len))
    return "-".join(f"{side}{window}" for side in sides)


def part_key(key: TemplateKey, part: PartName, sizes: ExactSizes | None = None) -> PartKey:
    """Returns the key of one part of a template, or of its version for exact sizes.

    fp16 and bf16 share parts: they differ only by the gradient scaler's few scalars, which are counted.
    """
    half = {"fp32": "fp32", "bf16_pure": "bf16_pure"}.get(key.precision, "half")
    common = [("precision", half), ("attention", key.attention), ("kernels", key.kernels)]
    if part == "optimizer":
        options = [("optimizer", PAGED.get(key.optimizer, key.optimizer))]
        if half == "bf16_pure":
            options = [("optimizer", key.optimizer), ("precision", half)]
    elif part == "evaluation":
        options = [*common, ("ngrams", "ngrams" if key.no_repeat_ngrams else "free")]
    else:
        options = [
            *common,
            ("layers", "recomputed" if key.gradient_checkpointing else "kept"),
            ("dropout", "dropout" if key.dropout else "nodropout"),
            ("smoothing", "smoothed" if key.label_smoothing else "plain"),
        ]
    if key.window and part != "optimizer":
        options.append(("window", key.window if part == "evaluation" else key.window.partition("-")[0]))
    if sizes is not None and sizes.of(part):
        options.append(("sizes", sizes.of(part)))
    return PartKey(
        part=part, model=key.model, options=tuple(options), torch=key.torch, transformers=key.transformers
    )  # fmt: skip


@cache
def installed_version(package: str) -> str:
    """Returns a package's version without its build, for example "2.13.0" of "2.13.0+cpu"; imports nothing.

    Raises:
        importlib.metadata.PackageNotFoundError: When it is not installed.
    """
    return version(package).partition("+")[0]
