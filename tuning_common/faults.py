"""What pydantic refused, in our words: the path, what is allowed there, what was found. Pure."""

import difflib
import re
from collections.abc import Iterator, Sequence
from types import MappingProxyType

import pydantic
from pydantic.json_schema import JsonSchemaValue as Schema

from tuning_common.schemas import json_schema

KeyPath = tuple[str | int, ...]
_UNKNOWN = "unexpected_keyword_argument"
_PASSWORD = re.compile(r"//[^\s'\"]*@")  # user and password in an address
_BOUNDS = MappingProxyType(  # pydantic's name of a rule -> the rule in words, before its bound
    {
        "greater_than_equal": "at least",
        "greater_than": "above",
        "less_than_equal": "at most",
        "less_than": "below",
        "multiple_of": "a multiple of",
    }
)


def faults_of(cls: type[object], error: pydantic.ValidationError, prefix: KeyPath = ()) -> list[tuple[KeyPath, str]]:
    """Returns path and text of everything that pydantic refused; a value that fits no option of a union is one.

    Args:
        cls: What was read.
        error: What pydantic refused.
        prefix: Path of the values in their document.
    """
    root = json_schema(cls)  # type: ignore[arg-type]  # every class can be hashed
    found: dict[KeyPath, list[str]] = {}
    mismatches: dict[KeyPath, str] = {}
    unknown_first = sorted(error.errors(include_url=False), key=lambda one: one["type"] != _UNKNOWN)
    for one in unknown_first:  # an unknown key may be why another is missing
        loc, kind, value = one["loc"], one["type"], _PASSWORD.sub("//...@", repr(one["input"]))
        path, schema = _follow(root, loc[:-1] if kind == "missing" else loc)
        name = ".".join(map(str, (*prefix, *path)))
        texts = found.setdefault(loc if kind == _UNKNOWN else path, [])
        if kind == _UNKNOWN:
            known = list(schema.get("properties", {}))
            texts.append(f"unknown key {loc[-1]!r}{nearest(str(loc[-1]), known) or '; known: ' + ', '.join(known)}")
        elif kind == "missing" and isinstance(loc[-1], str):
            texts.append(f"missing key {loc[-1]!r}")
        elif kind == "value_error":  # of a validator
            for text in one["ctx"]["error"].args:
                at, full = _placed(root, loc, text)
                found.setdefault((*at, *_named(full)), []).append(".".join(map(str, (*prefix, *at, full))))
        elif kind in _BOUNDS:
            bound = f"{_BOUNDS[kind]} {next(iter(one['ctx'].values())):.12g}"
            texts.append(f"{name} must be {bound}, but is {value}")
        else:
            allowed = "a finite number" if kind == "finite_number" else describe(schema, root)
            mismatches[path] = f"{name} must be {allowed}, but is {value}"
    for path, text in mismatches.items():
        found[path] = found[path] or [text]
    return [((*prefix, *path), text) for path, texts in found.items() for text in texts]


def _placed(root: Schema, loc: KeyPath, text: str) -> tuple[KeyPath, str]:
    """Returns the path of the model that a validator's text is about, and the text, beginning with a field's name."""
    for inner in (loc, loc[:-1]):  # of a validator of the model, or of a field
        path, schema = _follow(root, inner)
        if any(_named(text)[0] in option.get("properties", {}) for option in _options(schema, root)):
            return path, text
    return path, f"{loc[-1]} {text}"


def _follow(root: Schema, loc: KeyPath) -> tuple[KeyPath, Schema]:
    """Returns the part of a location that names keys and indices (pydantic adds options of unions), and its schema."""
    path: KeyPath = ()
    schema = root
    for part in loc:
        for option in _options(schema, root):
            items = option.get("prefixItems", ())
            inner = option.get("properties", {}).get(part) or option.get("items") or option.get("additionalProperties")
            inner = items[part] if isinstance(part, int) and part < len(items) else inner
            if isinstance(inner, dict):
                path, schema = (*path, part), inner
                break
    return path, next(_options(schema, root)) if "$ref" in schema else schema


def _options(schema: Schema, root: Schema) -> Iterator[Schema]:
    """Yields the schemas of which a value meets one."""
    if "$ref" in schema:
        yield from _options(root["$defs"][schema["$ref"].rsplit("/", 1)[1]], root)
    elif "anyOf" in schema:
        for option in schema["anyOf"]:
            yield from _options(option, root)
    else:
        yield schema


def describe(schema: Schema, root: Schema) -> str:
    """Returns what a schema allows, in words.

    >>> describe({"anyOf": [{"type": "array", "items": {"type": "number", "minimum": 0}}, {"type": "null"}]}, {})
    'a list of a number of at least 0 or null'
    """
    options = _options(schema, root)
    return " or ".join(dict.fromkeys(_described(option, root) + _bounds(option) for option in options))


def _bounds(option: Schema) -> str:
    """Returns the bounds of a number.

    >>> _bounds({"minimum": 1, "maximum": 9}), _bounds({"exclusiveMinimum": 0, "maximum": 1})
    (' from 1 to 9', ' above 0 and at most 1')
    """
    if "multipleOf" in option:
        rest = {name: value for name, value in option.items() if name != "multipleOf"}
        return f"{_bounds(rest)}, a multiple of {option['multipleOf']}"
    if "minimum" in option and "maximum" in option:
        return f" from {option['minimum']:.12g} to {option['maximum']:.12g}"
    names = {"minimum": "of at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    rules = [f"{words} {option[name]:.12g}" for name, words in names.items() if name in option]
    return f" {' and '.join(rules)}" if rules else ""


def _described(option: Schema, root: Schema) -> str:
    if "enum" in option or "const" in option:
        return "one of " + ", ".join(repr(one) for one in option.get("enum", [option.get("const")]))
    if "prefixItems" in option:
        items = dict.fromkeys(describe(item, root) for item in option["prefixItems"])
        return f"a list of {len(option['prefixItems'])} values, each {' or '.join(items)}"
    if "items" in option:
        return f"a list of {describe(option['items'], root)}"
    names = {"integer": "a whole number", "number": "a number", "string": "text", "boolean": "true or false"}
    names |= {"object": "a mapping", "array": "a list", "null": "null"}
    return names.get(str(option.get("type")), "a value")


def _named(text: str) -> KeyPath:
    """Returns the path that a text begins with.

    >>> _named("members.minji.quota_gpus must be a number"), _named("windows.0: is empty")
    (('members', 'minji', 'quota_gpus'), ('windows', 0))
    """
    parts = text.split(" ", 1)[0].rstrip(":").split(".")
    return tuple(int(part) if part.isdigit() else part for part in parts)


def nearest(name: str, known: Sequence[str]) -> str:
    """Returns "; did you mean ...?" with the closest known name; empty where none is close.

    >>> nearest("metod", ["method", "metric"])
    "; did you mean 'method'?"
    """
    found = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {found[0]!r}?" if found else ""
