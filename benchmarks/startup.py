"""Times commands, the first steps of trials beside bare Ray Tune, and the sample sweep; writes startup.md.

`python -m benchmarks.startup` runs each command three times and each sweep once; about four minutes. Results stay below
outputs/, and what is there is not run again.
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks.pages import page_parser, table
from benchmarks.startup_trials import AT_ONCE, TRIALS
from tuning_common.cli import note
from tuning_common.files import write_json, write_text

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "outputs/benchmarks/startup"
SHIPPED = """
name: shipped
method: grid
base_config: configs/kobart.yaml
parameters: {learning_rate: {values: [1e-5, 3e-5]}}
"""
Numbers = Mapping[str, float]


def command(arguments: Sequence[str]) -> Numbers:
    """Runs a command three times; returns the smallest CPU seconds and wall."""
    found = []
    for _ in range(3):
        before, begin_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run([sys.executable, "-m", "tune_jobs", *arguments], capture_output=True, check=True)
        wall_s, after = time.perf_counter() - begin_s, resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append((after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall_s))
    return {"cpu_s": min(cpu_s for cpu_s, _ in found), "wall_s": min(wall_s for _, wall_s in found)}


def imports_of(arguments: Sequence[str]) -> Numbers:
    """Returns the seconds of each package's own modules (`python -X importtime`)."""
    run = [sys.executable, "-X", "importtime", "-m", "tune_jobs", *arguments]
    found: dict[str, float] = {}
    for line in subprocess.run(run, capture_output=True, text=True, check=True).stderr.split("\n"):
        own, _, name = line.removeprefix("import time:").split("|") if line.count("|") == 2 else ("", "", "")
        if own.strip().isdigit():
            package = name.strip().partition(".")[0]
            found[package] = found.get(package, 0.0) + int(own) / 1e6
    return found


def kept(name: str, measure: Callable[[], Numbers]) -> Numbers:
    """Returns a measurement; makes it where there is none."""
    path = OUTPUT / f"{name}.json"
    if not path.exists():
        write_json(path, measure())
        note(f"{name}: measured")
    found: Numbers = json.loads(path.read_text(encoding="utf-8"))
    return found


def first_steps(side: str) -> Numbers:
    """Returns the seconds from the start of each trial to its first step, by the order of starts."""
    with tempfile.TemporaryDirectory() as folder:
        run = [sys.executable, "-m", "benchmarks.startup_trials", side, folder]
        done = subprocess.run(run, capture_output=True, text=True, check=True, cwd=ROOT)
    return {str(number): value for number, value in enumerate(json.loads(done.stdout.splitlines()[-1]))}


def sample_sweep() -> Numbers:
    """Returns the wall of the sample sweep, as `make sweep` runs it once everything is installed."""
    with tempfile.TemporaryDirectory() as folder:
        run = [sys.executable, "-m", "tune_jobs", "run", "tune_jobs/sweeps/sample.yaml", "--output", folder]
        begin_s = time.perf_counter()
        subprocess.run(run, capture_output=True, check=True, cwd=ROOT)
        return {"wall_s": time.perf_counter() - begin_s}


def page() -> str:
    """Measures what is missing and writes the tables."""
    commands, imported = _command_rows()
    sample_s = kept("sample", sample_sweep)["wall_s"]
    return f"""# Start-up

Made by `python -m benchmarks.startup` on {platform.machine()}, {os.cpu_count()} cores,
Python {platform.python_version()}.

## Commands

The smallest of three runs; `plan` is of KoBART on 2x24GiB.

{table(["command", "goal, s", "CPU s", "wall s"], commands)}

Where texts are at hand, `plan` also loads the tokenizer to count what is cut, which imports transformers and torch.

## Trials

Seconds from Tune's start of a trial to the end of its first step: the median, and the longest. {TRIALS} trials of one
model, {AT_ONCE} at a time. *bare* is `tune.Tuner` with a function that trains with `Seq2SeqTrainer`, in a process of
its own for each trial, as people write it. Our driver keeps the processes.

{table(["trials", "bare Tune, s", "ours, s", "ours / bare", "goal"], _trial_rows())}

## The sample sweep

`make sweep` after installation: {sample_s:.0f} s (goal 45 s), from the command to its end, with Ray's start, ten trials
and the report.

## Where the time of commands goes

The largest imports, as parts of the time of all imports (one run of `python -X importtime`):

{table(["command", "imports"], imported)}
"""


def _command_rows() -> tuple[list[list[str]], list[list[str]]]:
    write_text(OUTPUT / "shipped.yaml", SHIPPED)
    plan = ["plan", str(OUTPUT / "shipped.yaml"), "--cluster", "2x24GiB"]
    rows, imported = [], []
    for name, arguments, goal_s in (("--help", ["--help"], 0.2), ("plan", plan, 1.0)):
        short = arguments[0].strip("-")
        found, parts = (
            kept(short, partial(command, arguments)),
            kept(f"{short}_imports", partial(imports_of, arguments)),
        )
        rows.append([f"`tune-jobs {name}`", f"{goal_s:.1f}", f"{found['cpu_s']:.2f}", f"{found['wall_s']:.2f}"])
        largest = sorted(parts.items(), key=lambda part: -part[1])[:6]
        texts = [f"{package} {own_s / sum(parts.values()):.0%}" for package, own_s in largest]
        imported.append([f"`tune-jobs {name}`", ", ".join(texts)])
    return rows, imported


def _trial_rows() -> list[list[str]]:
    bare, ours = (list(kept(f"first_steps_{side}", partial(first_steps, side)).values()) for side in ("bare", "ours"))
    rows = []
    for name, part, goal in (
        (f"the first {AT_ONCE}", slice(AT_ONCE), "1"),
        ("the others", slice(AT_ONCE, None), "0.2"),
    ):
        texts = [f"{statistics.median(found[part]):.2f} ({max(found[part]):.2f})" for found in (bare, ours)]
        ratio = statistics.median(ours[part]) / statistics.median(bare[part])
        rows.append([name, *texts, f"{ratio:.2f}", goal])
    return rows


def main() -> None:
    """Measures and writes the page."""
    parser = page_parser(__file__, __doc__)
    chosen = parser.parse_args()
    write_text(chosen.output, page())
    note(f"written to {chosen.output}")


if __name__ == "__main__":
    main()
