"""Searched parameters as axes: scale, position and display of a value. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Scale = Literal["log", "linear", "category"]
_FEW = 6  # up to this many different numbers are shown as categories, for example batch sizes
_LOG_RATIO = 20.0  # high / low above which an axis is logarithmic by default
_ALWAYS_LOG = frozenset({"learning_rate"})  # compared by factors, also where the file lists three values


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One searched parameter.

    Attributes:
        name: A field of RunConfig.
        scale: How its axis is divided.
        values: Different values: numbers ascending, names in order of first use.
        low: Lower end of the searched range, or of the values where the range is not known; 0 for categories.
        high: Upper end; for categories the number of values minus one.
    """

    name: str
    scale: Scale
    values: tuple[object, ...]
    low: float
    high: float

    def position(self, value: object) -> float:
        """Returns the position of a value on the axis, 0 to 1.

        >>> rates = Parameter(name="learning_rate", scale="log", values=(1e-5, 1e-3), low=1e-5, high=1e-3)
        >>> rates.position(1e-4)
        0.5
        """
        if self.scale == "category":
            index = self.values.index(_comparable(value))
            return index / self.high if self.high > 0 else 0.5
        number = to_number(value)
        assert number is not None
        low, high = self.low, self.high
        if self.scale == "log":
            low, high, number = math.log10(low), math.log10(high), math.log10(number)
        return round((number - low) / (high - low), 12) if high > low else 0.5

    def show(self, value: object) -> str:
        """Formats one of its values for people."""
        return show_value(value)


def find_parameters(
    sampled: Sequence[Mapping[str, object]], specs: Mapping[str, Mapping[str, object]]
) -> tuple[tuple[Parameter, ...], dict[str, object]]:
    """Returns the searched parameters.

    Args:
        sampled: Settings of every trial.
        specs: The sweep file's specification of each parameter; may be empty.

    Returns:
        Parameters with at least two values, the learning rate first, and the others with their one value. The seed is
        left out: it is noise.
    """
    names = list(dict.fromkeys(name for settings in sampled for name in settings if name != "seed"))
    names.sort(key=lambda name: name != "learning_rate")
    found: list[Parameter] = []
    fixed: dict[str, object] = {}
    for name in names:
        values = _distinct([settings[name] for settings in sampled if name in settings])
        if len(values) < 2:
            fixed[name] = values[0]
        else:
            found.append(_parameter(name, values, specs.get(name, {})))
    return tuple(found), fixed


def to_number(value: object) -> float | None:
    """Returns a finite number as float; None for anything else, also for booleans."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def show_value(value: object) -> str:
    """Formats a setting for people.

    >>> [show_value(v) for v in (3e-05, 0.1, 16, 0.00123456, True, None, (0.3, 0.4), "kobart", 0.1234567)]
    ['3e-5', '0.1', '16', '1.23e-3', 'yes', 'none', '0.3, 0.4', 'kobart', '0.123']
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(show_value(item) for item in value)
    number = to_number(value)
    if number is None or isinstance(value, int):
        return str(value)
    if number != 0 and not 0.01 <= abs(number) < 1e5:
        mantissa, exponent = f"{number:.2e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{number:.3g}"


def show_spec(spec: Mapping[str, object]) -> str:
    """Formats a sweep file's specification of a parameter for people.

    >>> show_spec({"distribution": "log_uniform_values", "min": 1e-05, "max": 0.0001}), show_spec({"values": [8, 16]})
    ('1e-5 to 1e-4', '8, 16')
    """
    if "min" in spec:
        return f"{show_value(spec['min'])} to {show_value(spec['max'])}"
    if "values" in spec:
        return show_value(spec["values"])
    return show_value(spec["value"]) if "value" in spec else str(spec.get("distribution"))


def _parameter(name: str, values: list[object], spec: Mapping[str, object]) -> Parameter:
    numbers = [to_number(value) for value in values]
    known = sorted(number for number in numbers if number is not None)
    listed = "values" in spec or (not spec and len(values) <= _FEW)
    if len(known) < len(values) or (listed and name not in _ALWAYS_LOG):
        ordered = sorted(values, key=lambda value: to_number(value) or 0.0) if len(known) == len(values) else values
        return Parameter(name=name, scale="category", values=tuple(ordered), low=0.0, high=float(len(values) - 1))
    low, high = (to_number(spec.get(end)) for end in ("min", "max"))
    low = min(known[0], low) if low is not None else known[0]
    high = max(known[-1], high) if high is not None else known[-1]
    return Parameter(name=name, scale=_scale(name, low, high, spec), values=tuple(known), low=low, high=high)


def _scale(name: str, low: float, high: float, spec: Mapping[str, object]) -> Scale:
    if low <= 0:
        return "linear"
    distribution = spec.get("distribution")
    if name in _ALWAYS_LOG or "log" in str(distribution):
        return "log"
    return "log" if distribution is None and high / low >= _LOG_RATIO else "linear"


def _distinct(values: Sequence[object]) -> list[object]:
    """Returns the different values in order of first use; 1 and True differ, lists are compared as tuples."""
    found: dict[tuple[str, object], object] = {}
    for value in values:
        plain = _comparable(value)
        kind = "number" if to_number(plain) is not None else type(plain).__name__
        found.setdefault((kind, plain), plain)
    return list(found.values())


def _comparable(value: object) -> object:
    return tuple(_comparable(item) for item in value) if isinstance(value, (list, tuple)) else value
