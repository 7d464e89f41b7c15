"""The language of reports and of the terminal. Messages are written in English; korean.yaml has the Korean ones."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.resources import files
from typing import Literal, get_args

from tuning_common.units import format_duration, parse_duration

Language = Literal["en", "ko"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
_UNITS = {"d": "일", "h": "시간", "min": "분", "s": "초"}
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


def duration_text(duration_s: float) -> str:
    """Formats a duration in the current language.

    >>> with use_language("ko"):
    ...     [duration_text(seconds) for seconds in (42, 172, 5400)]
    ['42초', '2분 52초', '1시간 30분']
    """
    return in_units(format_duration(duration_s))


def in_units(duration: str) -> str:
    """Returns a duration of format_duration with the units of the current language."""
    return duration if _CURRENT.get() == "en" else re.sub(r" (d|h|min|s)\b", lambda found: _UNITS[found[1]], duration)


def parse_duration_text(text: str) -> float:
    """Returns the seconds that duration_text shows.

    >>> with use_language("ko"):
    ...     parse_duration_text("2분 52초")
    172.0
    """
    for unit, korean_unit in _UNITS.items():
        text = text.replace(korean_unit, unit)
    return parse_duration(text)


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
