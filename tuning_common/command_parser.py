"""A parser of commands whose arguments are added when they are needed, as some take long imports."""

import argparse
from collections.abc import Callable, Sequence


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
