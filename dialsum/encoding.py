"""Encodes dialogues and summaries as token ids: cached by content, padded per batch."""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dialsum.cache import read_cached, write_cached
from dialsum.config import RunConfig
from dialsum.models import Kind, resolve
from dialsum.prompts import prompt_around
from dialsum.sampling import FILLER
from dialsum.step import IGNORED_LABEL, counted_positions
from dialsum.tokenizers import fingerprint
from tuning_common.errors import RequestError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from dialsum.data import Example

_FORMAT = 2  # part of the cache key: change it when encoding changes

Item = dict[str, list[int]]


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """Token ids of a data file.

    Attributes:
        sources: Model input: the dialogue; for a causal model with the prompt around it.
        targets: The summary with the end token; the first of several summaries.
        cut_dialogues: Number of dialogues longer than encoder_max_len.
        cut_summaries: Number of summaries longer than decoder_max_len.
    """

    sources: tuple[tuple[int, ...], ...]
    targets: tuple[tuple[int, ...], ...]
    cut_dialogues: int
    cut_summaries: int


def encode(
    examples: Sequence["Example"], tokenizer: "PreTrainedTokenizerBase", config: RunConfig, cache_dir: Path
) -> Encoding:
    """Encodes examples, or reads them from the cache.

    Args:
        examples: Dialogues, with summaries or without.
        tokenizer: See tokenizers.build_tokenizer.
        config: Gives the lengths and, for a causal model, the language of the prompt.
        cache_dir: Holds one file per content; a damaged file is replaced.

    Raises:
        RequestError: When there is no chat template for the prompt, or the prompt fills encoder_max_len.
    """
    spec = resolve(config.model)
    texts = [(_source(example, config), example.summaries[0] if example.summaries else "") for example in examples]
    if spec.kind == "seq2seq" and config.prompt == "chat":
        raise RequestError(f"prompt chat: {config.model!r} reads the dialogue alone (seq2seq); take prompt: plain")
    around = prompt_around(config, tokenizer) if spec.kind == "causal" else None
    settings = [_FORMAT, spec.kind, spec.architecture, config.encoder_max_len, config.decoder_max_len, around]
    key = hashlib.sha256(
        json.dumps([settings, fingerprint(tokenizer), texts], ensure_ascii=False).encode("utf-8")
    ).hexdigest()
    path = cache_dir / "encodings" / key[:32]
    cached = read_cached(path)
    if cached is not None:
        return _from_npz(cached)
    encoding = _encode(texts, tokenizer, config, around, begins=spec.architecture == "bart")
    write_cached(path, _to_npz(encoding))
    return encoding


def _source(example: "Example", config: RunConfig) -> str:
    return f"{example.topic}\n{example.dialogue}" if config.use_topic and example.topic else example.dialogue


def _encode(
    texts: Sequence[tuple[str, str]],
    tokenizer: "PreTrainedTokenizerBase",
    config: RunConfig,
    around: tuple[str, str] | None,
    *,
    begins: bool,
) -> Encoding:
    dialogues = _ids(tokenizer, [dialogue for dialogue, _ in texts])
    summaries = _ids(tokenizer, [summary for _, summary in texts])
    end = [tokenizer.eos_token_id]
    if around is not None:
        before, behind = _ids(tokenizer, around)
    else:  # BART was trained with a begin token; KoBART's tokenizer adds neither begin nor end by itself
        before = [tokenizer.bos_token_id] if begins and tokenizer.bos_token_id is not None else []
        behind = end
    room = config.encoder_max_len - len(before) - len(behind)
    if room < 1:
        raise RequestError(
            f"encoder_max_len {config.encoder_max_len} leaves no token to the dialogue; the prompt has more"
        )
    return Encoding(
        sources=tuple(tuple(before + ids[:room] + behind) for ids in dialogues),
        targets=tuple(tuple(ids[: config.decoder_max_len - 1] + end) for ids in summaries),
        cut_dialogues=sum(len(ids) > room for ids in dialogues),
        cut_summaries=sum(len(ids) > config.decoder_max_len - 1 for ids in summaries),
    )


def _ids(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> list[list[int]]:
    if not texts:
        return []
    encoded: list[list[int]] = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    return encoded


class EncodedDataset(Dataset[Item]):
    """Items for the trainer: `input_ids` and `labels`.

    For a causal model one sequence holds prompt and summary, and the prompt has no loss. The item FILLER has no loss:
    it gives processes that share a batch the same number of items.
    """

    def __init__(self, encoding: Encoding, kind: Kind) -> None:
        self._items: list[Item] = [_item(*pair, kind) for pair in zip(encoding.sources, encoding.targets, strict=True)]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Item:
        if index == FILLER:
            start = (self._items[0]["input_ids"] * 2)[:2]  # a causal model's loss needs two positions
            return {"input_ids": start, "labels": [IGNORED_LABEL] * len(start)}
        return self._items[index]


def longest_first(encoding: Encoding) -> Encoding:
    """Sorts the examples by descending length, for little padding."""
    pairs = sorted(zip(encoding.sources, encoding.targets, strict=True), key=lambda pair: -len(pair[0]))
    return replace(encoding, sources=tuple(a for a, _ in pairs), targets=tuple(b for _, b in pairs))


def _item(source: Sequence[int], target: Sequence[int], kind: Kind) -> Item:
    if kind == "seq2seq":
        return {"input_ids": list(source), "labels": list(target)}
    return {"input_ids": [*source, *target], "labels": [IGNORED_LABEL] * len(source) + list(target)}


@dataclass(frozen=True, kw_only=True)
class Collator:
    """Pads a batch to its own longest sequence.

    Attributes:
        pad_id: Fills `input_ids`; labels are filled with -100.
        kind: Of the model, which decides at which positions it predicts a label.
        multiple: Lengths are rounded up to a multiple of it (8 suits tensor cores).

    >>> collator = Collator(pad_id=0, kind="seq2seq")
    >>> batch = collator([{"input_ids": [5, 6], "labels": [7]}, {"input_ids": [5], "labels": [7, 8]}])
    >>> batch["input_ids"].tolist(), batch["attention_mask"].tolist(), batch["labels"].tolist()
    ([[5, 6], [5, 0]], [[1, 1], [1, 0]], [[7, -100], [7, 8]])
    >>> batch["positions"].tolist()
    [0, 2, 3]
    """

    pad_id: int
    kind: Kind
    multiple: int = 1

    def __call__(self, items: Sequence[Mapping[str, list[int]]]) -> dict[str, Tensor]:
        """Returns int64 tensors `input_ids`, `attention_mask` (batch, longest source), `labels` and `positions`.

        The positions are those of step.counted_positions: made here, on the host.
        """
        inputs = [item["input_ids"] for item in items]
        labels = pad([item["labels"] for item in items], IGNORED_LABEL, multiple=self.multiple)
        return {
            "input_ids": pad(inputs, self.pad_id, multiple=self.multiple),
            "attention_mask": pad([[1] * len(ids) for ids in inputs], 0, multiple=self.multiple),
            "labels": labels,
            "positions": counted_positions(labels, causal=self.kind == "causal"),
        }


def pad(rows: Sequence[Sequence[int]], filler: int, *, multiple: int = 1, left: bool = False) -> Tensor:
    """Pads rows to one width.

    Args:
        rows: Token ids of different lengths.
        filler: Padding value.
        multiple: The width is rounded up to a multiple of it.
        left: Whether padding comes before the tokens, for generation with a causal model.

    Returns:
        An int64 tensor (rows, width).

    >>> pad([[1, 2, 3], [4]], 0, multiple=4, left=True).tolist()
    [[0, 1, 2, 3], [0, 0, 0, 4]]
    """
    longest = max(len(row) for row in rows)
    width = -(-longest // multiple) * multiple
    blanks = [[filler] * (width - len(row)) for row in rows]
    return torch.tensor([[*b, *row] if left else [*row, *b] for row, b in zip(rows, blanks, strict=True)])


def _to_npz(encoding: Encoding) -> bytes:
    buffer = io.BytesIO()
    arrays = {"cut": np.array([encoding.cut_dialogues, encoding.cut_summaries])}
    for name, rows in (("source", encoding.sources), ("target", encoding.targets)):
        arrays[f"{name}_ids"] = np.array([index for row in rows for index in row], dtype=np.int32)
        arrays[f"{name}_ends"] = np.cumsum([len(row) for row in rows], dtype=np.int64)
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _from_npz(content: bytes) -> Encoding:
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        source, target = (
            tuple(tuple(part.tolist()) for part in np.split(arrays[f"{name}_ids"], arrays[f"{name}_ends"][:-1]))
            for name in ("source", "target")
        )
        cut_dialogues, cut_summaries = arrays["cut"].tolist()
    return Encoding(sources=source, targets=target, cut_dialogues=cut_dialogues, cut_summaries=cut_summaries)
