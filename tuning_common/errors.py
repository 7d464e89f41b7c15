"""Errors for users. Commands turn them into exit codes: 2 for a wrong request, 1 for failed work."""

from collections.abc import Callable, Sequence
from typing import Self


class ProductError(Exception):
    """Base of all errors for users; printed without a traceback."""

    exit_code = 1


class RequestError(ProductError):
    """The request was wrong: a file, a flag or a configuration. Nothing was run.

    Args:
        message: What was asked and what was found, in one sentence.
        problems: Every problem with its location and remedy.

    >>> print(RequestError("sweep.yaml has 2 problems", ["line 3: unknown key 'metod'", "line 9: empty range"]))
    sweep.yaml has 2 problems
      - line 3: unknown key 'metod'
      - line 9: empty range
    """

    exit_code = 2

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message, tuple(problems))
        self.message = message
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join([self.message, *(f"  - {problem}" for problem in self.problems)])


class WorkError(ProductError):
    """The request was right and the work failed."""


class DivergedError(WorkError):
    """A training diverged: its loss is NaN, infinite, or far above its lowest value."""


class Problems:
    """Collects problems, to report all of them at once.

    >>> problems = Problems()
    >>> problems.add("batch_size must be at least 1, but is 0")
    >>> bool(problems), len(problems)
    (True, 1)
    """

    def __init__(self) -> None:
        self._texts: list[str] = []

    def add(self, text: str) -> None:
        """Adds one problem, with its location and remedy."""
        self._texts.append(text)

    def extend(self, texts: Sequence[str]) -> Self:
        """Adds several problems and returns itself."""
        self._texts.extend(texts)
        return self

    def collect(self, check: Callable[[], object]) -> None:
        """Runs a check and collects the problems of its RequestError instead of raising it.

        >>> def check() -> None:
        ...     raise RequestError("train.csv: 1 fault", ["line 3: the summary is empty"])
        >>> problems = Problems()
        >>> problems.collect(check)
        >>> print(problems.texts[0])
        train.csv: 1 fault
              - line 3: the summary is empty
        """
        try:
            check()
        except RequestError as error:
            self.add(str(error).replace("\n", "\n    "))

    def __len__(self) -> int:
        return len(self._texts)

    @property
    def texts(self) -> tuple[str, ...]:
        """The problems in the order in which they were found."""
        return tuple(self._texts)

    def raise_if_any(self, title: str) -> None:
        """Raises a RequestError that lists every problem.

        Args:
            title: What was read, for example "sweeps/a.yaml". The count is added.

        Raises:
            RequestError: When at least one problem was added.
        """
        if self._texts:
            noun = "problem" if len(self._texts) == 1 else "problems"
            raise RequestError(f"{title}: {len(self._texts)} {noun}", self._texts)
