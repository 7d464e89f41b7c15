"""Renews the pictures of docs/images from sweeps that it runs on simulated cards: `python -m benchmarks.pictures`.

Takes about ten minutes on two cores; needs Chromium and a Korean font (apt-get install chromium fonts-noto-cjk).
Ends with an error where a page is wider than its window. charts_altair.png is of a comparison that was made once
(docs/reports.md).
"""

import argparse
import asyncio
import io
import os
import pty
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from PIL import Image
from rich.console import Console
from rich.text import Text

from benchmarks.browser import Browser, browser
from cluster.machines.tokens import token_path
from tuning_common import cli
from tuning_common.errors import WorkError

IMAGES = Path(__file__).parents[1] / "docs" / "images"
LAPTOP, PHONE, DOCUMENT = 1280, 390, 1010  # widths in CSS pixels
_COLUMNS, _COLOURS = 80, 96  # of the terminal; of a picture
_POPULATION = """
name: population_sample
method: pbt
count: 4
base_config: configs/tiny.yaml
parameters:
  learning_rate: {distribution: log_uniform_values, min: 3e-4, max: 1e-2}
  label_smoothing: {min: 0.0, max: 0.2}
search: {perturbation_interval: 2, seed: 0}
"""
SWEEPS: Mapping[str, str] = {  # by name: arguments of `python -m tune_jobs run`
    "sample": "tune_jobs/sweeps/sample.yaml",
    "quick_check_sample": "tune_jobs/sweeps/quick_check_sample.yaml",
    "population_sample": "WORK/population_sample.yaml",
    "model_comparison_sample": "tune_jobs/sweeps/model_comparison_sample.yaml --simulate 1x24GiB,1x11GiB --member jun",
}


@dataclass(frozen=True, kw_only=True)
class Shot:
    """A picture of a page.

    Attributes:
        page: Its path below the working folder.
        width: Of the window.
        dark: In the dark scheme.
        start: CSS selector of the element with which the picture begins; the page's top where empty.
        height: Of the picture; up to the page's end where None.
        columns: Into how many columns a long page is cut.
    """

    page: str
    width: int = LAPTOP
    dark: bool = False
    start: str = ""
    height: int | None = None
    columns: int = 1


_REPORT = "outputs/sweep_results/sample/analysis_report.html"
SHOTS: Mapping[str, Shot] = {
    "report_first_screen": Shot(page=_REPORT, height=1345),
    "report_korean": Shot(page="korean.html", height=1345),
    "report_laptop_light": Shot(page=_REPORT),
    "report_laptop_dark": Shot(page=_REPORT, dark=True),
    "report_phone_light": Shot(page=_REPORT, width=PHONE, columns=4),
    "report_phone_dark": Shot(page=_REPORT, width=PHONE, columns=4, dark=True),
    "review_laptop_light": Shot(page="review.html", width=DOCUMENT),
    "compare_laptop_light": Shot(page="compare.html", height=1900),
    "week_laptop_light": Shot(page="week.html"),
    "cards_laptop_dark": Shot(
        page="outputs/sweep_results/model_comparison_sample/analysis_report.html",
        dark=True,
        start="#curves",
        height=1200,
    ),
    "population_laptop_light": Shot(
        page="outputs/sweep_results/population_sample/analysis_report.html", start="#lineage", height=1100
    ),
    "terminal": Shot(page="terminal.svg", width=998),
}


async def main(arguments: Sequence[str]) -> int:
    """Runs the sweeps that the working folder does not have, and draws every picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("outputs/pictures"), help="folder of the sweeps")
    work = parser.parse_args(arguments).work
    work.mkdir(parents=True, exist_ok=True)
    (work / "population_sample.yaml").write_text(_POPULATION, encoding="utf-8")
    async with browser() as tab:
        for name, sweep in SWEEPS.items():
            if not (work / "outputs" / "sweep_results" / name / "best_config.yaml").exists():
                await _run(tab, work, name, sweep.replace("WORK", str(work)))
        _write_pages(work)
        for name, shot in SHOTS.items():
            _save(name, await _draw(tab, work, shot), shot.columns)
    return 0


async def _run(tab: Browser, work: Path, name: str, sweep: str) -> None:
    """Runs a sweep in a terminal of 80 columns; the last one with Ray's dashboard, which is drawn while trials run."""
    last = name == list(SWEEPS)[-1]
    more = ["--output", str(work / "outputs"), *(["--dashboard"] if last else [])]
    command = [sys.executable, "-m", "tune_jobs", "run", *shlex.split(sweep), *more]
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": str(_COLUMNS), "TERM": "xterm-256color"}
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, stdin=subprocess.DEVNULL, env=environment)
    os.close(theirs)
    shown, drawing = "", None
    while text := await asyncio.to_thread(_read, ours):
        shown += text
        if drawing is None and (found := re.search(r"dashboard: (http://127\.0\.0\.1:\d+)", shown)):
            drawing = asyncio.create_task(_draw_dashboard(tab, found[1]))
    if drawing is not None:
        await drawing
    os.close(ours)
    if process.wait():
        raise WorkError(f"{shlex.join(command)} ended with {process.returncode}:\n{shown[-2000:]}")
    if name == "sample":
        (work / "terminal.svg").write_text(terminal_svg(shown, f"tune-jobs run {sweep}"), encoding="utf-8")


def _read(terminal: int) -> str:
    try:
        return os.read(terminal, 65536).decode(errors="replace")
    except OSError:  # of a pseudo-terminal whose program has ended
        return ""


def terminal_svg(shown: str, title: str) -> str:
    """Draws what a terminal shows at the end, from all that a program wrote to it: the last redrawn screen."""
    screen = shown.rpartition("\x1b[2K")[2].replace("\r", "").split("\n\n")[0]
    console = Console(record=True, width=_COLUMNS, file=io.StringIO())
    console.print(Text.from_ansi(screen))
    return console.export_svg(title=title)


async def _draw_dashboard(tab: Browser, url: str) -> None:
    token = token_path(os.environ, Path.home()).read_text(encoding="utf-8").strip()
    await tab.call("Network.enable")
    await tab.call("Network.setExtraHTTPHeaders", headers={"Authorization": f"Bearer {token}"})
    await tab.open(f"{url}/#/actors", 1400, ready="document.body.innerText.includes('ALIVE')")
    _save("dashboard", await tab.picture(1400, 520))
    await tab.call("Network.setExtraHTTPHeaders", headers={})


def _write_pages(work: Path) -> None:
    results = work / "outputs" / "sweep_results"
    _tune_jobs("report", results / "sample", "--language", "ko")
    (results / "sample" / "analysis_report.html").replace(work / "korean.html")
    for name in SWEEPS:
        _tune_jobs("report", results / name)
    _tune_jobs("compare", results / "sample", "--html", work / "compare.html")
    _tune_jobs("week", work / "outputs", "--html", work / "week.html")
    _tune_jobs("review", results / "sample", "--overwrite")
    review = (results / "sample" / "review.md").read_text(encoding="utf-8").replace("- [ ]", "- ☐")
    body = MarkdownIt("gfm-like", {"linkify": False}).render(review)
    page = f"<!doctype html><meta charset=utf-8><style>{_FORGE}</style>{body}"
    (work / "review.html").write_text(page, encoding="utf-8")


_FORGE = """body { font: 16px/1.5 "Noto Sans CJK KR", sans-serif; margin: 24px; color: #1f2328; }
h1, h2 { border-bottom: 1px solid #d1d9e0; padding-bottom: 6px; } table { border-collapse: collapse; font-size: 13px; }
th, td { border: 1px solid #d1d9e0; padding: 6px 10px; text-align: left; }
code { background: #eff1f3; font-size: 12px; }
a { color: #0969da; } tr:has(> th:empty) { display: none; } li:has(p) { list-style: none; }"""


def _tune_jobs(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "tune_jobs", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


async def _draw(tab: Browser, work: Path, shot: Shot) -> bytes:
    await tab.open((work / shot.page).resolve().as_uri(), shot.width, dark=shot.dark)
    if overflow := await tab.overflow():
        raise WorkError(f"{shot.page} is {overflow} pixels wider than a window of {shot.width}")
    if shot.start:
        hide = f"let one = document.querySelector('{shot.start}'); document.querySelector('main').replaceChildren("
        hide += "Object.assign(document.createElement('div'), {className: 'grid', id: 'shown'}));"
        await tab.value(hide + "while (one) { let next = one.nextElementSibling; shown.append(one); one = next }")
    return await tab.picture(shot.width, shot.height)


def _save(name: str, png: bytes, columns: int = 1) -> None:
    """Writes a picture, cut into columns of equal height, with few colours so that it is small."""
    whole = Image.open(io.BytesIO(png)).convert("RGB")
    height = -(-whole.height // columns)
    page = Image.new("RGB", ((whole.width + 20) * columns - 20, height), whole.getpixel((0, 0)))
    for number in range(columns):
        top = number * height
        page.paste(whole.crop((0, top, whole.width, min(top + height, whole.height))), (number * (whole.width + 20), 0))
    path = IMAGES / f"{name}.png"
    page.quantize(_COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {page.width} x {page.height}, {path.stat().st_size / 1024:.0f} KiB")


def command(arguments: Sequence[str]) -> int:
    """Runs `main` in an event loop."""
    return asyncio.run(main(arguments))


if __name__ == "__main__":
    sys.exit(cli.run(command))
