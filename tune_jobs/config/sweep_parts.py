"""Reads the parts that a sweep and its phases have in common: sections, method, early termination, the end."""

import dataclasses
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeVar, get_args

from common.errors import Problems, RequestError
from common.strict import KeyPath, Located, from_mapping, nearest
from tune_jobs.config.sections import STOP_KEYS, EarlyTerminate, Method
from tune_jobs.config.space import Parameter
from tune_jobs.config.sweep import Sweep

T = TypeVar("T")
_LONGEST_NAME = 64
METHODS: tuple[Method, ...] = get_args(Method)
_OTHER_STOP_WORDS = MappingProxyType(
    {
        "grace_period": "min_iter",
        "max_t": "max_iter",
        "reduction_factor": "eta",
        "min_samples_required": "min_trials",
        "bracket": "s",
        "brackets": "s",
    }
)


def read_mapping(
    cls: type[T], values: Mapping[str, object], path: KeyPath, document: Located, problems: Problems
) -> T | None:
    """Builds a dataclass from a part of the document; None, and its problems collected, where it is wrong.

    An unknown key hides nothing: the known ones are checked all the same.
    """
    try:
        return from_mapping(cls, values, located=document, prefix=path)
    except RequestError as error:
        problems.extend(error.problems)
    fields = {item.name for item in dataclasses.fields(cls)}  # type: ignore[arg-type]  # T is always a dataclass
    known = {key: value for key, value in values.items() if key in fields}
    if len(known) < len(values):
        read_mapping(cls, known, path, document, problems)
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
    """Says why a name cannot be a folder's, and which one could; empty where it can.

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
    """Returns a name that can be a folder's; empty where the text has no letter or digit.

    >>> folder_name("KoBART, first try"), folder_name("wide"), folder_name("!")
    ('KoBART_first_try', 'wide', '')
    """
    return re.sub(r"[^\w.-]+", "_", text).strip("_.-")[:_LONGEST_NAME]


def read_method(raw: object, path: KeyPath, document: Located, problems: Problems) -> Method | None:
    """Returns the method, or None where it is wrong."""
    found = next((method for method in METHODS if method == raw), None)
    if found is None:
        said = f"method {raw!r} is unknown" if raw is not None else "missing key 'method'"
        hint = nearest(str(raw), METHODS) or f"; known: {', '.join(METHODS)}"
        problems.add(f"{document.where(*path)}: {said}{hint}")
    return found


def read_early_terminate(
    raw: object, path: KeyPath, method: Method, document: Located, problems: Problems
) -> EarlyTerminate:
    """Returns when trials are stopped; without a word in the file: asha, for pbt none, for bohb hyperband.

    Args:
        raw: The section, None where it is absent.
        path: Where it stands.
        method: How trials are chosen: some methods stop them in their own way.
        document: The sweep file.
        problems: Collects what is wrong.
    """
    if raw is None:
        return default_stop(method)
    if not isinstance(raw, dict):
        hint = " (write `type: none` below it)" if raw == "none" else ""
        problems.add(f"{document.where(*path)}: early_terminate must be a mapping, but is {raw!r}{hint}")
        return default_stop(method)
    kind = raw.get("type")
    keys = next((keys for known, keys in STOP_KEYS.items() if known == kind), None)
    if keys is None:
        hint = nearest(str(kind), list(STOP_KEYS)) if kind is not None else ""
        problems.add(
            f"{document.where(*path, 'type')}: early_terminate.type must be one of {', '.join(STOP_KEYS)}, "
            f"but is {kind!r}{hint}"
        )
        return default_stop(method)
    for key in [str(key) for key in raw if key not in keys and key != "type"]:
        meant = _OTHER_STOP_WORDS.get(key)
        hint = f"; did you mean {meant!r}?" if meant in keys else nearest(key, keys)
        listed = f"; it has {', '.join(keys)}" if keys else "; it has no keys"
        problems.add(f"{document.where(*path, key)}: early_terminate of type {kind} has no key {key!r}{hint or listed}")
    values = {str(key): value for key, value in raw.items() if key in keys or key == "type"}
    found = read_mapping(EarlyTerminate, values, path, document, problems) or default_stop(method)
    if (method == "pbt" and kind != "none") or (method == "bohb" and kind in ("median", "none")):
        reason = {
            "pbt": "pbt never stops a trial but gives it a better one's weights; write `type: none` or leave it out",
            "bohb": f"bohb is bayes with hyperband or asha; with {kind} write `method: bayes`",
        }[method]
        problems.add(f"{document.where(*path, 'type')}: {reason}")
    return found


def default_stop(method: Method) -> EarlyTerminate:
    """Returns when trials are stopped where the file says nothing.

    >>> default_stop("random").type, default_stop("pbt").type
    ('asha', 'none')
    """
    if method == "pbt":
        return EarlyTerminate(type="none")
    return EarlyTerminate(type="hyperband", min_iter=1) if method == "bohb" else EarlyTerminate()


def check_end(sweep: Sweep, path: KeyPath, document: Located, problems: Problems) -> None:
    """Collects why a search would never end, or has no grid.

    Args:
        sweep: The sweep of the file, or of a phase.
        path: Where it stands.
        document: The sweep file.
        problems: Collects what is wrong.
    """
    method = sweep.method
    if method != "grid":
        if sweep.count is None:
            problems.add(
                f"{document.where(*path)}: {method} does not end by itself; "
                "say how many trials, for example `count: 20`"
            )
        return
    for parameter in sweep.space.parameters:
        if parameter.size is None:
            problems.add(
                f"{document.where('parameters', parameter.name)}: {parameter.name}: a grid needs values, but "
                f"{_distribution(parameter)} is continuous; give `values`, a q, or `method: random`"
            )


def _distribution(parameter: Parameter) -> str:
    return str(parameter.spec().get("distribution"))
