"""Reads what a sweep and its phases have in common: sections, method, limits."""

import dataclasses
import re
from collections.abc import Mapping
from typing import TypeVar, get_args

from tune_jobs.config.sections import Method
from tune_jobs.config.space import Parameter
from tune_jobs.config.sweep import Sweep
from tuning_common.errors import Problems, RequestError
from tuning_common.strict import KeyPath, Located, from_mapping, nearest

T = TypeVar("T")
MOST_TRIALS = 10_000  # of a sweep
MOST_CONFIGURATIONS = 10**12  # of a grid that `count` limits
_LONGEST_NAME = 64
METHODS: tuple[Method, ...] = get_args(Method)


def read_mapping(
    cls: type[T], values: Mapping[str, object], path: KeyPath, document: Located, problems: Problems
) -> T | None:
    """Builds a dataclass from a part of the document; collects the problems and returns None where it is wrong.

    Contradictions between the known keys are found also where there is an unknown key.
    """
    try:
        return from_mapping(cls, values, located=document, prefix=path)
    except RequestError as error:
        problems.extend(error.problems)
        fields = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]  # T is always a dataclass
        known = {key: value for key, value in values.items() if key in fields}
        more = Problems()
        if len(known) < len(values):
            read_mapping(cls, known, path, document, more)
        problems.extend([text for text in more.texts if text not in error.problems])
        return None


def read_section(cls: type[T], key: str, document: Located, problems: Problems) -> T:
    """Returns a top section, or its defaults where it is absent or wrong."""
    raw = document.mapping().get(key, {})
    if not isinstance(raw, dict):
        problems.add(f"{document.where(key)}: {key} must be a mapping, but is {raw!r}")
        return cls()
    values = {str(name): value for name, value in raw.items()}
    return read_mapping(cls, values, (key,), document, problems) or cls()


def name_problems(name: object) -> tuple[str, ...]:
    """Returns why a name is not valid for a folder, with a valid one; empty where it is valid.

    >>> name_problems("my sweep")[0].rsplit("; ", 1)[1]
    "instead of 'my sweep' write 'my_sweep'"
    """
    if isinstance(name, str) and len(name) <= _LONGEST_NAME and re.fullmatch(r"\w[\w.-]*", name):
        return ()
    return (
        "name becomes a folder: letters, digits, `_`, `-` and `.`, "
        f"at most {_LONGEST_NAME}; instead of {name!r} write {folder_name(str(name)) or 'sweep'!r}",
    )


def folder_name(text: str) -> str:
    """Returns a valid folder name; empty where the text has no letter or digit.

    >>> folder_name("KoBART, first try"), folder_name("wide"), folder_name("!")
    ('KoBART_first_try', 'wide', '')
    """
    return re.sub(r"[^\w.-]+", "_", text).strip("_.-")[:_LONGEST_NAME]


def read_method(raw: object, path: KeyPath, document: Located, problems: Problems) -> Method | None:
    """Returns the method, or None where it is wrong."""
    found = next((method for method in METHODS if method == raw), None)
    if found is None:
        problem = f"method {raw!r} is unknown" if raw is not None else "missing key 'method'"
        hint = nearest(str(raw), METHODS) or f"; known: {', '.join(METHODS)}"
        problems.add(f"{document.where(*path)}: {problem}{hint}")
    return found


def check_end(sweep: Sweep, path: KeyPath, document: Located, problems: Problems) -> None:
    """Collects reasons why a search would not end, or is too large.

    Args:
        sweep: The sweep of the file, or of a phase.
        path: Its path in the document.
        document: The sweep file.
        problems: Collects the problems.
    """
    method = sweep.method
    if sweep.count is not None and sweep.count > MOST_TRIALS:
        problems.add(f"{document.where(*path)}: count may be at most {MOST_TRIALS}, but is {sweep.count}")
    if method != "grid":
        if sweep.count is None:
            problems.add(
                f"{document.where(*path)}: {method} does not end by itself; "
                "say how many trials, for example `count: 20`, or --count 20"
            )
        return
    for parameter in sweep.space.parameters:
        if parameter.size is None:
            problems.add(
                f"{document.where('parameters', parameter.name)}: {parameter.name}: a grid needs values, but "
                f"{_distribution(parameter)} is continuous; give `values`, a q, or `method: random`"
            )
            return
        if parameter.size > MOST_TRIALS:
            problems.add(
                f"{document.where('parameters', parameter.name)}: {parameter.name}: a grid parameter may have at most "
                f"{MOST_TRIALS} values, but has {parameter.size}; give `values`, a larger q, or `method: random`"
            )
            return
    if sweep.trials > MOST_TRIALS or (sweep.space.size or 0) > MOST_CONFIGURATIONS:
        problems.add(
            f"{document.where(*path)}: the grid has {sweep.space.size} configurations, and a sweep may have at most"
            f" {MOST_TRIALS} trials; give fewer `values`, or `method: random` with a `count`"
        )


def _distribution(parameter: Parameter) -> str:
    return str(parameter.spec().get("distribution"))
