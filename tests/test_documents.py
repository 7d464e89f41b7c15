"""Both READMEs show the same commands, and what they link to exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def blocks(name: str) -> list[str]:
    return re.findall(r"```.*?\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), flags=re.DOTALL)


def test_korean_and_english_readme_show_the_same_commands() -> None:
    assert blocks("README.ko.md") == blocks("README.md")
    assert len(blocks("README.md")) >= 4


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
