"""Cleans text: one kind of line break, no markup, one spelling of placeholders such as #Person1#."""

import re
import unicodedata
from collections.abc import Iterable

PLACEHOLDER = re.compile(r"#[A-Za-z]+\d*#")
"""A whole placeholder. Tokenizers and scorers must never split one."""

PLACEHOLDER_NAMES = (
    "PersonN",
    "Person",
    "PhoneNumber",
    "Address",
    "DateOfBirth",
    "PassportNumber",
    "SSN",
    "CardNumber",
    "CarNumber",
    "Email",
)

_CANONICAL = {name.lower(): name for name in PLACEHOLDER_NAMES}
_DIRTY_PLACEHOLDER = re.compile(rf"[#＃][ \t]*({'|'.join(PLACEHOLDER_NAMES)})[ \t]*(\d*)[ \t]*[#＃]", re.IGNORECASE)
_LINE_BREAK = re.compile(
    r"\r\n|\r|\\r\\n|\\n|<br[^\S\r\n]*/?>", re.IGNORECASE
)  # `\\n`: a backslash and an n, from bad exports
_INVISIBLE = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff"))  # zero-width characters, which split tokens
_BLANKS = re.compile(r"[^\S\n]+")


def clean_text(text: str) -> str:
    """Removes the noise of exported dialogue files; idempotent.

    Line breaks written as a backslash and an n, or as `<br>`, become line breaks. Known placeholders get their correct
    spelling. Hangul is composed (NFC), as files from macOS are decomposed. Repeated blanks, empty lines and invisible
    characters are removed.

    >>> clean_text(r"#Person1#: 안녕하세요.<br>#PErson2#:  네,  안녕하세요.\\n")
    '#Person1#: 안녕하세요.\\n#Person2#: 네, 안녕하세요.'
    """
    text = _LINE_BREAK.sub("\n", unicodedata.normalize("NFC", text.translate(_INVISIBLE)))
    text = _DIRTY_PLACEHOLDER.sub(lambda found: f"#{_CANONICAL[found[1].lower()]}{found[2]}#", text)
    lines = (_BLANKS.sub(" ", line).strip() for line in text.split("\n"))
    return "\n".join(line for line in lines if line)


def find_placeholders(texts: Iterable[str]) -> tuple[str, ...]:
    """Returns the distinct placeholders of some texts, sorted.

    >>> find_placeholders(["#Person2#: #PhoneNumber#로 전화 주세요.", "#Person1#: 네, #Person2#님."])
    ('#Person1#', '#Person2#', '#PhoneNumber#')
    """
    return tuple(sorted({found for text in texts for found in PLACEHOLDER.findall(text)}))
