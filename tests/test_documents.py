"""Both READMEs show the same commands, what pages link to exists, and pages that follow from code are up to date."""

import dataclasses
import inspect
import re
import runpy
from pathlib import Path

import pytest

import tune_jobs
from tune_jobs.__main__ import main

ROOT = Path(__file__).resolve().parent.parent


def blocks(name: str) -> list[str]:
    return re.findall(r"```.*?\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), flags=re.DOTALL)


def test_korean_and_english_readme_show_the_same_commands() -> None:
    assert blocks("README.ko.md") == blocks("README.md")
    assert len(blocks("README.md")) >= 4


def test_the_book_names_every_page_and_every_named_file_exists() -> None:
    book = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    missing = [path.name for path in (ROOT / "docs").glob("*.*") if f"({path.name})" not in book]
    assert missing == ["README.md"]
    named = re.findall(r"`((?:tune_jobs|cluster|dialsum|tests|tuning_common|benchmarks)/[\w./*]+)`", contributing())
    assert [name for name in named if not list(ROOT.glob(name))] == []


def contributing() -> str:
    return (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_keys_of_a_sweep_file_are_those_of_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "sweep", "--format", "markdown"]) == 0
    assert (ROOT / "docs" / "sweep_keys.md").read_text(encoding="utf-8") == capsys.readouterr().out


def test_the_page_on_python_names_the_interface_and_its_program_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    for function in (tune_jobs.run, tune_jobs.plan):
        options = [one.name for one in inspect.signature(function).parameters.values() if one.kind == one.KEYWORD_ONLY]
        assert [name for name in options if f"`{name}`" not in page] == []
    names = [field.name for field in dataclasses.fields(tune_jobs.SweepResult)] + ["report", "table"]
    assert [name for name in names if f"`{name}`" not in page] == []
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / "page.py").write_text(block, encoding="utf-8")
    runpy.run_path("page.py")
    assert "trials" in capsys.readouterr().out


PAGES = sorted(path for pattern in ("*.md", "docs/*.md", "benchmarks/*.md") for path in ROOT.glob(pattern))


@pytest.mark.parametrize("document", [path.relative_to(ROOT).as_posix() for path in PAGES])
def test_relative_links_resolve(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    targets = [target for target in re.findall(r"\]\(([^)#]+)", text) if "://" not in target]
    assert [target for target in targets if not (ROOT / document).parent.joinpath(target).exists()] == []


def test_pictures_are_small_shown_somewhere_and_told_in_words() -> None:
    shown = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
    for picture in sorted((ROOT / "docs" / "images").iterdir()):
        assert picture.stat().st_size < 250_000, picture.name
        told = re.findall(rf"!\[([^\]]+)\]\((?:docs/)?images/{re.escape(picture.name)}\)", shown)
        assert told, f"{picture.name} is shown nowhere, or without words for who does not see it"
