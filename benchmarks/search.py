"""Compares search methods by replay on the table of search_table.jsonl; writes search.md and search.png.

Every method is what a sweep file asks for, run by the product's own samplers and schedulers under a simulated clock.
Finished repetitions are kept in outputs/search_replays.jsonl, for the same table and the same method.

    python -m benchmarks.search
"""

import argparse
import hashlib
import itertools
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.search_page import draw, page
from benchmarks.search_replay import (
    MOST_ATTEMPTS,
    WITHIN,
    Replay,
    Replayed,
    Row,
    SweepRun,
    distance,
    load_table,
    of_model,
    run_phases,
)
from benchmarks.search_table import CONFIGURATIONS, MODELS, ROOT, SPACE
from tune_jobs.config.space import Value
from tune_jobs.config.sweep import Sweep
from tune_jobs.config.sweep_file import load_sweep
from tune_jobs.search.samplers import ListSampler, Sampler, TpeSampler
from tuning_common.cli import emit
from tuning_common.files import append_jsonl, read_jsonl, write_text
from tuning_common.strict import dump_yaml, from_mapping

_EARLIER_TRIALS, _EARLIER_BEST = 44, 5
NONE: Mapping[str, object] = {"type": "none"}
ASHA: Mapping[str, object] = {"type": "asha", "min_iter": 1, "eta": 3}
LATER_ASHA: Mapping[str, object] = {"type": "asha", "min_iter": 2, "eta": 3}
GRID: Mapping[str, object] = {
    "learning_rate": {"values": [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2]}, "batch_size": {"values": [8, 16, 32, 64]},
    "dropout": {"values": [0.0, 0.1, 0.2]}, "label_smoothing": {"value": 0.1}, "lr_scheduler": {"value": "linear"},
    "encoder_max_len": {"value": 64}, "warmup_ratio": {"value": 0.1}, "weight_decay": {"value": 0.01},
}  # fmt: skip
PHASES: Sequence[Mapping[str, object]] = (
    {"name": "wide", "method": "bayes", "count": 24},
    {"name": "narrow", "method": "bayes", "count": 20, "keep_fraction": 0.25},
)
RANDOM_FIRST = ({**PHASES[0], "method": "random"}, PHASES[1])
METHODS: Mapping[str, Mapping[str, object]] = {  # sections of a sweep file
    "random": {"method": "random", "count": CONFIGURATIONS, "early_terminate": NONE},
    "random, exact": {"method": "random", "count": CONFIGURATIONS, "early_terminate": NONE},
    "grid": {"method": "grid", "count": CONFIGURATIONS, "early_terminate": NONE, "parameters": GRID},
    "random + ASHA from 1": {"method": "random", "count": CONFIGURATIONS, "early_terminate": ASHA},
    "random + ASHA from 2": {"method": "random", "count": CONFIGURATIONS, "early_terminate": LATER_ASHA},
    "HyperBand": {
        "method": "random", "count": CONFIGURATIONS, "early_terminate": {"type": "HyperBandScheduler", "max_t": 6},
    },
    "staged": {"early_terminate": LATER_ASHA, "phases": PHASES},
    "staged, wide at random": {"early_terminate": LATER_ASHA, "phases": RANDOM_FIRST},
    "staged, wide at random, ASHA from 1": {"early_terminate": ASHA, "phases": RANDOM_FIRST},
    "TPE + ASHA from 2": {"method": "bayes", "count": CONFIGURATIONS, "early_terminate": LATER_ASHA},
    "TPE": {"method": "bayes", "count": CONFIGURATIONS, "early_terminate": NONE},
    "staged, from earlier sweeps": {"early_terminate": LATER_ASHA, "phases": PHASES},
    "staged, near earlier sweeps": {"early_terminate": LATER_ASHA, "phases": PHASES},
    "GP + ASHA from 2": {"method": "bayes", "count": CONFIGURATIONS, "early_terminate": LATER_ASHA},
    "TPE + ASHA from 1": {"method": "bayes", "count": CONFIGURATIONS, "early_terminate": ASHA},
    "GP": {"method": "bayes", "count": CONFIGURATIONS, "early_terminate": NONE},
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Repetition:
    """One replay; see key_of."""

    key: str
    seed: int
    replayed: Replayed


def sweep_of(method: str, seed: int, points: Sequence[Mapping[str, Value]] = ()) -> Sweep:
    """Reads a method's sweep file."""
    search = {"seed": seed} | ({"points": points} if points else {})
    document = {"name": "search", "parameters": SPACE.spec(), **METHODS[method], "search": search}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "search.yaml"
        write_text(path, dump_yaml(json.loads(json.dumps(document))))
        return load_sweep(path)


def sampler_for(method: str, sweep: Sweep, rows: Sequence[Row]) -> Sampler | None:
    """Returns a sampler that the product does not have; None for its own."""
    if method == "random, exact":
        return ListSampler(random.Random(sweep.search.seed).sample([row.sampled for row in rows], len(rows)))
    if not method.startswith("GP"):
        return None
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    algorithm = optuna.samplers.GPSampler(seed=sweep.search.seed)
    return TpeSampler(sweep.space, sweep.trials, goal="maximize", seed=sweep.search.seed, algorithm=algorithm)


def earlier_points(table: Sequence[Row], rows: Sequence[Row], method: str, seed: int) -> list[Mapping[str, Value]]:
    """Returns what `export --points` gives of an earlier sweep of each other model: the best of so many at random.

    Args:
        table: Of all models.
        rows: Of the model that is searched.
        method: With *near*, none of the points stands in the table: its nearest other configuration takes its place.
        seed: Of the earlier sweeps.
    """
    if "earlier sweeps" not in method:
        return []
    drawn, of_each = random.Random(seed), []
    for model in MODELS:
        if model != rows[0].model:
            sweep = drawn.sample(of_model(table, model), min(_EARLIER_TRIALS, len(of_model(table, model))))
            of_each.append([row.sampled for row in sorted(sweep, key=lambda row: -row.best)[:_EARLIER_BEST]])
    points: list[Mapping[str, Value]] = []
    for point in itertools.chain.from_iterable(zip(*of_each, strict=True)):
        others = [row.sampled for row in rows if row.sampled not in (point, *points)]
        taken = min(others, key=lambda one: distance(one, point)) if "near" in method else point
        if taken not in points:
            points.append(taken)
    return points


def repeat(rows: Sequence[Row], method: str, seed: int, points: Sequence[Mapping[str, Value]] = ()) -> Replayed:
    """Replays one method until it reaches the target; one that ends without it begins again with another seed."""
    replay = Replay(rows, max(row.best for row in rows) - WITHIN)
    for attempt in range(MOST_ATTEMPTS):
        if replay.is_over:
            break
        sweep = sweep_of(method, seed + 1000 * attempt, points)
        if sweep.phases:
            run_phases(replay, sweep)
        else:
            SweepRun(replay, sweep, sampler_for(method, sweep, rows)).run()
        replay.forget()
    return replay.result()


def key_of(rows: Sequence[Row], method: str) -> str:
    """Identifies a method, a model and its part of the table."""
    text = json.dumps([[row.name for row in rows], method, METHODS[method]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def replayed(
    table: Sequence[Row], model: str, method: str, repetitions: int, kept: Path,
    done: Mapping[tuple[str, int], Replayed],
) -> list[Replayed]:  # fmt: skip
    """Returns all repetitions of one method on one model; replays those that are not done."""
    rows = of_model(table, model)
    key, found = key_of(rows, method), []
    for seed in range(repetitions):
        one = done.get((key, seed))
        if one is None:
            one = repeat(rows, method, seed, earlier_points(table, rows, method, seed))
            append_jsonl(kept, asdict(Repetition(key=key, seed=seed, replayed=one)))
        found.append(one)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Replays what is missing and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=30)
    parser.add_argument("--without", nargs="*", choices=METHODS, default=[], help="methods that are not replayed")
    parser.add_argument("--kept", type=Path, default=ROOT / "outputs/search_replays.jsonl")
    chosen = parser.parse_args(arguments)
    table, results = load_table(), {}
    kept = [from_mapping(Repetition, row, where=str(chosen.kept)) for row in read_jsonl(chosen.kept)[0]]
    done = {(one.key, one.seed): one.replayed for one in kept}
    for method in METHODS:
        for model in MODELS if method not in chosen.without else ():
            results[method, model] = replayed(table, model, method, chosen.repetitions, chosen.kept, done)
            spent = [one.spent_s for one in results[method, model]]
            emit(f"{method}, {model}: {statistics.median(spent):.0f} s ({time.process_time():.0f} s of CPU)")
    here = Path(__file__)
    draw(results, here.with_suffix(".png"))
    write_text(here.with_suffix(".md"), page(table, results, chosen.without))
    return 0


if __name__ == "__main__":
    sys.exit(main())
