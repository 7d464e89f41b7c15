"""Korean particles that follow the last sound of a word: 은/는, 이/가, 을/를, 과/와, 으로/로 and the like."""

import re

from dialsum.cleaning import PLACEHOLDER

WITHOUT_FINAL = {
    "은": "는",
    "이": "가",
    "을": "를",
    "과": "와",
    "으로": "로",
    "이에요": "예요",
    "이라고": "라고",
    "이라는": "라는",
    "이야": "야",
    "이요": "요",
    "이고": "고",
}
"""Each particle after a final consonant, and what it is after a vowel."""

_NO_FINAL = 0
_RIEUL = 8  # ㄹ, the one final consonant after which 으로 loses its 으
_SYLLABLES = (0xAC00, 0xD7A3)
_FINALS = 28
_DIGITS = "영일이삼사오육칠팔구"
_READ_ALOUD = {  # pronunciation of the last syllable of a placeholder
    "#Address#": "스",
    "#CardNumber#": "버",
    "#CarNumber#": "버",
    "#DateOfBirth#": "스",
    "#Email#": "일",
    "#PassportNumber#": "버",
    "#PhoneNumber#": "버",
    "#SSN#": "엔",
}


def with_particle(word: str, particle: str) -> str:
    """Returns the word followed by the right form of a particle.

    Args:
        word: Ends in Hangul, a digit (read as in Korean) or a placeholder; #Person1# is read 일, #Person2# 이.
        particle: The form after a consonant, a key of WITHOUT_FINAL.

    Raises:
        ValueError: When the particle is unknown or the word's last sound is unknown.

    >>> [with_particle(word, "을") for word in ("노트북", "커피", "#Person1#", "#Person2#")]
    ['노트북을', '커피를', '#Person1#을', '#Person2#를']
    >>> [with_particle(word, "으로") for word in ("집", "서울", "버스")]
    ['집으로', '서울로', '버스로']
    """
    if particle not in WITHOUT_FINAL:
        raise ValueError(f"unknown particle {particle!r}; known: {', '.join(WITHOUT_FINAL)}")
    final = _final_consonant(word)
    vowel_like = final == _NO_FINAL or (particle == "으로" and final == _RIEUL)
    return word + (WITHOUT_FINAL[particle] if vowel_like else particle)


def _final_consonant(word: str) -> int:
    """Index of the last syllable's final consonant in the Unicode order; 0 for none."""
    last = word[-1:]
    if PLACEHOLDER.fullmatch(word):
        last = _READ_ALOUD.get(word) or word[-2]
    if re.fullmatch("[0-9]", last):
        last = _DIGITS[int(last)]
    if not last or not _SYLLABLES[0] <= ord(last) <= _SYLLABLES[1]:
        raise ValueError(f"cannot tell the last sound of {word!r}")
    return (ord(last) - _SYLLABLES[0]) % _FINALS
