"""JSON Schemas of sweep files, run configurations and team files, for editors; the readers check more."""

import copy
import json
from pathlib import Path
from typing import Literal

from pydantic.json_schema import JsonSchemaValue as Schema

from cluster.scheduling.quotas import Team
from dialsum.aliases import ALIASES, SECTIONS, To
from dialsum.config import FIELD_DESCRIPTIONS, RunConfig
from tune_jobs.config.early_terminate import KEYS, EarlyTerminate
from tune_jobs.config.fields import FIELDS
from tune_jobs.config.file_keys import Specification, SweepFile
from tune_jobs.config.phase_file import PhaseNumbers
from tune_jobs.config.sections import METRIC_GOALS
from tune_jobs.config.space_file import DISTRIBUTIONS
from tuning_common.schemas import json_schema

Kind = Literal["sweep", "run", "team"]
FOLDER = Path(__file__).resolve().parent.parent / "schemas"  # the schemas as files


def schema_of(kind: Kind) -> Schema:
    """Returns the JSON Schema of a kind of file.

    >>> field = schema_of("run")["properties"]["num_beams"]
    >>> field["type"], field["minimum"], field["maximum"], field["default"]
    ('integer', 1, 1000, 1)
    """
    made = {"sweep": _sweep, "run": _run, "team": _team}[kind]()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}


def schema_text(kind: Kind) -> str:
    """Returns a schema as the file of the package."""
    return json.dumps(schema_of(kind), indent=1, ensure_ascii=False)


def _run() -> Schema:
    """Returns our fields, and the names of other trainers with any value."""
    made = copy.deepcopy(json_schema(RunConfig))
    fields = made["properties"]
    for name, field in fields.items():
        alias = ALIASES.get(name)
        if isinstance(alias, To) and alias.values:
            fields[name] = _or(field, {"enum": list(alias.values)})
    fields["model"] = _or(fields["model"], {"type": "object"})  # also a section
    fields["columns"] = _or(fields["columns"], {"type": "object", "additionalProperties": {"type": "string"}})
    return made | {"patternProperties": _other_names()}


def _team() -> Schema:
    made = copy.deepcopy(json_schema(Team))
    made["properties"]["assignments"] = {
        "description": "Instead of members: who works on what, and on which cards.",
        "type": ["object", "array"],
    }
    del made["required"]
    return made | {"anyOf": [{"required": ["members"]}, {"required": ["assignments"]}]}


def _sweep() -> Schema:
    """Returns the keys of a sweep file; fields of a run may stand at its top too."""
    made = copy.deepcopy(json_schema(SweepFile))
    parts = made["$defs"]
    parts |= {"RunConfig": _run(), "Parameters": _parameters(), "EarlyTerminate": _early_terminate()}
    parts["Specification"] = copy.deepcopy(json_schema(Specification))
    parts["Specification"]["properties"]["distribution"]["enum"] = list(DISTRIBUTIONS)
    parts["MetricFile"]["properties"]["name"]["examples"] = list(METRIC_GOALS)
    parts["PhaseFile"]["properties"] |= json_schema(PhaseNumbers)["properties"]
    parts["PhaseFile"]["required"] = ["name"]
    for section in (made, parts["PhaseFile"]):
        section["properties"]["early_terminate"] |= {"$ref": "#/$defs/EarlyTerminate"}
    made["properties"]["parameters"] |= {"$ref": "#/$defs/Parameters"}
    fields = {name: {"$ref": f"#/$defs/Parameters/properties/{name}"} for name in FIELDS}
    made["properties"] = fields | made["properties"]
    methods: Schema = {"anyOf": [{"required": ["method"]}, {"required": ["phases"]}]}
    return made | methods | {"patternProperties": _other_names()}


def _parameters() -> Schema:
    fields = json_schema(RunConfig)["properties"]
    properties = {}
    for name in FIELDS:
        one = {"$ref": f"#/$defs/RunConfig/properties/{name}"}
        values = {"value": one, "values": {"items": one}}
        options: list[Schema] = [
            {"type": "array", "items": one},
            {"$ref": "#/$defs/Specification", "properties": values},
        ]
        options += [one] if fields[name].get("type") != "array" else []  # a plain list has the values to choose from
        properties[name] = {"description": FIELD_DESCRIPTIONS[name], "anyOf": options}
    group = {"type": "object", "properties": {"parameters": {"$ref": "#/$defs/Parameters"}}, "required": ["parameters"]}
    return {
        "type": "object",
        "properties": properties,
        "patternProperties": _other_names(),
        "additionalProperties": group | {"additionalProperties": False},
    }


def _early_terminate() -> Schema:
    """Returns one schema for each type, and one for Ray's classes."""
    keys = json_schema(EarlyTerminate)["properties"]
    ours = [
        {
            "type": "object",
            "properties": {"type": {"const": kind}, **{name: keys[name] for name in names}},
            "required": ["type"],
            "additionalProperties": False,
        }
        for kind, names in KEYS.items()
    ]
    ray = {"type": "object", "properties": {"type": {"type": "string", "pattern": "^[A-Z]"}}, "required": ["type"]}
    return {"anyOf": [*ours, ray, {"type": "null"}]}


def _other_names() -> Schema:
    """Returns patterns of the names that other trainers give to fields and sections; their values are not checked."""
    names = sorted(name for name in ALIASES if "." not in name and name not in FIELD_DESCRIPTIONS)
    sections = "|".join(SECTIONS)
    alone = "|".join(name for name in SECTIONS if name not in FIELD_DESCRIPTIONS)
    return {f"^({'|'.join(names)})$": {}, f"^({alone})$": {}, f"^({sections})\\.": {}}


def _or(field: Schema, *others: Schema) -> Schema:
    """Returns a schema that also allows others; description and default stay beside it."""
    beside = {key: field[key] for key in ("description", "default") if key in field}
    return beside | {"anyOf": [{key: value for key, value in field.items() if key not in beside}, *others]}
