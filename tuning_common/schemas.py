"""JSON Schema of our dataclasses and typed dictionaries, with their descriptions."""

import functools
import inspect
import re
import typing
from typing import TypeVar

import pydantic
from pydantic.json_schema import GenerateJsonSchema
from pydantic.json_schema import JsonSchemaValue as Schema
from pydantic_core import CoreSchema, core_schema

T = TypeVar("T")


@functools.cache  # slow to build
def adapter(cls: type[T]) -> pydantic.TypeAdapter[T]:
    """Returns what reads a dataclass."""
    return pydantic.TypeAdapter(cls)


@functools.cache
def json_schema(cls: type[object]) -> Schema:
    """Returns the JSON Schema of a dataclass or typed dictionary; do not change it."""
    return adapter(cls).json_schema(schema_generator=_Described)  # type: ignore[arg-type]  # every class can be hashed


def descriptions(cls: type[object]) -> dict[str, str]:
    """Returns the description of each field: a text in its type, or its entry among the class's attributes.

    >>> class Metric:
    ...     '''The metric.
    ...
    ...     Attributes:
    ...         name: What every evaluation
    ...             reports.
    ...     '''
    ...     name: str
    ...     goal: typing.Annotated[str, "Upwards."]
    >>> descriptions(Metric)
    {'name': 'What every evaluation reports.', 'goal': 'Upwards.'}
    """
    entries = (inspect.getdoc(cls) or "").partition("Attributes:\n")[2]
    found = {name: " ".join(text.split()) for name, text in re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", entries, re.M)}
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        texts = [item for item in getattr(hint, "__metadata__", ()) if isinstance(item, str)]
        found |= {name: texts[-1]} if texts else {}
    return found


class _Described(GenerateJsonSchema):
    """Adds the descriptions, and leaves out titles that only repeat names."""

    def dataclass_schema(self, schema: core_schema.DataclassSchema) -> Schema:
        """Returns the schema of a dataclass."""
        return _described(super().dataclass_schema(schema), schema["cls"])

    def typed_dict_schema(self, schema: core_schema.TypedDictSchema) -> Schema:
        """Returns the schema of a typed dictionary."""
        return _described(super().typed_dict_schema(schema), schema["cls"])

    def field_title_should_be_set(self, schema: CoreSchema) -> bool:
        """Returns that no field needs a title."""
        return False


def _described(made: Schema, cls: type[object]) -> Schema:
    made["description"] = (inspect.getdoc(cls) or "").partition("\n\n")[0]
    texts = descriptions(cls)
    for name, inner in made.get("properties", {}).items():
        inner |= {"description": texts[name]} if name in texts else {}  # changes the schema in place
    return made
