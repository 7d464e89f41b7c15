"""Reads the `parameters` section of a sweep file: W&B's keys and defaults; reports every problem with its line."""

import math
import sys
from types import MappingProxyType
from typing import cast

from tune_jobs.config.fields import FIELDS, takes_whole, to_value, unknown_field, value_problems
from tune_jobs.config.parameter_entries import SPEC_KEYS, Entries, Entry
from tune_jobs.config.space import (
    Bell,
    BellDistribution,
    Categorical,
    Constant,
    Parameter,
    Range,
    RangeDistribution,
    Space,
    Value,
)
from tuning_common.strict import KeyPath, nearest

_KEYS = MappingProxyType(  # distribution -> (required keys, optional keys)
    {
        "constant": ({"value"}, set()),
        "categorical": ({"values"}, {"probabilities"}),
        "categorical_w_probabilities": ({"values", "probabilities"}, set()),
        "uniform": ({"min", "max"}, set()),
        "int_uniform": ({"min", "max"}, set()),
        "q_uniform": ({"min", "max"}, {"q"}),
        "log_uniform": ({"min", "max"}, set()),
        "log_uniform_values": ({"min", "max"}, set()),
        "q_log_uniform": ({"min", "max"}, {"q"}),
        "q_log_uniform_values": ({"min", "max"}, {"q"}),
        "inv_log_uniform": ({"min", "max"}, set()),
        "inv_log_uniform_values": ({"min", "max"}, set()),
        "normal": (set(), {"mu", "sigma"}),
        "q_normal": (set(), {"mu", "sigma", "q"}),
        "log_normal": (set(), {"mu", "sigma"}),
        "q_log_normal": (set(), {"mu", "sigma", "q"}),
    }
)
DISTRIBUTIONS = tuple(_KEYS)
_MOST_STEPS = 2**53  # above, floats skip whole numbers
_LARGEST_EXPONENT = 700  # math.exp(710) is beyond what a float holds


def read_space(entries: Entries) -> Space:
    """Returns the valid parameters, in the order of the file; problems are added to those of the entries."""
    seen: dict[str, KeyPath] = {}
    parameters: list[Parameter] = []
    for entry in entries.entries:
        if entry.name in seen:
            entry.add(f"is set a second time; first at {entry.document.where(*seen[entry.name])}")
            continue
        seen[entry.name] = entry.path
        parameter = _read(entry)
        if parameter is not None:
            parameters.append(parameter)
    return Space(parameters=tuple(parameters))


def _read(entry: Entry) -> Parameter | None:
    before = len(entry.problems)
    if entry.name not in FIELDS:
        entry.problems.add(f"{entry.document.where(*entry.path)}: {unknown_field(entry.name)}")
    distribution = _distribution(entry)
    if distribution is None:
        return None
    parameter: Parameter | None
    if distribution == "constant":
        parameter = _constant(entry)
    elif distribution.startswith("categorical"):
        parameter = _categorical(entry)
    elif "normal" in distribution:
        parameter = _bell(entry, cast("BellDistribution", distribution))
    else:
        parameter = _range(entry, distribution)
    if parameter is not None and len(entry.problems) == before:
        _check_values(entry, parameter, distribution)
    return parameter if len(entry.problems) == before else None


def _distribution(entry: Entry) -> str | None:
    """Returns the named distribution, or W&B's default for the given keys."""
    spec = entry.spec
    unknown = [key for key in spec if key not in SPEC_KEYS]
    for key in unknown:
        entry.add(f"unknown key {key!r}{nearest(key, SPEC_KEYS) or '; known: ' + ', '.join(SPEC_KEYS)}", key)
    named = spec.get("distribution")
    if named is None:
        found = [key for key in ("value", "values", "min", "max") if key in spec]
        named = {"value": "constant", "values": "categorical"}.get(found[0], "uniform") if found else None
        if named == "uniform" and all(_is_whole(spec.get(key)) for key in ("min", "max")):
            named = "int_uniform"
        if named is None:
            if not unknown:
                entry.add("needs `value`, `values`, or `min` and `max`")
            return None
    if not isinstance(named, str) or named not in _KEYS:
        text = str(named)
        hint = "; it has no meaning for any field of a run" if text in ("beta", "q_beta") else ""
        entry.add(
            f"unknown distribution {text!r}{hint or nearest(text, list(_KEYS)) or '; known: ' + ', '.join(_KEYS)}",
            "distribution",
        )
        return None
    needed, optional = _KEYS[named]
    for key in sorted(needed - set(spec)):
        entry.add(f"{named} needs {key!r}")
    for key in [key for key in spec if key in SPEC_KEYS and key not in needed | optional | {"distribution"}]:
        entry.add(f"{key!r} has no meaning beside {named}", key)
    return named if needed <= set(spec) else None


def _constant(entry: Entry) -> Constant | None:
    try:
        return Constant(name=entry.name, value=to_value(entry.spec["value"]))
    except ValueError as error:
        entry.add(f"value: {error}", "value")
        return None


def _categorical(entry: Entry) -> Categorical | None:
    raw, chances = entry.spec["values"], entry.spec.get("probabilities")
    if not isinstance(raw, list) or not raw:
        entry.add(f"values must be a list with at least one value, but is {raw!r}", "values")
        return None
    try:
        options = tuple(to_value(item) for item in raw)
    except ValueError as error:
        entry.add(f"values: {error}", "values")
        return None
    for index, option in enumerate(options):
        if Categorical(name=entry.name, options=options[:index]).contains(option):
            entry.add(f"{option!r} is twice in values; to try it more often give probabilities", "values", index)
    if chances is None:
        return Categorical(name=entry.name, options=options)
    numbers = [_number(chance) for chance in chances] if isinstance(chances, list) else []
    good = [number for number in numbers if number is not None and number >= 0]
    if len(good) != len(options) or len(numbers) != len(options):
        entry.add(f"probabilities must be {len(options)} numbers of at least 0, one for each value", "probabilities")
        return None
    if not math.isclose(sum(good), 1.0, abs_tol=1e-6):
        entry.add(f"probabilities must add up to 1, but add up to {sum(good):g}", "probabilities")
        return None
    return Categorical(name=entry.name, options=options, probabilities=tuple(good))


def _range(entry: Entry, distribution: str) -> Range | None:
    low, high = (_checked_number(entry, key) for key in ("min", "max"))
    q = _step(entry, distribution)
    if low is None or high is None or (q is None and distribution.startswith("q_")):
        return None
    if low >= high:
        hint = f"; for one value write `value: {low:g}`" if low == high else "; exchange them"
        entry.add(f"min must be below max, but {low:g} is not below {high:g}{hint}", "min")
        return None
    if distribution == "int_uniform" and not (_is_whole(low) and _is_whole(high)):
        entry.add(f"int_uniform needs whole min and max, but they are {low!r} and {high!r}", "min")
        return None
    if not distribution.endswith("_values") and "log" in distribution:  # W&B: the bounds are exponents of e
        if max(abs(low), abs(high)) > _LARGEST_EXPONENT:
            entry.add(f"{distribution} takes exponents of e, and e to the {low:g} or {high:g} is no number", "min")
            return None
        low, high = math.exp(low), math.exp(high)
        low, high = (1 / high, 1 / low) if distribution.startswith("inv") else (low, high)
        distribution += "_values"
    if "log" in distribution and low <= 0:
        entry.add(f"{distribution} needs min above 0, but it is {low:g}", "min")
        return None
    if q is not None and max(abs(low), abs(high)) / q > _MOST_STEPS:
        entry.add(f"q {q:g} is too small for numbers up to {max(abs(low), abs(high)):g}", "q")
        return None
    found = Range(name=entry.name, distribution=cast("RangeDistribution", distribution), low=low, high=high, q=q)
    if found.size is not None and found.size < 1:
        entry.add(f"no multiple of q {q:g} lies between {low:g} and {high:g}", "q")
        return None
    return found


def _bell(entry: Entry, distribution: BellDistribution) -> Bell | None:
    mu = _checked_number(entry, "mu") if "mu" in entry.spec else 0.0
    sigma = _checked_number(entry, "sigma") if "sigma" in entry.spec else 1.0
    q = _step(entry, distribution)
    if mu is None or sigma is None or (q is None and distribution.startswith("q_")):
        return None
    if sigma <= 0:
        entry.add(f"sigma must be above 0, but is {sigma:g}", "sigma")
        return None
    return Bell(name=entry.name, distribution=distribution, mu=mu, sigma=sigma, q=q)


def _step(entry: Entry, distribution: str) -> float | None:
    if not distribution.startswith("q_"):
        return None
    q = _checked_number(entry, "q") if "q" in entry.spec else 1
    if q is not None and q <= 0:
        entry.add(f"q must be above 0, but is {q:g}", "q")
        return None
    return q


def _check_values(entry: Entry, parameter: Parameter, distribution: str) -> None:
    if isinstance(parameter, (Range, Bell)):
        if takes_whole(entry.name) and not parameter.whole:
            entry.add(
                f"takes whole numbers, but {distribution} gives others; "
                "use int_uniform, or q_uniform with a whole q (8, not 8.0)",
                "distribution",
            )
            return
        ends = (0.0, 1.0) if isinstance(parameter, Range) else (0.001, 0.999)
        checked: list[tuple[Value, tuple[str | int, ...]]] = [(_short(parameter.at(end)), ()) for end in ends]
    elif isinstance(parameter, Constant):
        checked = [(parameter.value, ("value",))]
    else:
        checked = [(option, ("values", index)) for index, option in enumerate(parameter.options)]
    for value, at in checked:
        for problem in value_problems(entry.name, value):
            exponents = distribution in ("log_uniform", "q_log_uniform", "inv_log_uniform")
            wide = f" ({distribution} reaches it)" if isinstance(parameter, Bell) else ""
            meant = "; W&B's bounds are exponents of e here: you may mean log_uniform_values" if exponents else ""
            entry.problems.add(f"{entry.document.where(*entry.path, *at)}: {problem}{wide}{meant}")
            if not at:
                return  # one end of a range is enough


def _checked_number(entry: Entry, key: str) -> float | None:
    number = _number(entry.spec[key])
    if number is None:
        entry.add(f"{key} must be a finite number, but is {entry.spec[key]!r}", key)
    return number


def _short(value: Value) -> Value:
    """Rounds an end of a range for display, for example 0.1 + 0.2."""
    return float(f"{value:.9g}") if isinstance(value, float) else value


def _number(raw: object) -> float | None:
    if isinstance(raw, bool) or not isinstance(raw, (int, float)):
        return None
    return raw if abs(raw) <= sys.float_info.max else None  # false for NaN too


def _is_whole(raw: object) -> bool:
    return isinstance(raw, int) and not isinstance(raw, bool)
