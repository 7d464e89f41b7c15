"""Tokenizers that keep placeholders whole and decode losslessly."""

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dialsum.cache import read_cached, write_cached
from dialsum.cleaning import find_placeholders
from dialsum.config import RunConfig
from dialsum.models import BROKEN, hub_options, reason_of, repository_of, resolve
from dialsum.tiny_models import train_tokenizer, wrap_tokenizer
from tuning_common.errors import RequestError

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer
    from transformers import PreTrainedTokenizerBase

_FORMAT = 2  # part of the cache key: change it when training of the tiny tokenizer changes
_MARKER = re.compile(r"<[^<>\s]+>|\[[A-Z]+\]")  # <usr>, <extra_id_0>, [PAD]: never part of a summary
_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_FILES = (  # any of them is a tokenizer; without one, transformers would make an empty tokenizer
    "tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "spm.model", "vocab.json",
    "vocab.txt", "tokenizer_config.json",
)  # fmt: skip
MIN_KEPT_LETTERS = 0.8  # an English vocabulary keeps under a tenth of a Korean text
_CHECKED_TEXTS = 100


def build_tokenizer(config: RunConfig, texts: Sequence[str], cache_dir: Path) -> "PreTrainedTokenizerBase":
    """Loads a model's tokenizer, or trains that of a tiny model, and adds every placeholder of the data as one token.

    Adds none for an adapter: its base is frozen and cannot learn the new tokens.

    Args:
        config: Names the model.
        texts: Dialogues and summaries of the training data; none for a finished model, which has its placeholders.
        cache_dir: Folder of trained tokenizers, shared by the trials of a sweep.

    Raises:
        RequestError: When the tokenizer cannot be loaded, or cannot represent the language of the texts.
    """
    spec = resolve(config.model)
    placeholders = find_placeholders(texts) if config.adapter_type is None else ()
    if spec.hub_id is None:
        return _learned(texts, placeholders, config.tiny_vocab_size, cache_dir)
    from tokenizers import AddedToken

    try:
        tokenizer = _load(spec.hub_id, spec.special_tokens)
    except (OSError, *BROKEN, ImportError) as error:
        raise RequestError(f"the tokenizer of {spec.hub_id!r} cannot be loaded", [reason_of(error)]) from None
    # Not special tokens: skip_special_tokens would drop them from predictions and references.
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in placeholders])
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    kept = kept_letters(tokenizer, texts[:_CHECKED_TEXTS])
    if kept < MIN_KEPT_LETTERS:
        raise RequestError(
            f"model {spec.name!r} cannot write the language of the training data:"
            f" its tokenizer gives back {kept:.0%} of the letters",
            ["for Korean take kobart, kogpt2, t5 (pko-t5) or mt5; for English t5-small, t5-base or mt5"],
        )
    return tokenizer


def _load(hub_id: str, special_tokens: Mapping[str, str]) -> "PreTrainedTokenizerBase":
    """Loads a tokenizer that keeps the blanks around placeholders.

    Uses the repository's tokenizer.json unchanged: transformers 5 rebuilds some families (GPT2Tokenizer) by their usual
    rules and then loses every Hangul letter of KoGPT2.
    """
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.utils.hub import cached_file

    if Path(hub_id).is_dir() and not any((Path(hub_id) / name).exists() for name in _FILES):
        raise ValueError(f"there is none: save it beside the model ({', '.join(_FILES[:3])} ...)")
    options, repository = hub_options(hub_id), repository_of(hub_id)[0]
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(repository, **special_tokens, **options)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return tokenizer
    own = cached_file(
        repository,
        "tokenizer.json",
        _raise_exceptions_for_missing_entries=False,
        local_files_only=options["local_files_only"],
        revision=options["revision"],
    )
    backend = Tokenizer.from_file(own) if own else Tokenizer.from_str(backend.to_str())
    _prefix_only_the_start(backend)
    names = {name: getattr(tokenizer, name) for name in _NAMED_TOKENS if getattr(tokenizer, name) is not None}
    wrapped: PreTrainedTokenizerBase = PreTrainedTokenizerFast(
        tokenizer_object=backend, clean_up_tokenization_spaces=False, chat_template=tokenizer.chat_template, **names
    )
    return wrapped


def _prefix_only_the_start(backend: "Tokenizer") -> None:
    """Keeps a SentencePiece-like tokenizer from reading `#Person1#은` as `#Person1# 은`.

    Such tokenizers add a blank before every piece of text, also after an added token. Texts without placeholders are
    encoded as before. Other kinds (byte level) keep blanks anyway.
    """
    from tokenizers import pre_tokenizers

    if '"Metaspace"' in str(json.loads(backend.to_str())["pre_tokenizer"]).replace("'", '"'):
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")


def kept_letters(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> float:
    """Measures how much of some texts is preserved by encoding and decoding.

    Returns:
        The share of letters and digits that come back, 0 to 1; 1 for no texts.
    """
    before, after = Counter[str](), Counter[str]()
    for text in texts:
        before.update(_letters(text))
        after.update(_letters(decode(tokenizer, tokenizer(text, add_special_tokens=False)["input_ids"])))
    return (before & after).total() / before.total() if before else 1.0


def _letters(text: str) -> list[str]:
    return [letter for letter in unicodedata.normalize("NFKC", text).casefold() if letter.isalnum()]


def decode(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> str:
    """Decodes generated tokens: removes markers such as `</s>` and `<usr>`, keeps placeholders and smileys.

    Args:
        tokenizer: The tokenizer of the encoding.
        ids: Generated tokens, with start, end and padding.
    """
    named = set(tokenizer.all_special_ids)
    added = tokenizer.added_tokens_decoder
    text: str = tokenizer.decode(
        [index for index in ids if index not in named and not (index in added and _is_marker(added[index]))],
        skip_special_tokens=False,
        clean_up_tokenization_spaces=False,
    )
    return text.strip()


def _is_marker(token: "AddedToken") -> bool:
    # KoBART's smileys are special tokens too, and its start token <usr> is not a named one.
    return bool(token.special and _MARKER.fullmatch(token.content))


def fingerprint(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Returns a SHA-256 of a tokenizer's behaviour: vocabulary, merges, added tokens and end token."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    content += json.dumps(tokenizer.special_tokens_map, default=str, sort_keys=True)
    return hashlib.sha256(content.encode("utf-8")).hexdigest()


def _learned(
    texts: Sequence[str], placeholders: Sequence[str], vocab_size: int, cache_dir: Path
) -> "PreTrainedTokenizerBase":
    from tokenizers import Tokenizer

    key = json.dumps([_FORMAT, vocab_size, sorted(placeholders), sorted(set(texts))], ensure_ascii=False)
    path = cache_dir / "tokenizers" / hashlib.sha256(key.encode("utf-8")).hexdigest()[:24]
    cached = read_cached(path)
    if cached is None:
        trained: str = train_tokenizer(texts, placeholders, vocab_size).backend_tokenizer.to_str()
        cached = trained.encode("utf-8")
        write_cached(path, cached)
    return wrap_tokenizer(Tokenizer.from_str(cached.decode("utf-8")))
