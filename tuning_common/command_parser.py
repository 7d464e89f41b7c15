"""Parsers of programs with commands. A command's module may take long imports, so it is imported when it is chosen."""

import argparse
import importlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial


class CommandParser(argparse.ArgumentParser):
    """Parses the arguments of one command, or of a program with commands.

    >>> program = CommandParser(prog="program")
    >>> commands = program.add_subparsers()
    >>> commands.add_parser("add").later = lambda parser: parser.add_argument("numbers", type=int, nargs="+")
    >>> program.parse_args(["add", "1", "2"]).numbers
    [1, 2]

    Attributes:
        later: Adds the arguments when the command is chosen, or its help or completion is printed.
    """

    later: Callable[[argparse.ArgumentParser], object] | None = None

    def add_commands(self, package: str, commands: Mapping[str, str]) -> None:
        """Adds commands, each from its module NAME_cli of a package.

        Args:
            package: Its modules have `add_arguments(parser)`, which sets the description and what runs the command.
            commands: For each name what it does, as the program's help shows it.
        """
        parsers = self.add_subparsers(required=True, metavar="COMMAND")
        for name, text in commands.items():
            module = f"{package}.{name.replace('-', '_')}_cli"
            parsers.add_parser(name, help=text).later = partial(_add_arguments, module)

    def run(self, arguments: Sequence[str]) -> int:
        """Runs the command that the arguments choose; returns its exit code."""
        chosen = self.parse_args(arguments)
        code: int = chosen.run(chosen)
        return code

    def fill(self) -> None:
        """Adds the arguments that were left for later."""
        later, self.later = self.later, None
        if later is not None:
            later(self)

    def parse_known_args(  # type: ignore[override]  # typeshed's three overloads are one function
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parses; see ArgumentParser. A chosen command is parsed by this method too."""
        self.fill()
        return super().parse_known_args(args, namespace)


def _add_arguments(module: str, parser: argparse.ArgumentParser) -> None:
    importlib.import_module(module).add_arguments(parser)
