"""python -m tune_jobs schema: the JSON Schema of a kind of file, for editors."""

import argparse

from tuning_common import cli
from tuning_common.errors import RequestError

KINDS = ("sweep", "run", "team")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description = "Prints a JSON Schema, with which editors complete and check a YAML file while it is written."
    parser.epilog = (
        "example: python -m tune_jobs schema sweep > sweep.schema.json\n"
        "and at the top of a sweep file: # yaml-language-server: $schema=sweep.schema.json"
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("kind", choices=KINDS, help="sweep file, run configuration or team file")
    parser.add_argument("--format", choices=("json", "markdown"), default="json", help="markdown: a sweep file's keys")
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Prints the schema.

    Raises:
        RequestError: When tables are asked for of another kind than a sweep file.
    """
    from tune_jobs.config.file_schemas import schema_text
    from tune_jobs.config.schema_tables import sweep_keys_page

    if chosen.format == "markdown" and chosen.kind != "sweep":
        raise RequestError(f"--format markdown lists the keys of a sweep file, not of {chosen.kind}; leave it out")
    cli.emit(schema_text(chosen.kind) if chosen.format == "json" else sweep_keys_page().rstrip())
    return 0
