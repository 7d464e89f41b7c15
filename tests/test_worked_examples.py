"""The worked examples in the docstrings of every package are true."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("tuning_common", "cluster", "dialsum", "tune_jobs")


def modules_with_examples() -> list[str]:
    files = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    shown = [
        path for path in files if "\n    >>> " in path.read_text(encoding="utf-8").replace("        >>>", "    >>>")
    ]
    return [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in shown]


@pytest.mark.parametrize("name", modules_with_examples())
def test_docstring_examples_hold(name: str) -> None:
    outcome = doctest.testmod(importlib.import_module(name))
    assert outcome.attempted > 0
    assert outcome.failed == 0
