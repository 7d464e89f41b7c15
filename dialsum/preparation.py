"""Prepares a run: reads and encodes the data, builds tokenizer and model."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import set_seed

from dialsum.config import RunConfig
from dialsum.data import Example, load_examples
from dialsum.encoding import Encoding, encode
from dialsum.models import Kind, build_model, resolve
from dialsum.tokenizers import build_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A run before its first step.

    Attributes:
        kind: seq2seq or causal.
        architecture: bart, gpt2, t5, mt5 or another model type.
        tokenizer: Includes the placeholders of the training data.
        model: The model, on the CPU.
        train: Encoded training data.
        dev: Encoded dev data, in the order of dev_examples.
        dev_examples: The dev data, for the references of ROUGE.
    """

    kind: Kind
    architecture: str
    tokenizer: "PreTrainedTokenizerBase"
    model: "PreTrainedModel"
    train: Encoding
    dev: Encoding
    dev_examples: Sequence[Example]


def prepare(config: RunConfig, cache_dir: Path) -> Prepared:
    """Reads and encodes the data and builds tokenizer and model.

    Args:
        config: The run.
        cache_dir: Tokenizers and encodings, shared by the trials of a sweep.

    Raises:
        RequestError: When a file, the tokenizer or the model cannot be used.
    """
    train_examples = load_examples(Path(config.train_file), columns=config.columns)[: config.max_train_samples]
    dev_examples = load_examples(Path(config.dev_file), columns=config.columns)[: config.max_eval_samples]
    texts = [text for example in train_examples for text in (example.dialogue, *example.summaries)]
    tokenizer = build_tokenizer(config, texts, cache_dir)
    set_seed(config.seed)  # weights of a tiny model must depend on the seed only, not on the cache
    spec = resolve(config.model)
    prepared = Prepared(
        kind=spec.kind,
        architecture=spec.architecture,
        tokenizer=tokenizer,
        model=build_model(config, tokenizer),
        train=encode(train_examples, tokenizer, config, cache_dir),
        dev=encode(dev_examples, tokenizer, config, cache_dir),
        dev_examples=dev_examples,
    )
    for name, encoding in (("training", prepared.train), ("dev", prepared.dev)):
        if encoding.cut_dialogues or encoding.cut_summaries:
            logger.warning(
                "%s data: %d of %d dialogues and %d summaries are longer than the limits and were cut",
                name, encoding.cut_dialogues, len(encoding.sources), encoding.cut_summaries,
            )  # fmt: skip
    return prepared
