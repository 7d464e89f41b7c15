"""python -m tune_jobs schema: the JSON Schema of a kind of file, for editors."""

import argparse

from tuning_common import cli

KINDS = ("sweep", "run", "team")


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to `python -m tune_jobs`."""
    parser = commands.add_parser(
        "schema",
        help="print the JSON Schema of sweep files, run configurations or team files",
        description="Prints a JSON Schema, with which editors complete and check a YAML file while it is written.",
        epilog="example: python -m tune_jobs schema sweep > sweep.schema.json\n"
        "and at the top of a sweep file: # yaml-language-server: $schema=sweep.schema.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kind", choices=KINDS, help="sweep file, run configuration or team file")
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Prints the schema."""
    from tune_jobs.config.file_schemas import schema_text

    cli.emit(schema_text(chosen.kind))
    return 0
