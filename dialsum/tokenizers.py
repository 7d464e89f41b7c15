"""Tokenizers: placeholders stay whole, and decoding gives back the text that was encoded."""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import RequestError
from dialsum.config import RunConfig
from dialsum.models import resolve
from dialsum.tiny_models import train_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLACEHOLDER = re.compile(r"#[A-Za-z]+\d*#")
# Particles follow a placeholder without a blank; decoders that put a blank behind every added token separate them.
_PARTICLES = (
    *("은", "는", "이", "가", "을", "를", "의", "에", "에게", "에게서", "께", "께서", "한테", "와", "과", "랑", "이랑"),
    *(
        "도",
        "만",
        "로",
        "으로",
        "부터",
        "까지",
        "보다",
        "처럼",
        "이나",
        "나",
        "이고",
        "이며",
        "에서",
        "에는",
        "에도",
        "님",
        "씨",
    ),
)
_SEPARATED_PARTICLE = re.compile(rf"(#[A-Za-z]+\d*#) (?=(?:{'|'.join(_PARTICLES)})(?:\s|[.,!?]|$))")
_FORMAT = 1  # part of the cache key: change it when training of the tiny tokenizer changes


def placeholders_in(texts: Iterable[str]) -> tuple[str, ...]:
    """Lists the placeholders of texts, each once, sorted.

    >>> placeholders_in(["#Person2#: #PhoneNumber# 맞나요?", "#Person2#"])
    ('#Person2#', '#PhoneNumber#')
    """
    return tuple(sorted({match for text in texts for match in PLACEHOLDER.findall(text)}))


def build_tokenizer(config: RunConfig, texts: Sequence[str], cache_dir: Path) -> "PreTrainedTokenizerBase":
    """Loads a model's tokenizer, or learns that of a tiny model, and makes every placeholder of the data one token.

    Args:
        config: Names the model.
        texts: Dialogues and summaries of the training data.
        cache_dir: Learned tokenizers are kept here, so that the trials of a sweep learn one once.

    Raises:
        RequestError: When the tokenizer cannot be loaded.
    """
    spec = resolve(config.model)
    placeholders = placeholders_in(texts)
    if spec.hub_id is None:
        return _learned(texts, placeholders, config.tiny_vocab_size, cache_dir)
    from tokenizers import AddedToken
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(spec.hub_id, **spec.special_tokens)
    except (OSError, ValueError) as error:
        raise RequestError(f"the tokenizer of {spec.hub_id!r} cannot be loaded", [str(error).splitlines()[0]]) from None
    # Special tokens would be dropped from predictions and references by skip_special_tokens; so these are not special.
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in placeholders])
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def decode(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> str:
    """Turns generated tokens into text: special tokens go, placeholders stay, particles join their placeholder.

    Args:
        tokenizer: The one that encoded.
        ids: Generated tokens, with start, end and padding.
    """
    special = set(tokenizer.all_special_ids)
    text = tokenizer.decode(
        [index for index in ids if index not in special], skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    return rejoin_particles(text).strip()


def rejoin_particles(text: str) -> str:
    """Removes the blank that some decoders put between a placeholder and its particle.

    >>> rejoin_particles("#Person1# 은 #Person2# 에게 전화했다. #Person1# 나중에")
    '#Person1#은 #Person2#에게 전화했다. #Person1# 나중에'
    """
    return _SEPARATED_PARTICLE.sub(r"\1", text)


def fingerprint(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Identifies a tokenizer by what it does: its vocabulary, merges and added tokens (SHA-256)."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return hashlib.sha256(content.encode("utf-8")).hexdigest()


def _learned(
    texts: Sequence[str], placeholders: Sequence[str], vocab_size: int, cache_dir: Path
) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    key = json.dumps([_FORMAT, vocab_size, sorted(placeholders), sorted(set(texts))], ensure_ascii=False)
    folder = cache_dir / "tokenizers" / hashlib.sha256(key.encode("utf-8")).hexdigest()[:24]
    if not folder.exists():
        save_folder(folder, train_tokenizer(texts, placeholders, vocab_size).save_pretrained)
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(folder))
    return loaded


def save_folder(folder: Path, save: Callable[[str], object]) -> None:
    """Writes a folder whole, by renaming a temporary one. When another process was first, its folder stays.

    Args:
        folder: The target.
        save: Takes the folder to write to.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        save(str(temporary))
        os.chmod(temporary, 0o755)
        os.replace(temporary, folder)
    except OSError:
        if not folder.exists():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
