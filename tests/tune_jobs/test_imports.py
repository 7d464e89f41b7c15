"""A command imports what it needs: help comes at once, and a plan of a shipped family needs no framework."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUN = """
import sys
from tune_jobs.__main__ import main
try:
    main(sys.argv[1:])
finally:
    print(*{name.partition(".")[0] for name in sys.modules}, file=sys.stderr)
"""
FRAMEWORKS = {
    "torch",
    "transformers",
    "ray",
    "wandb",
    "optuna",
    "pandas",
    "matplotlib",
    "sklearn",
    "scipy",
    "kiwipiepy",
}
LIBRARIES = {"numpy", "pydantic", "pydantic_core", "yaml", "jinja2", "requests"}
SWEEP = """
name: imports
method: grid
parameters:
  model: {value: kobart}
  learning_rate: {values: [1e-5, 3e-5]}
  train_file: {value: absent.jsonl}
  dev_file: {value: absent.jsonl}
"""


def imported(folder: Path, *arguments: str) -> set[str]:
    """Returns the packages that a command has imported in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments], cwd=folder, env={"PYTHONPATH": str(ROOT), "HOME": str(folder)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout
    return set(done.stderr.split("\n")[-2].split())


@pytest.mark.parametrize(
    "arguments", [["--help"], ["plan", "--help"], ["run", "--help"], ["jobs", "--help"], ["top", "--help"]]
)
def test_help_imports_no_library(arguments: list[str], tmp_path: Path) -> None:
    found = imported(tmp_path, *arguments)
    assert not found & (FRAMEWORKS | LIBRARIES)


def test_a_plan_of_a_shipped_family_imports_no_framework(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(SWEEP, encoding="utf-8")  # texts at hand would be counted by a tokenizer
    found = imported(tmp_path, "plan", "sweep.yaml", "--cluster", "2x24GiB")
    assert not found & FRAMEWORKS
