"""The runs whose peaks are measured on a GPU: four families, every memory-relevant option, odd sizes. Pure."""

import dataclasses
from collections.abc import Iterator, Mapping

from cluster.estimator.gpu_profile import GpuProfile
from cluster.estimator.model_facts import ModelFacts, model_facts
from cluster.estimator.request import Allocator, MemoryRequest
from dialsum.config import RunConfig
from dialsum.models import SPECS
from tune_jobs.placing.memory_requests import request_of, values_of

# Larger relatives of two families: is a template as exact for a model of another size?
RELATIVES: Mapping[str, Mapping[str, object]] = {
    "bart-large": {
        "model_type": "bart", "is_encoder_decoder": True, "vocab_size": 50265, "d_model": 1024, "encoder_layers": 12,
        "decoder_layers": 12, "encoder_attention_heads": 16, "decoder_attention_heads": 16, "encoder_ffn_dim": 4096,
        "decoder_ffn_dim": 4096, "max_position_embeddings": 1024, "attention_dropout": 0.1, "activation_dropout": 0.1,
    },
    "gpt2-medium": {
        "model_type": "gpt2", "vocab_size": 50257, "n_embd": 1024, "n_layer": 24, "n_head": 16, "n_positions": 1024,
    },
}  # fmt: skip
TINY: Mapping[str, Mapping[str, object]] = {
    "bart": {
        "vocab_size": 500, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
    },
    "gpt2": {"vocab_size": 500, "n_embd": 32, "n_layer": 1, "n_head": 2},
    "t5": {"vocab_size": 500, "d_model": 32, "d_ff": 64, "d_kv": 16, "num_layers": 1, "num_decoder_layers": 1,
           "num_heads": 2},
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A run to measure.

    Attributes:
        number: Number in the grid.
        model: A named model, or one of RELATIVES.
        untied: Whether the head has its own weights.
        changes: Fields of RunConfig.
        allocator: How torch's allocator is set.
        tiny: Whether to use a tiny model, to test the protocol without a GPU.
    """

    number: int
    model: str
    untied: bool
    changes: Mapping[str, object]
    allocator: Allocator
    tiny: bool = False

    @property
    def facts(self) -> ModelFacts:
        """Returns the model's facts for the estimator."""
        spec = SPECS.get(self.model)
        values = dict(values_of(spec) if spec is not None else RELATIVES[self.model])
        if self.tiny:
            values |= TINY["t5" if values["model_type"] == "mt5" else str(values["model_type"])]
        return model_facts(self.model, values, untied=self.untied)

    @property
    def config(self) -> RunConfig:
        """The run."""
        return RunConfig.from_dict({"model": self.model, **self.changes})

    def request(self, gpu: GpuProfile) -> MemoryRequest:
        """Returns the estimator's request of the run."""
        return request_of(self.config, gpu, model=self.facts, allocator=self.allocator)


def grid(*, tiny: bool = False) -> list[Case]:
    """Returns the runs in the order of measurement."""
    cases = [
        Case(number=number, model=model, untied=untied, changes=changes, allocator=allocator)
        for number, (model, untied, changes, allocator) in enumerate(_drawn())
    ]
    return [_small(case) for case in cases] if tiny else cases


_Drawn = tuple[str, bool, dict[str, object], Allocator]
PLAIN: Mapping[str, object] = {
    "precision": "bf16", "batch_size": 8, "encoder_max_len": 512, "decoder_max_len": 128, "generation_batch_size": 8,
    "generation_max_len": 48,
}  # fmt: skip
_SIZES = ((4, 128, 32), (16, 896, 128), (32, 256, 64), (7, 499, 101), (3, 333, 77))
_OPTIONS: tuple[dict[str, object], ...] = (
    {}, {"precision": "fp32"}, {"precision": "fp16"}, {"gradient_checkpointing": True}, {"attention": "eager"},
    {"label_smoothing": 0.1}, {"batch_size": 32, "gradient_accumulation_steps": 4}, {"dropout": 0.0},
    {"optimizer": "adamw"}, {"optimizer": "adafactor"}, {"optimizer": "sgd"},
    {"optimizer": "adamw", "precision": "fp32"},
    {"generation_batch_size": 16, "generation_max_len": 64, "num_beams": 4},
    {"generation_batch_size": 64, "generation_max_len": 64, "num_beams": 4, "no_repeat_ngram_size": 3},
    {"gradient_checkpointing": True, "batch_size": 16, "encoder_max_len": 896},
    {"precision": "fp32", "batch_size": 16, "encoder_max_len": 256, "decoder_max_len": 64},
)  # fmt: skip


def _drawn() -> Iterator[_Drawn]:
    for model in ("kobart", "kogpt2", "t5-base", "mt5"):
        for options in _OPTIONS:
            yield model, False, {**PLAIN, **options}, "expandable"
        for batch, encoder_len, decoder_len in _SIZES:
            sizes = {"batch_size": batch, "encoder_max_len": encoder_len, "decoder_max_len": decoder_len}
            yield model, False, {**PLAIN, **sizes}, "expandable"
        for options in _OPTIONS[:3]:
            yield model, False, {**PLAIN, **options}, "native"
    for precision in ("bf16", "fp32"):
        yield "mt5", True, {**PLAIN, "precision": precision}, "expandable"
    yield "bart-large", False, dict(PLAIN), "expandable"
    yield "bart-large", False, {**PLAIN, "gradient_checkpointing": True}, "expandable"
    yield "gpt2-medium", False, {**PLAIN, "batch_size": 4}, "expandable"


def _small(case: Case) -> Case:
    pieces = int(str(case.changes.get("gradient_accumulation_steps", 1)))
    lengths = {"encoder_max_len": 24, "decoder_max_len": 12, "generation_max_len": 4, "generation_batch_size": 2}
    changes = {**case.changes, **lengths, "batch_size": 2 * pieces}
    if case.changes["precision"] == "fp16":  # a CPU has no gradient scaler
        changes["precision"] = "bf16"
    return dataclasses.replace(case, changes=changes, tiny=True)
