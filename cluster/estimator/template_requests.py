"""Converts a memory request to its template key and its workload settings. Imports nothing heavy."""

from collections.abc import Mapping

from cluster.estimator.cuda_imitation import kernel_family
from cluster.estimator.request import MemoryRequest
from cluster.estimator.template import TemplateKey
from cluster.estimator.template_keys import (
    ExactSizes,
    has_dropout,
    installed_version,
    kernels_that_matter,
    model_hash,
    window_of,
    window_sides,
)

TRACED_SMOOTHING = 0.1  # only whether there is smoothing changes memory
# The length of a forbidden n-gram does not change the peak: the mask of banned tokens and the copy of the scores do.
TRACED_NGRAM_SIZE = 2


def key_of(request: MemoryRequest) -> TemplateKey:
    """Returns the key of a request's template."""
    family = kernel_family(request.gpu.sm)
    window = window_of(request.model.config) if request.model.kind == "causal" else None
    return TemplateKey(
        model=model_hash(request.model.config, untied=request.model.untied, adapter=request.adapter),
        precision=request.precision,
        optimizer=request.optimizer,
        attention=request.attention,
        gradient_checkpointing=request.gradient_checkpointing,
        dropout=has_dropout(request.model.config, request.dropout),
        label_smoothing=request.label_smoothing > 0,
        accumulation=request.gradient_accumulation_steps > 1,
        kernels=kernels_that_matter(family, precision=request.precision, attention=request.attention),
        torch=installed_version("torch"),
        transformers=installed_version("transformers"),
        no_repeat_ngrams=request.no_repeat_ngram_size > 0,
        window=""
        if window is None
        else window_sides(window, sequence_len=sum(request.padded_lengths), prompt_len=request.encoder_max_len),
    )


def sizes_of(request: MemoryRequest) -> ExactSizes:
    """Returns the exact sizes of a request, for models whose bytes are not products of them."""
    encoder_len, decoder_len = request.padded_lengths
    return ExactSizes(
        micro_batch=request.micro_batch,
        loss_batch=request.loss_batch,
        generation_batch=request.generation_batch_size,
        encoder_len=encoder_len,
        decoder_len=decoder_len,
        prompt_len=request.encoder_max_len,
        beams=request.num_beams,
    )


def settings_of(request: MemoryRequest) -> Mapping[str, object]:
    """Returns the keyword arguments of a request's workload (dialsum.workload.summarizer_workload).

    Requests that share a template get the same settings: fp16 for both half precisions, one smoothing.
    """
    return {
        "model_config": dict(request.model.config),
        "untied": request.model.untied,
        "precision": request.precision if request.precision in ("fp32", "bf16_pure") else "fp16",
        "adapter": None if request.adapter is None else dict(request.adapter),
        "optimizer": request.optimizer,
        "attention": request.attention,
        "gradient_checkpointing": request.gradient_checkpointing,
        "dropout": request.dropout,
        "label_smoothing": TRACED_SMOOTHING if request.label_smoothing > 0 else 0.0,
        "no_repeat_ngram_size": TRACED_NGRAM_SIZE if request.no_repeat_ngram_size > 0 else 0,
    }
