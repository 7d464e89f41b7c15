"""Measures the speed of estimates; writes estimator_speed.md in its own folder.

`python -m benchmarks.estimator_speed` measures a warm query, a plan, a hundred thousand different trials, `estimate`
from a shell, and cold templates of a small and a large model. Three minutes on two cores; run it on a quiet machine.
"""

import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from benchmarks.pages import page_parser
from cluster.estimator.estimate import Estimator
from cluster.estimator.gpu_profile import find_gpu
from cluster.estimator.planning import plan_request
from cluster.estimator.request import MemoryRequest
from cluster.estimator.template_requests import key_of, settings_of, sizes_of
from cluster.estimator.template_store import find_template
from cluster.estimator.workload import Recipe
from dialsum.config import RunConfig
from tune_jobs.placing.memory_requests import facts_of, request_of
from tune_jobs.placing.memory_templates import FACTORY, template_finder
from tuning_common.files import write_text

ROOT = Path(__file__).resolve().parent.parent
L4 = find_gpu("L4")
TRIALS = 100_000
SHELL = ["-m", "tune_jobs", "estimate", "--model", "kobart", "--batch-size", "8", "--precision", "bf16"]


@dataclass(frozen=True, kw_only=True)
class Timed:
    """A measurement and its goal in seconds; cpu_s is the CPU time of child processes."""

    what: str
    found_s: float
    goal_s: float
    cpu_s: float | None = None


def asked(model: str) -> MemoryRequest:
    """Returns a request like those of a sweep."""
    config = RunConfig(model=model, batch_size=64, num_beams=4, precision="bf16")
    return request_of(config, L4, model=facts_of(config))


def best_s(act: Callable[[], object], *, number: int) -> float:
    """Returns the fastest of many repetitions, as timeit advises."""
    return min(timeit.repeat(act, number=number, repeat=200)) / number


def different_trials(base: RunConfig, count: int) -> list[RunConfig]:
    """Draws configurations with different memory-relevant settings."""
    draw = random.Random(0)
    seen: dict[tuple[object, ...], RunConfig] = {}
    while len(seen) < count:
        changes: dict[str, object] = {
            "batch_size": draw.choice((4, 8, 16, 32, 64)),
            "gradient_accumulation_steps": draw.choice((1, 2, 4)),
            "encoder_max_len": draw.randrange(64, 1025),
            "decoder_max_len": draw.randrange(16, 257),
            "num_beams": draw.choice((1, 2, 4)),
            "generation_batch_size": draw.choice((8, 16, 32)),
            "gradient_checkpointing": draw.random() < 0.5,
            "label_smoothing": draw.choice((0.0, 0.1)),
        }
        seen.setdefault(tuple(changes.values()), replace(base, **changes))  # type: ignore[arg-type]
    return list(seen.values())


def queries() -> list[Timed]:
    """A warm query and a plan, of the model with the most rows."""
    found = []
    for model in ("kobart", "mt5-base"):
        request = asked(model)
        estimator = Estimator(template_finder(print, only_at_hand=True))
        estimator.upper_bytes(request)
        budget_bytes = 12 * 2**30
        plan_request(estimator, request, budget_bytes)
        query_s = best_s(lambda e=estimator, r=request: e.upper_bytes(r), number=20)  # type: ignore[misc]
        plan_s = best_s(lambda e=estimator, r=request, b=budget_bytes: plan_request(e, r, b), number=2)  # type: ignore[misc]
        found.append(Timed(what=f"warm query, {model}", found_s=query_s, goal_s=50e-6))
        found.append(Timed(what=f"plan of an effective batch of 64, {model}", found_s=plan_s, goal_s=5e-3))
    return found


def many_trials() -> list[Timed]:
    """A hundred thousand different trials, from requests and from run configurations."""
    base = RunConfig(model="kobart", precision="bf16")
    facts = facts_of(base)
    configs = different_trials(base, TRIALS)
    estimator = Estimator(template_finder(print, only_at_hand=True))
    begin_s = time.perf_counter()
    requests = [request_of(config, L4, model=facts) for config in configs]
    estimator.upper_bytes_many(requests)
    whole_s = time.perf_counter() - begin_s
    begin_s = time.perf_counter()
    estimator.upper_bytes_many(requests)
    again_s = time.perf_counter() - begin_s
    return [
        Timed(
            what=f"{TRIALS:,} different trials, from run configurations, first templates", found_s=whole_s, goal_s=10
        ),
        Timed(what="the same requests once more", found_s=again_s, goal_s=10),
    ]


def shell() -> Timed:
    """`estimate` from a shell, the fastest of seven."""
    times = []
    for _ in range(7):
        begin_s = time.perf_counter()
        subprocess.run([sys.executable, *SHELL], cwd=ROOT, capture_output=True, check=True)
        times.append(time.perf_counter() - begin_s)
    return Timed(what="`estimate` from a shell, shipped template", found_s=min(times), goal_s=1.5)


def cold_template(model: str) -> Timed:
    """Measures a trace without a shipped template."""
    request = asked(model)
    recipe = Recipe(factory=FACTORY, settings=settings_of(request))
    with tempfile.TemporaryDirectory() as folder:
        begin_s, begin_cpu_s = time.perf_counter(), _children_cpu_s()
        find_template(key_of(request), sizes_of(request), recipe, cache=Path(folder), shipped=Path(folder) / "none")
        found_s, cpu_s = time.perf_counter() - begin_s, _children_cpu_s() - begin_cpu_s
        return Timed(what=f"cold template, {model}", found_s=found_s, goal_s=15, cpu_s=cpu_s)


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def report(found: list[Timed], load: float) -> str:
    """Writes the table."""
    rows = [
        f"| {timed.what} | {_time(timed.found_s)} | {_time(timed.goal_s)} |"
        f" {_time(timed.cpu_s) if timed.cpu_s is not None else ''} |"
        for timed in found
    ]
    return "\n".join([
        "# How fast estimates are",
        "",
        f"Made by `python -m benchmarks.estimator_speed` on {os.cpu_count()} cores ({platform.machine()}), Python"
        f" {platform.python_version()}, torch {version('torch')}, transformers {version('transformers')};",
        f"load average at the start {load:.1f}, of other processes: a quiet machine is faster.",
        "The first two kinds are the fastest of 200 repetitions, the shell the fastest of 7, the rest are single runs.",
        "",
        "| what | time | goal | CPU time of its two processes |",
        "| --- | --- | --- | --- |",
        *rows,
        "",
    ])  # fmt: skip


def _time(found_s: float) -> str:
    if found_s < 1e-3:
        return f"{found_s * 1e6:.0f} µs"
    return f"{found_s * 1e3:.1f} ms" if found_s < 0.1 else f"{found_s:.2f} s"


def main() -> None:
    """Measures everything and writes the table."""
    parser = page_parser(__file__, __doc__)
    chosen = parser.parse_args()
    load = os.getloadavg()[0]
    found = [*queries(), *many_trials(), shell(), *map(cold_template, ("kobart", "mt5-base"))]
    text = report(found, load)
    write_text(chosen.output, text)
    print(text)


if __name__ == "__main__":
    main()
