"""What the pages of all benchmarks share: their tables, and the command line that names the page's file."""

import argparse
from collections.abc import Sequence
from pathlib import Path


def table(header: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """Formats a table as Markdown.

    >>> print(table(["model", "s"], [["kobart", 3.5]]))
    | model | s |
    | --- | --- |
    | kobart | 3.5 |
    """
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def page_parser(module: str, text: str | None) -> argparse.ArgumentParser:
    """Makes the parser of a benchmark, with the option --output.

    Args:
        module: The benchmark's `__file__`; its page is beside it, under the same name.
        text: Its docstring, shown by --help.
    """
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    page = Path(module).with_suffix(".md")
    parser.add_argument("--output", type=Path, default=page, metavar="FILE", help="default: %(default)s")
    return parser
