"""The worked examples in the docstrings are true."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize(
    "name",
    [
        "cleaning",
        "config",
        "data",
        "korean_tokens",
        "metrics",
        "sample_data.particles",
        "sample_data.scenes",
        "sample_data.generate",
    ],
)
def test_docstring_examples_hold(name: str) -> None:
    outcome = doctest.testmod(importlib.import_module(f"dialsum.{name}"))
    assert outcome.attempted > 0
    assert outcome.failed == 0
