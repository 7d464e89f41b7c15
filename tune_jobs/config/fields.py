"""The fields of a run configuration: their names in other programs, valid values, types."""

import typing
from pathlib import Path
from typing import cast

from dialsum.aliases import To, find_alias
from dialsum.config import FIELD_DESCRIPTIONS, RunConfig
from dialsum.models import SPECS
from tune_jobs.config.space import Value
from tuning_common.errors import RequestError
from tuning_common.strict import nearest

_OF_THE_SWEEP = ("metric", "goal")  # set by the sweep, for all trials
FIELDS = tuple(name for name in FIELD_DESCRIPTIONS if name not in _OF_THE_SWEEP)  # a sweep may search or set these


def value_problems(name: str, value: Value) -> tuple[str, ...]:
    """Returns why a run configuration would refuse a value; empty when it would not.

    >>> value_problems("num_beams", 0)
    ('num_beams must be at least 1, but is 0',)
    """
    values: dict[str, object] = {name: list(value) if isinstance(value, tuple) else value}
    if name == "gradient_accumulation_steps":
        values["batch_size"] = value  # must divide batch_size, another parameter
    if name.startswith("adapter_") and value is not None:  # it has an effect, and a base that can have it
        values = {"adapter_type": "lora", "model": "kobart"} | values
    try:
        RunConfig.from_dict(values)
    except RequestError as error:
        return tuple(problem for problem in error.problems if problem.startswith(name))[:1] or error.problems[:1]
    if name == "model" and isinstance(value, str) and value not in SPECS and "/" not in value:
        return () if Path(value).is_dir() else (f"model {value!r} is unknown{nearest(value, list(SPECS))}",)
    return ()


def unknown_field(name: str) -> str:
    """Returns the error message for a field that a sweep cannot set, with the closest known field."""
    if name in _OF_THE_SWEEP:
        return f"{name} is the same for all trials of a sweep; write `metric: {{name: ..., goal: ...}}` at its top"
    alias = find_alias(name)
    hint = f"; did you mean {alias.field!r}?" if isinstance(alias, To) else nearest(name, FIELDS)
    return (
        f"no field of a run configuration is called {name!r}{hint or '; `python -m dialsum train --help` lists them'}"
    )


def to_value(raw: object) -> Value:
    """Converts a YAML scalar or list to a value.

    Raises:
        ValueError: When it is or holds a mapping.
    """
    if isinstance(raw, list):
        return tuple(to_value(item) for item in raw)
    if isinstance(raw, dict):
        raise ValueError("a mapping is no value")
    return cast("Value", raw)


def takes_whole(name: str) -> bool:
    """Returns whether a field is a whole number, or null.

    >>> takes_whole("num_beams"), takes_whole("dropout"), takes_whole("max_steps")
    (True, False, True)
    """
    hint = typing.get_type_hints(RunConfig)[name]
    return int in (typing.get_args(hint) or (hint,))
