"""Bytes and seconds inside the code; GiB and minutes for people."""

import re

_BYTE_UNITS = {
    "B": 1,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}
_SECOND_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def parse_bytes(text: str) -> int:
    """Parses a size.

    Args:
        text: A number and a unit: B, KiB, MiB, GiB, TiB (powers of 1024) or KB, MB, GB, TB (powers of 1000).

    Returns:
        Bytes.

    Raises:
        ValueError: When the text is not a size; the message shows a valid one.

    >>> parse_bytes("24GiB"), parse_bytes("1.5 KB")
    (25769803776, 1500)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", text)
    unit = _BYTE_UNITS.get(match.group(2).upper()) if match else None
    if match is None or unit is None:
        raise ValueError(f"{text!r} is no size; write a number and one of B, KiB, MiB, GiB, TiB, for example 24GiB")
    return round(float(match.group(1)) * unit)


def format_bytes(size_bytes: float) -> str:
    """Formats a size for people, with three significant digits.

    >>> format_bytes(25769803776), format_bytes(512), format_bytes(-1610612736)
    ('24.0 GiB', '512 B', '-1.50 GiB')
    """
    size = abs(size_bytes)
    sign = "-" if size_bytes < 0 else ""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{sign}{_three_digits(size) if unit != 'B' else format(size, '.0f')} {unit}"
        size /= 1024
    return f"{sign}{_three_digits(size)} TiB"


def counted(count: float, noun: str, plural: str = "") -> str:
    """Formats a number with its noun.

    Args:
        count: How many.
        noun: For one of them.
        plural: For others; the noun with an s where empty.

    >>> counted(1, "CPU"), counted(2500, "trial"), counted(0.5, "CPU"), counted(0, "summary", "summaries")
    ('1 CPU', '2,500 trials', '0.5 CPUs', '0 summaries')
    """
    return f"{count:,g} {noun if count == 1 else plural or noun + 's'}"


def parse_duration(text: str) -> float:
    """Parses a duration.

    Args:
        text: One or more numbers with units s, m (or min), h, d.

    Returns:
        Seconds.

    Raises:
        ValueError: When the text is not a duration.

    >>> parse_duration("90s"), parse_duration("1h30m")
    (90.0, 5400.0)
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*(min|s|m|h|d)", text)
    if not parts or "".join(a + b for a, b in parts) != re.sub(r"\s+", "", text):
        raise ValueError(f"{text!r} is no duration; write for example 90s, 20m, 1h30m or 2d")
    return float(sum(float(number) * _SECOND_UNITS[unit] for number, unit in parts))


def format_duration(duration_s: float) -> str:
    """Formats a duration for people.

    >>> [format_duration(s) for s in (0.25, 42, 61, 5400, 93600)]
    ['0.2 s', '42 s', '1 min 01 s', '1 h 30 min', '1 d 2 h']
    """
    if duration_s < 10:
        return f"{duration_s:.1f} s"
    seconds = round(duration_s)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    if seconds < 86400:
        return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
    return f"{seconds // 86400} d {seconds % 86400 // 3600} h"


def _three_digits(value: float) -> str:
    if value < 10:
        return f"{value:.2f}"
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"
