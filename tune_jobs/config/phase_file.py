"""Reads the `phases` of a staged sweep; each becomes a sweep, from this file or its own."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

from pydantic import Field, field_validator

from dialsum.config import Count
from tune_jobs.config.early_terminate import EarlyTerminate
from tune_jobs.config.early_terminate_file import read_early_terminate
from tune_jobs.config.fields import FIELDS, to_value, unknown_field, value_problems
from tune_jobs.config.sections import READ_BY, Method
from tune_jobs.config.space import Value
from tune_jobs.config.sweep import Phase, PhaseKind, Sweep
from tune_jobs.config.sweep_parts import check_end, name_problems, read_mapping, read_method
from tuning_common.errors import Problems, RequestError
from tuning_common.strict import KeyPath, Located, model, nearest

_SEARCH_KEYS = ("method", "count", "set", "early_terminate")
_KEYS: Mapping[PhaseKind, tuple[str, ...]] = MappingProxyType(
    {
        "quick_check": ("file", *_SEARCH_KEYS),
        "wide": ("file", *_SEARCH_KEYS),
        "narrow": ("file", *_SEARCH_KEYS, "keep_fraction", "margin"),
        "confirm": ("winners", "seeds", "set"),
    }
)
KINDS = tuple(_KEYS)  # of a file; a phase of generation follows from what is searched, see staging
_QUICK: Mapping[str, Value] = MappingProxyType({"max_train_samples": 1000, "max_eval_samples": 200, "num_epochs": 1})
_QUICK_COUNT = 2


@model
class PhaseNumbers:
    """The keys of a phase that are checked alone, with the defaults of Phase.

    Attributes:
        count: Number of trials.
        file: A sweep file for the phase, instead of this file's keys.
        keep_fraction: narrow: the best fraction of the earlier trials, which defines the box.
        margin: narrow: fraction of its width by which the box grows on each side.
        winners: confirm: number of configurations to train again.
        seeds: confirm: the seeds of each configuration.
    """

    count: Count | None = None
    file: str | None = None
    keep_fraction: Annotated[float, Field(gt=0, le=1)] = 0.25
    margin: Annotated[float, Field(ge=0, le=1)] = 0.1
    winners: Count = 2
    seeds: tuple[int, ...] = (0, 1, 2)

    @field_validator("seeds")
    @classmethod
    def _check_seeds(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or len(set(value)) < len(value) or min(value) < 0:
            raise ValueError(f"seeds must be different numbers of at least 0, but are {list(value)}")
        return value


def read_phases(
    whole: Sweep, document: Located, problems: Problems, load: Callable[[Path], Sweep]
) -> tuple[Phase, ...]:
    """Returns the phases of a staged sweep.

    Args:
        whole: The sweep of the file without its phases; gives each phase its defaults.
        document: The sweep file.
        problems: Collects the problems.
        load: Reads the sweep file of a phase.
    """
    raw = document.mapping()["phases"]
    if not isinstance(raw, list) or not raw:
        problems.add(
            f"{document.where('phases')}: phases must be a list such as `- {{name: wide, count: 24}}`, but is {raw!r}"
        )
        return ()
    phases: list[Phase] = []
    for index, item in enumerate(raw):
        path: KeyPath = ("phases", index)
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            problems.add(f"{document.where(*path)}: a phase is a mapping with a name, but is {item!r}")
            continue
        spec = {str(key): value for key, value in item.items()}
        _check_order(spec, phases, path, document, problems)
        phase = _read_phase(spec, path, whole, document, problems, load)
        if phase is not None:
            phases.append(phase)
    return tuple(phases)


def _read_phase(
    spec: Mapping[str, object],
    path: KeyPath,
    whole: Sweep,
    document: Located,
    problems: Problems,
    load: Callable[[Path], Sweep],
) -> Phase | None:
    name = str(spec["name"])
    named = spec.get("kind", name)
    kind = next((known for known in KINDS if known == named), None)
    if kind is None:
        hint = nearest(str(named), KINDS) or f"; add `kind`, one of {', '.join(KINDS)}"
        problems.add(f"{document.where(*path, 'kind')}: phase {name!r} is of no known kind{hint}")
        return None
    allowed = _KEYS[kind]
    if "file" in spec:
        allowed = tuple(key for key in allowed if key not in _SEARCH_KEYS)
    for key in [key for key in spec if key not in (*allowed, "name", "kind")]:
        elsewhere = "file" in spec and key in _SEARCH_KEYS
        hint = "; set it in the phase's own file" if elsewhere else nearest(key, allowed)
        listed = f"; it has {', '.join(allowed)}"
        problems.add(f"{document.where(*path, key)}: phase {name!r} ({kind}) has no key {key!r}{hint or listed}")
    plain = {key: spec[key] for key in spec if key in allowed and key not in ("method", "set", "early_terminate")}
    numbers = read_mapping(PhaseNumbers, plain, path, document, problems)
    if numbers is None:
        return None
    options = dataclasses.asdict(numbers)
    count, file = options.pop("count"), options.pop("file")
    if file is not None:
        sweep = _load(Path(str(file)), path, document, problems, load)
    else:
        sweep = _own_sweep(kind, name, spec, path, count, whole, document, problems)
    if sweep is None:
        return None
    if kind == "confirm":
        sweep = dataclasses.replace(sweep, count=numbers.winners * len(numbers.seeds))
    return Phase(name=name, kind=kind, sweep=sweep, **options)


def _own_sweep(
    kind: PhaseKind,
    name: str,
    spec: Mapping[str, object],
    path: KeyPath,
    count: int | None,
    whole: Sweep,
    document: Located,
    problems: Problems,
) -> Sweep:
    named = _phase_method(kind, spec, path, whole, document, problems)
    method = named or "random"
    early = whole.early_terminate
    if kind in ("quick_check", "confirm") and "early_terminate" not in spec:
        early = EarlyTerminate(type="none")  # every seed of a winner must train to its end
    elif "early_terminate" in spec or method in ("pbt", "bohb"):
        early = read_early_terminate(
            spec.get("early_terminate"), (*path, "early_terminate"), method, document, problems
        )
    if kind == "quick_check" and count is None:
        count = _QUICK_COUNT
    fixed = _fixed(spec.get("set", {}), (*path, "set"), document, problems)
    if kind == "quick_check":
        fixed = {**_QUICK, **fixed}
    search = whole.search
    if kind != "wide" or method not in READ_BY["points"]:  # points are where a search begins
        search = dataclasses.replace(search, points=())
    sweep = dataclasses.replace(
        whole, name=f"{whole.name}_{name}", method=method, count=count, early_terminate=early, search=search
    ).with_fixed(fixed)
    if kind != "confirm" and named is not None:
        check_end(sweep, path, document, problems)
    return sweep


def _phase_method(
    kind: PhaseKind, spec: Mapping[str, object], path: KeyPath, whole: Sweep, document: Located, problems: Problems
) -> Method | None:
    if "method" in spec:
        return read_method(spec["method"], (*path, "method"), document, problems)
    defaults: dict[PhaseKind, Method] = {"quick_check": "random", "narrow": "bayes", "confirm": "grid"}
    return defaults.get(kind, whole.method)


def _fixed(raw: object, path: KeyPath, document: Located, problems: Problems) -> dict[str, Value]:
    if not isinstance(raw, dict):
        problems.add(f"{document.where(*path)}: set must be a mapping such as {{num_epochs: 1}}, but is {raw!r}")
        return {}
    fixed: dict[str, Value] = {}
    for key, value in ((str(key), value) for key, value in raw.items()):
        location = document.where(*path, key)
        if key not in FIELDS:
            problems.add(f"{location}: {unknown_field(key)}")
            continue
        try:
            fixed[key] = to_value(value)
        except ValueError as error:
            problems.add(f"{location}: {key}: {error}")
            continue
        problems.extend([f"{location}: {problem}" for problem in value_problems(key, fixed[key])])
    return fixed


def _load(
    path: Path, phase_path: KeyPath, document: Located, problems: Problems, load: Callable[[Path], Sweep]
) -> Sweep | None:
    try:
        sweep = load(path)
    except RequestError as error:
        where = document.where(*phase_path, "file")
        problems.extend(error.problems or [f"{where}: {error.message}"])
        return None
    if sweep.phases:
        problems.add(f"{document.where(*phase_path, 'file')}: {path} has phases itself; name a plain sweep file")
        return None
    return sweep


def _check_order(
    spec: Mapping[str, object], earlier: list[Phase], path: KeyPath, document: Located, problems: Problems
) -> None:
    name = str(spec["name"])
    kind = str(spec.get("kind", name))
    problems.extend([f"{document.where(*path, 'name')}: {text}" for text in name_problems(name)])
    if any(phase.name == name for phase in earlier):
        problems.add(f"{document.where(*path, 'name')}: an earlier phase is also called {name!r}; names must differ")
    searched = [phase for phase in earlier if phase.kind in ("wide", "narrow")]
    needs = {"narrow": "makes its box", "confirm": "names its winners"}
    if kind in needs and not searched:
        problems.add(
            f"{document.where(*path)}: {name!r} needs an earlier wide or narrow phase that {needs[kind]}; "
            "or run it on a finished sweep: python -m tune_jobs narrow FOLDER"
        )
