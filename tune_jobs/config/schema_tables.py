"""The keys of a sweep file as a page of tables, from their JSON Schema."""

from collections.abc import Iterator

from pydantic.json_schema import JsonSchemaValue as Schema

from tune_jobs.config.early_terminate import KEYS
from tune_jobs.config.file_schemas import schema_of
from tuning_common.faults import describe
from tuning_common.strict import dump_yaml

_TITLE = """# Every key of a sweep file

Generated from the schema: `python -m tune_jobs schema sweep --format markdown`. What the keys mean together is in
[the sweep file](sweep_file.md). A fixed field of a run may stand at the top, a searched one under `parameters`.
"""


def sweep_keys_page() -> str:
    """Returns docs/sweep_keys.md."""
    schema = schema_of("sweep")
    fields = schema["properties"]
    top = {name: field for name, field in fields.items() if "/Parameters/properties/" not in str(field.get("$ref"))}
    parts = [_TITLE, *_section("At the top", "", top, schema)]
    for key, field in top.items():
        parts += _mapping(key, field, schema)
    stop = schema["$defs"]["EarlyTerminate"]["anyOf"]
    keys = {name: field for one in stop for name, field in one.get("properties", {}).items() if name != "type"}
    kinds = ", ".join(f"`{kind}`" for kind in KEYS)
    parts += _section("`early_terminate`", f"`type` is one of {kinds}, or a scheduler of Ray Tune.", keys, schema)
    run = schema_of("run")
    parts += _section("Fields of a run", "Fixed or searched.", run["properties"], run)
    return "\n".join(parts)


def _mapping(key: str, field: Schema, schema: Schema) -> Iterator[str]:
    """Yields the tables of a mapping and of the mappings in it."""
    name = str(_target(field)).rsplit("/", 1)[-1]
    if name not in schema["$defs"] or name in ("Parameters", "EarlyTerminate"):
        return
    part = schema["$defs"][name]
    yield from _section(f"`{key}`", part["description"], part.get("properties", {}), schema)
    for inner, inner_field in part.get("properties", {}).items():
        yield from _mapping(f"{key}.{inner}", inner_field, schema)


def _target(field: Schema) -> object:
    items = field.get("items")
    return field.get("$ref") or (items.get("$ref") if isinstance(items, dict) else "")


def _section(title: str, text: str, fields: Schema, schema: Schema) -> Iterator[str]:
    yield f"## {title}\n"
    if text:
        yield f"{text}\n"
    yield "| key | default | meaning | allowed |\n|---|---|---|---|"
    for name, field in fields.items():
        default = dump_yaml([field["default"]], flow=True).strip()[1:-1] if "default" in field else ""
        cells = (f"`{name}`", f"`{default}`" if default else "", field.get("description", ""), describe(field, schema))
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""
