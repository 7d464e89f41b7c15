"""The language of reports and of the terminal. Messages are written in English; korean.yaml has the Korean ones."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.resources import files
from typing import Literal, get_args

Language = Literal["en", "ko"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
_CURRENT: ContextVar[Language] = ContextVar("language", default="en")


def tr(message: str, /, **values: object) -> str:
    """Returns a message in the current language, with its values.

    Args:
        message: In English, as a literal, so that a test finds it; a name in braces stands for a value.
        values: The values by name.

    >>> tr("{count} trials", count=12)
    '12 trials'
    >>> with use_language("ko"):
    ...     tr("{count} trials", count=12)
    '시도 12개'
    """
    text = message if _CURRENT.get() == "en" else korean().get(message, message)
    return text.format(**values) if values else text


@contextmanager
def use_language(language: Language) -> Iterator[None]:
    """Makes a language the current one for a block."""
    token = _CURRENT.set(language)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def current_language() -> Language:
    """Returns the language of the messages."""
    return _CURRENT.get()


@cache
def korean() -> dict[str, str]:
    """Returns the Korean messages by their English ones."""
    from tuning_common.strict import parse_yaml  # every command imports this module for its option --language

    text = files("tune_jobs.config").joinpath("korean.yaml").read_text(encoding="utf-8")
    messages = parse_yaml(text, "korean.yaml").data
    assert isinstance(messages, dict)
    return messages
