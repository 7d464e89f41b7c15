"""Renews the pictures of docs/images from sweeps that it runs on simulated cards: `python -m benchmarks.pictures`.

Needs Chromium and a Korean font (apt-get install chromium fonts-noto-cjk); takes minutes. A sweep that the working
folder has is not run again. Ends with an error where a page is wider than its window. charts_altair.png is of a
comparison that was made once (docs/reports.md).
"""

import argparse
import asyncio
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from PIL import Image
from rich.console import Console

from benchmarks.browser import Browser, browser
from cluster.machines.tokens import token_path
from tune_jobs.driver.view import layout
from tune_jobs.records.journal import FILE_NAME, Journal
from tune_jobs.records.ledger import SweepFolder
from tune_jobs.records.progress import SweepFrame, progress_of
from tuning_common import cli
from tuning_common.errors import WorkError
from tuning_common.files import read_jsonl

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
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
    "population_sample": "population_sample.yaml",
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
        height=1230,
    ),
    "population_laptop_light": Shot(
        page="outputs/sweep_results/population_sample/analysis_report.html", start="#lineage", height=1100
    ),
    "terminal": Shot(page="terminal.html", width=1014),
}


async def main(arguments: Sequence[str]) -> int:
    """Runs the sweeps that the working folder does not have, and draws every picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("outputs/pictures"), help="folder of the sweeps")
    work = parser.parse_args(arguments).work
    work.mkdir(parents=True, exist_ok=True)
    (work / "population_sample.yaml").write_text(_POPULATION, encoding="utf-8")
    shutil.copy(ROOT / "team.yaml", work)
    async with browser() as tab:
        for name, sweep in SWEEPS.items():
            if not (work / "outputs" / "sweep_results" / name / "best_config.yaml").exists():
                await _run(tab, work, name, sweep)
        _write_pages(work)
        for name, shot in SHOTS.items():
            _save(name, await _draw(tab, work, shot), shot.columns)
    return 0


async def _run(tab: Browser, work: Path, name: str, sweep: str) -> None:
    """Runs a sweep; the last one with Ray's dashboard, which is drawn while trials run."""
    more = ["--dashboard"] if name == list(SWEEPS)[-1] else []
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tune_jobs", "run", *shlex.split(sweep), *more),
        stderr=asyncio.subprocess.PIPE,
        cwd=work,
        env=_environment(),
    )
    assert process.stderr is not None
    drawing = None
    async for line in process.stderr:
        print(line.decode(), end="", file=sys.stderr)
        if found := re.search(r"dashboard: (http://127\.0\.0\.1:\d+)", line.decode()):
            drawing = asyncio.create_task(_draw_dashboard(tab, found[1]))
    if drawing is not None:
        await drawing
    if await process.wait():
        raise WorkError(f"the sweep {name} ended with {process.returncode}")


def terminal_svg(folder: SweepFolder) -> str:
    """Draws the live view as it was at the end of a sweep."""
    record, journal = folder.load().sweep, Journal(folder.path / FILE_NAME)
    assert record is not None
    times = [float(str(event["elapsed_s"])) for event in read_jsonl(folder.path / FILE_NAME)[0] if "elapsed_s" in event]
    longest = max(max(trial.evaluations, default=0) for trial in journal.trials.values())
    frame = SweepFrame(
        sweep=record.sweep,
        metric=record.metric,
        goal=record.goal,
        total=len(journal.trials),
        longest=longest,
        slots=1,
        rungs=tuple(int(rung) for rung in record.stopping.partition("rungs ")[2].split(", ") if rung),
        started_s=min(times),
        simulated=record.simulated,
    )
    console = Console(record=True, width=_COLUMNS, file=io.StringIO())
    console.print(layout(progress_of(frame, journal.trials, max(times))))
    return console.export_svg(title=record.command)


async def _draw_dashboard(tab: Browser, url: str) -> None:
    token = token_path(os.environ, Path.home()).read_text(encoding="utf-8").strip()
    await tab.call("Network.enable")
    await tab.call("Network.setExtraHTTPHeaders", headers={"Authorization": f"Bearer {token}"})
    await tab.open(f"{url}/#/actors", 1400, ready="document.body.innerText.includes('ALIVE')")
    _save("dashboard", await tab.picture(1400, 520))
    await tab.call("Network.setExtraHTTPHeaders", headers={})


def _write_pages(work: Path) -> None:
    results = Path("outputs/sweep_results")
    sample = results / "sample"
    _tune_jobs(work, "report", sample, "--language", "ko")
    (work / sample / "analysis_report.html").replace(work / "korean.html")
    for name in SWEEPS:
        _tune_jobs(work, "report", results / name)
    _tune_jobs(work, "compare", sample, "--html", "compare.html")
    svg = terminal_svg(SweepFolder(work / sample))
    (work / "terminal.html").write_text(f"<!doctype html><meta charset=utf-8><body>{svg}", encoding="utf-8")
    _tune_jobs(work, "week", "outputs", "--html", "week.html")
    _tune_jobs(work, "review", sample, "--overwrite")
    review = (work / sample / "review.md").read_text(encoding="utf-8").replace("- [ ]", "- <input type=checkbox>")
    body = MarkdownIt("gfm-like", {"linkify": False}).render(review)
    page = f"<!doctype html><meta charset=utf-8><style>{_FORGE}</style>{body}"
    (work / "review.html").write_text(page, encoding="utf-8")


_FORGE = """body { font: 16px/1.5 "Noto Sans CJK KR", sans-serif; margin: 24px; color: #1f2328; }
h1, h2 { border-bottom: 1px solid #d1d9e0; padding-bottom: 6px; } table { border-collapse: collapse; font-size: 13px; }
th, td { border: 1px solid #d1d9e0; padding: 6px 10px; text-align: left; }
code { background: #eff1f3; font-size: 12px; }
a { color: #0969da; } tr:has(> th:empty) { display: none; } li:has(input) { list-style: none; }"""


def _tune_jobs(work: Path, *arguments: str | Path) -> None:
    command = [sys.executable, "-m", "tune_jobs", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=work, env=_environment())


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


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
