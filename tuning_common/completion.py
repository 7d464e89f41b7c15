"""Completion of a command line by the shell."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from tuning_common import cli
from tuning_common.command_parser import CommandParser

SHELLS = ("bash", "zsh", "tcsh")


def add_completion(parser: argparse.ArgumentParser, command: str) -> None:
    """Adds `--print-completion SHELL`, which prints the shell's script for an installed command.

    Args:
        parser: The parser of the command, with all its subcommands.
        command: Name of the installed command.
    """

    class Print(argparse.Action):
        """Prints the script and ends."""

        def __call__(
            self,
            parser: argparse.ArgumentParser,
            namespace: argparse.Namespace,
            values: str | Sequence[object] | None,
            option_string: str | None = None,
        ) -> None:
            """Prints the script."""
            import shtab

            parser.prog = command
            _complete_files(parser, shtab.FILE)
            cli.emit(shtab.complete(parser, shell=str(values), root_prefix=command.replace("-", "_")))
            parser.exit()

    parser.add_argument("--print-completion", choices=SHELLS, action=Print, help="print the shell's completion script")


def _complete_files(parser: argparse.ArgumentParser, files: object) -> None:
    if isinstance(parser, CommandParser):
        parser.fill()
    for action in parser._actions:  # argparse has no public list of them; shtab reads the same
        if action.type is Path:
            setattr(action, "complete", files)  # noqa: B010  # what shtab reads
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                _complete_files(inner, files)
