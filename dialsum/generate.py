"""Generates summaries with beam search in batches of similar length, in input order."""

import contextlib
import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from transformers import Cache, DynamicCache, EncoderDecoderCache
from transformers.cache_utils import LinearAttentionCacheLayerMixin

from dialsum.config import RunConfig
from dialsum.encoding import pad
from dialsum.models import Kind
from dialsum.tokenizers import decode

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def summarize(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    sources: Sequence[Sequence[int]],
    config: RunConfig,
    kind: Kind,
) -> list[str]:
    """Returns one summary for each encoded dialogue.

    Args:
        model: Any causal or seq2seq model; its mode (training or not) is restored.
        tokenizer: The tokenizer of the encoding.
        sources: Token ids; see encoding.Encoding.
        config: Beams, penalties, lengths and batch size of the generation.
        kind: A causal model is padded on the left, so that its prompt ends where the summary begins.

    Returns:
        Summaries in the order of the sources.
    """
    order = sorted(
        range(len(sources)), key=lambda index: -len(sources[index])
    )  # longest first: an out-of-memory comes early
    written = [""] * len(sources)
    training = model.training
    model.eval()
    with torch.random.fork_rng(enabled=config.do_sample), contextlib.ExitStack() as stack:
        stack.callback(model.train, training)
        if config.do_sample:
            torch.manual_seed(config.seed)  # the same model writes the same summaries, and training's numbers stay
        for start in range(0, len(order), config.generation_batch):
            chosen = order[start : start + config.generation_batch]
            texts = _batch(model, tokenizer, [sources[index] for index in chosen], config, kind)
            for index, text in zip(chosen, texts, strict=True):
                written[index] = text
    return written


def _batch(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    sources: Sequence[Sequence[int]],
    config: RunConfig,
    kind: Kind,
) -> list[str]:
    left = kind == "causal"
    pad_id = int(tokenizer.pad_token_id)
    inputs = pad(sources, pad_id, left=left).to(model.device)
    mask = pad([[1] * len(row) for row in sources], 0, left=left).to(model.device)
    # A sharded model gathers its weights for `generate` as a whole, not for its decoder alone.
    shares = config.num_beams > 1 and not (config.fsdp and kind == "causal")
    cache = beam_cache(model, inputs, mask, config.num_beams, kind) if shares else None
    generated = generate_ids(model, inputs, mask, config, pad_id, cache)
    width = inputs.shape[1] if kind == "causal" else 0
    texts = [decode(tokenizer, row[width:]) for row in generated.tolist()]
    for token in config.remove_tokens:
        texts = [text.replace(token, " ").strip() for text in texts]
    return texts


class _SharedCrossAttention(EncoderDecoderCache):  # type: ignore[misc]  # transformers publishes no types
    """A cache of a beam search that leaves the dialogue's part as it is: the beams of a dialogue share it."""

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Puts what each beam has written in the sequence of the beams."""
        self.self_attention_cache.reorder_cache(beam_idx)


@torch.inference_mode()
def beam_cache(
    model: "PreTrainedModel", inputs: torch.Tensor, mask: torch.Tensor, beams: int, kind: Kind
) -> Cache | None:
    """Returns the cache of a beam search that repeats no work for the beams of a dialogue; None where there is none.

    By itself `generate` copies the encoder's keys and values at every token, and reads a causal model's prompt once for
    each beam. The memory tracer does not use this cache: it sees a little more than is needed.

    Args:
        model: A causal or seq2seq model.
        inputs: (batch, length) int64.
        mask: (batch, length), 1 for tokens, 0 for padding.
        beams: Number of beams.
        kind: Of the model.
    """
    decoder_config = model.config.get_text_config(decoder=True)
    cache = DynamicCache(config=decoder_config)
    if kind == "seq2seq":
        return _SharedCrossAttention(cache, DynamicCache(config=decoder_config))
    is_recurrent = any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in cache.layers)
    if inputs.shape[1] == 1 or is_recurrent:  # there is nothing to share, or it cannot be repeated
        return None
    read = model.get_decoder()
    positions = {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)[:, :-1]}
    takes = inspect.signature(read.forward).parameters
    read(
        input_ids=inputs[:, :-1], attention_mask=mask[:, :-1], past_key_values=cache, use_cache=True,
        **(positions if "position_ids" in takes else {}),
    )  # fmt: skip
    cache.batch_repeat_interleave(beams)
    return cache


def generate_ids(
    model: "PreTrainedModel",
    inputs: torch.Tensor,
    mask: torch.Tensor,
    config: RunConfig,
    pad_id: int,
    cache: Cache | None = None,
) -> torch.Tensor:
    """Runs the beam search of a run; the memory tracer calls it too.

    Args:
        model: A causal or seq2seq model.
        inputs: (batch, length) int64.
        mask: (batch, length), 1 for tokens, 0 for padding.
        config: Beams, penalties and the longest summary.
        pad_id: Fills sequences that ended early.
        cache: See beam_cache; generate's own where None.

    Returns:
        (batch, generated length) int64; for a causal model the prompt comes first.
    """
    with torch.inference_mode():
        generated: torch.Tensor = model.generate(
            input_ids=inputs,
            attention_mask=mask,
            max_new_tokens=config.summary_max_len,
            num_beams=config.num_beams,
            length_penalty=config.length_penalty if config.num_beams > 1 else None,
            no_repeat_ngram_size=config.no_repeat_ngram_size,
            early_stopping=config.num_beams > 1,
            # A checkpoint's own settings (bart-large-cnn: no summary under 56 tokens) must have no effect.
            **({"min_new_tokens": config.generation_min_len} if config.generation_min_len else {"min_length": 0}),
            repetition_penalty=config.repetition_penalty,
            **_sampling(config),
            use_cache=True,
            past_key_values=cache,
            pad_token_id=pad_id,
        )
    return generated


def _sampling(config: RunConfig) -> dict[str, float | bool]:
    if not config.do_sample:
        return {"do_sample": False}
    return {"do_sample": True, "temperature": config.temperature, "top_k": config.top_k, "top_p": config.top_p}
