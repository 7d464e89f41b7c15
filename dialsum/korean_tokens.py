"""Korean morphemes for scoring: Kiwi with whole placeholders. The only module that imports kiwipiepy.

Kiwi takes 3 seconds and 600 MB to load, so it is loaded on first use, once per process.
"""

import functools
import importlib.metadata
import threading
from typing import Protocol, cast

from dialsum.cleaning import PLACEHOLDER

KIWI_MODEL_TYPE = "cong"  # pinned: another model gives other tokens and incomparable scores
_loading = threading.Lock()


class _Token(Protocol):
    form: str


class _Kiwi(Protocol):
    def tokenize(self, text: str, *, pretokenized: list[tuple[int, int, str]]) -> list[_Token]: ...


class KiwiTokenizer:
    """Splits Korean text into the surface forms of its morphemes.

    By default Kiwi reads `#Person1#은` as two hashtags, `#Person1` and `#은`, so this class passes it the positions of
    placeholders. Forms may contain blanks: do not join the list by blanks.

    >>> KiwiTokenizer().tokenize("#Person1#은 병원에 갔다.")
    ['#Person1#', '은', '병원', '에', '가', '었', '다', '.']
    """

    def tokenize(self, text: str) -> list[str]:
        """Returns the morphemes in order; none for blank text."""
        places = [(found.start(), found.end(), "NNP") for found in PLACEHOLDER.finditer(text)]
        return [token.form for token in _kiwi().tokenize(text, pretokenized=places)]


def kiwi_version() -> str:
    """Returns the version of the analyser, its dictionary and model, without loading them."""
    return f"{importlib.metadata.version('kiwipiepy')}/model-{importlib.metadata.version('kiwipiepy_model')}"


def _kiwi() -> _Kiwi:
    with _loading:  # two threads must not load 600 MB twice
        return _load_kiwi()


@functools.cache
def _load_kiwi() -> _Kiwi:
    from kiwipiepy import Kiwi

    return cast(_Kiwi, Kiwi(num_workers=1, model_type=KIWI_MODEL_TYPE))
