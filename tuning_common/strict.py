"""Strict YAML: safe loading, file and line of every value, unknown keys refused, all problems at once."""

import dataclasses
import functools
import math
import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import pydantic
import pydantic_core
import yaml

from tuning_common.errors import Problems, RequestError
from tuning_common.faults import KeyPath as KeyPath
from tuning_common.faults import faults_of
from tuning_common.faults import nearest as nearest
from tuning_common.schemas import adapter

T = TypeVar("T")
MOST_BYTES = 256 * 2**10  # of a YAML file
MOST_VALUES = 10_000  # each use of an alias counts; PyYAML reads about as many in a second
MOST_LEVELS = 50
MOST_DIGITS = 18
_TOO_MANY = f"the file has more than {MOST_VALUES} values, each use of an alias counted"
_TOO_DEEP = f"values may lie {MOST_LEVELS} levels deep, and a value must not contain itself"

_NUMBER_TAGS = ("tag:yaml.org,2002:float", "tag:yaml.org,2002:int")


class _Loader(yaml.SafeLoader):
    """SafeLoader with the numbers of YAML 1.2 and with bounds.

    PyYAML follows YAML 1.1, where `1e-5` is text, `22:00` is the number 1320 and `010` is 8. It also has no limit on
    nesting and would overflow Python's stack.
    """

    depth = 0
    values = 0

    yaml_implicit_resolvers = {  # noqa: RUF012  # PyYAML's own class attribute, replaced as a whole
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in _NUMBER_TAGS]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Reads one value with its children; refuses too many values or levels."""
        self.depth += 1
        self.values += 1
        if self.depth > MOST_LEVELS or self.values > 2 * MOST_VALUES:  # keys are values here too
            problem = _TOO_DEEP if self.depth > MOST_LEVELS else _TOO_MANY
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Reads a whole number; refuses one with so many digits that Python would be slow or fail."""
        if len(node.value) > MOST_DIGITS:
            raise yaml.MarkedYAMLError(
                problem=f"a whole number may have {MOST_DIGITS} digits, but this one has {len(node.value)}",
                problem_mark=node.start_mark,
            )
        return int(super().construct_yaml_int(node))


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(0|[1-9]\d*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"),
    list("-+0123456789."),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Located:
    """A YAML document with the line number of each of its values.

    Attributes:
        data: Plain dicts, lists and scalars.
        lines: Line number (from 1) by path, for example `("parameters", "lr", "min")`.
        source: The file's name, as the user gave it.
    """

    data: object
    lines: Mapping[KeyPath, int]
    source: str

    def where(self, *path: str | int) -> str:
        """Returns `file:line` of a value, or of its nearest known parent where it is absent."""
        keys: KeyPath = tuple(path)
        while keys and keys not in self.lines:
            keys = keys[:-1]
        return f"{self.source}:{self.lines.get(keys, 1)}"

    def mapping(self) -> dict[str, object]:
        """Returns the document as a mapping with text keys.

        Raises:
            RequestError: When the document is a list or a scalar, or is empty.
        """
        if not isinstance(self.data, dict):
            found = "nothing" if self.data is None else type(self.data).__name__
            raise RequestError(f"{self.source}: expected `key: value` lines at the top, found {found}")
        return {str(key): value for key, value in self.data.items()}


def load_yaml(path: Path) -> Located:
    """Reads a YAML file into plain data.

    Raises:
        RequestError: When the file is absent, is not UTF-8 or not YAML, has a duplicate key or a tag, or is too large
            or too deep, with its aliases expanded.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(MOST_BYTES + 1)
        _refuse_large(len(content), str(path))
        text = content.decode("utf-8")
    except FileNotFoundError:
        raise RequestError(f"{path}: no such file (working folder: {Path.cwd()})") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: cannot be read: {error}") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> Located:
    """Reads YAML text; see load_yaml.

    >>> document = parse_yaml("method: grid\\nparameters:\\n  lr: {min: 1e-5}\\n", "a.yaml")
    >>> document.data["parameters"]["lr"]["min"], document.where("parameters", "lr", "min")
    (1e-05, 'a.yaml:3')
    """
    _refuse_large(len(text), source)
    try:
        loader = _Loader(text)  # refuses characters that YAML does not allow
        node = loader.get_single_node()
        lines: dict[KeyPath, int] = {(): 1}
        problems = Problems()
        if node is not None:
            _collect_lines(node, (), lines, problems, source)
        problems.raise_if_any(source)
        data: object = loader.construct_document(node) if node is not None else None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2026-13-45
        raise RequestError(f"{source}: not valid YAML", [_yaml_problem(error, source)]) from None
    return Located(data=data, lines=lines, source=source)


@typing.dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(dataclasses.field,))
def model(cls: type[T]) -> type[T]:
    """Makes a class a frozen dataclass whose fields pydantic checks, on construction as in a file.

    Bounds of a field stand in its type. A `field_validator` or `model_validator` raises ValueError with problems; one
    that does not begin with a field's name is about the validated field.

    >>> @model
    ... class Point:
    ...     x: typing.Annotated[int, pydantic.Field(ge=0)] = 0
    >>> Point(x=-1)
    Traceback (most recent call last):
    tuning_common.errors.RequestError: Point: 1 problem
      - x must be at least 0, but is -1
    """
    config = pydantic.ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    made = pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=config)(cls)
    checked = made.__init__

    @functools.wraps(checked)
    def construct(self: T, **values: object) -> None:
        problems = Problems()
        try:
            checked(self, **values)
        except pydantic.ValidationError as error:
            problems.extend([text for _, text in faults_of(made, error)])
        problems.raise_if_any(cls.__name__)

    setattr(made, "__init__", construct)  # noqa: B010  # mypy refuses a plain assignment
    return made  # type: ignore[return-value]  # the same class


def from_mapping(
    cls: type[T], values: Mapping[str, object], *, where: str = "", located: Located | None = None, prefix: KeyPath = ()
) -> T:
    """Builds a dataclass from a mapping; refuses unknown keys and wrong types.

    Args:
        cls: A dataclass; its fields may be dataclasses, Literals, unions, tuples, lists and dicts.
        values: Keys are field names.
        where: The name of the input, for the title of the error.
        located: The document of the values, for file and line.
        prefix: Path of `values` in the document.

    Returns:
        The instance. An `int` is accepted for a `float`, a list for a tuple.

    Raises:
        RequestError: With every unknown key (and its nearest valid name), every wrong type and every missing field.
    """
    try:  # as JSON, where pydantic's strict mode takes a list for a tuple and a mapping for a dataclass
        content = pydantic_core.to_json(values, inf_nan_mode="constants")
        built: T = adapter(cls).validate_json(content, strict=True, extra="forbid")  # type: ignore[arg-type]
        return built
    except pydantic.ValidationError as error:
        faults = faults_of(cls, error, prefix)
    except pydantic_core.PydanticSerializationError as error:
        faults = [(prefix, f"cannot be read: {error}")]
    if located:
        faults.sort(key=lambda fault: located.lines.get(fault[0], 0))
    problems = Problems()
    problems.extend([f"{located.where(*path)}: {text}" if located else text for path, text in faults])
    problems.raise_if_any(where or (located.source if located else cls.__name__))
    raise AssertionError("pydantic gave no reason")


def dump_yaml(content: object, *, flow: bool = False) -> str:
    """Writes plain data as YAML for people: keys in their order, Hangul as it is; `flow` writes one line.

    >>> dump_yaml({"rate": 1e-05, "names": ["요약"], "start": "22:00"})
    "rate: 1.0e-05\\nnames:\\n- 요약\\nstart: '22:00'\\n"
    """
    width = math.inf if flow else None
    text: str = yaml.safe_dump(content, allow_unicode=True, sort_keys=False, default_flow_style=flow, width=width)
    return text


def _refuse_large(size: int, source: str) -> None:
    if size > MOST_BYTES:
        raise RequestError(f"{source}: larger than {MOST_BYTES // 2**10} KiB; give large data by the name of a file")


def _collect_lines(node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int], problems: Problems, source: str) -> None:
    if len(path) > MOST_LEVELS:  # an alias of its own parent
        raise yaml.MarkedYAMLError(problem=_TOO_DEEP, problem_mark=node.start_mark)
    if len(lines) + len(problems) > MOST_VALUES:
        raise yaml.MarkedYAMLError(problem=_TOO_MANY, problem_mark=node.start_mark)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key_node, value_node in node.value:
            key = str(key_node.value)
            line = key_node.start_mark.line + 1
            if key in seen:
                problems.add(f"{source}:{line}: key {key!r} is a duplicate; the first value would be lost")
                continue
            seen.add(key)
            lines[(*path, key)] = line
            _collect_lines(value_node, (*path, key), lines, problems, source)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*path, index)] = item.start_mark.line + 1
            _collect_lines(item, (*path, index), lines, problems, source)


def _yaml_problem(error: Exception, source: str) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    return f"{source}:{mark.line + 1}: {problem}" if mark is not None else f"{source}: {problem}"
