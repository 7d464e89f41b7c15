"""The page can be read: enough contrast in both schemes, the same colours in page and picture, commands that answer."""

import argparse
import json
import re
from importlib.resources import files
from pathlib import Path

import pytest

from tests.tune_jobs.synthetic import wide_ledger, write
from tune_jobs.commands import report_cli
from tune_jobs.records.ledger import OUTCOMES
from tune_jobs.report.drawing import INKS
from tune_jobs.report.picture import _COLOURS

CSS = files("tune_jobs.report").joinpath("page.css").read_text(encoding="utf-8")
TEXT_ON = [
    ("ink", "page"),
    ("ink", "surface"),
    ("ink", "band"),
    ("muted", "page"),
    ("muted", "surface"),
    ("on-lead", "lead"),
    ("accent", "accent-soft"),
    ("badge", "page"),
    *((f"on-{'high' if i >= 6 else 'low'}", f"ramp{i}") for i in range(9)),
]


def colours(scheme: str) -> dict[str, str]:
    """The variables of a scheme; the dark one replaces what it names."""
    light, dark = CSS.split("@media screen and (prefers-color-scheme: dark)", 1)
    read = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", light))
    return read if scheme == "light" else read | dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", dark.split("}", 1)[0]))


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("text", "ground"), TEXT_ON)
def test_text_can_be_read(scheme: str, text: str, ground: str) -> None:
    known = colours(scheme)
    one, other = sorted((luminance(known[text]), luminance(known[ground])))
    assert (other + 0.05) / (one + 0.05) >= 4.5


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("ink", ["accent", *OUTCOMES])
def test_marks_can_be_seen_and_signs_upon_bars_too(scheme: str, ink: str) -> None:
    """Graphics need a contrast of 3 (WCAG 2.2, 1.4.11); signs upon bars have the colour of the surface."""
    known = colours(scheme)
    one, other = sorted((luminance(known[ink]), luminance(known["surface"])))
    assert (other + 0.05) / (one + 0.05) >= 3.0


def test_paper_is_light_also_where_the_screen_is_dark() -> None:
    assert "@media (prefers-color-scheme: dark)" not in CSS
    assert CSS.count("prefers-color-scheme") == 1  # on screens only
    printed = CSS[CSS.index("@media print") :]
    assert "color-scheme: light" in printed
    assert ".scroll { overflow: visible" in printed  # a table is not cut at the edge of the paper


def test_page_and_picture_have_the_same_colours() -> None:
    light = colours("light")
    assert {name: light[name] for name in _COLOURS} == _COLOURS
    assert {ink for ink in INKS if not ink.startswith("on_ramp")} <= set(_COLOURS)


def arguments(folder: Path, form: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    report_cli.add_arguments(parser)
    return parser.parse_args([str(folder), "--format", form])


def test_the_command_tells_the_winner_and_where_the_reports_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path, wide_ledger(12)).path
    assert report_cli.run(arguments(folder, "text")) == 0
    text = capsys.readouterr().out
    assert text.startswith("Best so far: kobart, learning rate ")
    assert f"{folder}/analysis_report.html" in text


def test_the_command_speaks_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path, wide_ledger(12)).path
    assert report_cli.run(arguments(folder, "json")) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["metric"] == "eval/rouge_combined_f1"
    assert answer["best"]["value"] == pytest.approx(28.6, abs=2.0)
    assert answer["sureness"] in ("clear", "tied")
    assert Path(answer["best_config"]).exists()
