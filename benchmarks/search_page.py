"""Writes what benchmarks/search.py found: search.md and search.png."""

import importlib.metadata
import os
import platform
import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.pages import table
from benchmarks.search_replay import (
    MOST_ATTEMPTS,
    SIDE_BY_SIDE,
    WITHIN,
    Evaluation,
    Replayed,
    Row,
    of_model,
    rank_correlation,
    seed_spread,
)
from benchmarks.search_table import CONFIGURATIONS, DEV, EVALUATIONS, MODELS, REPEATED, SEEDS, TRAINED
from tune_jobs.analysis.further_trials import further_gain

Results = Mapping[tuple[str, str], Sequence[Replayed]]  # by method and model
RIVAL, EXACT, OURS = "random", "random, exact", "staged"
_PACKAGES = ("torch", "transformers", "ray", "optuna")
_COVERED = ((20, 10), (24, 12), (30, 15), (36, 18))  # trials so far, further trials
_SHUFFLES = 2000


def band(values: Sequence[float]) -> str:
    """Returns the median with the 10 % and 90 % quantiles.

    >>> band([float(value) for value in range(1, 12)])
    '6 (2 to 10)'
    """
    tenths = statistics.quantiles(values, n=10, method="inclusive")
    return f"{statistics.median(values):.0f} ({tenths[0]:.0f} to {tenths[-1]:.0f})"


def page(rows: Sequence[Row], results: Results, missing: Sequence[str]) -> str:
    """Returns the page; `missing` names methods that were not replayed."""
    return "\n\n".join(
        [
            _head(rows),
            _about_table(rows),
            _about_methods(results, missing),
            _about_goal(rows, results),
            _about_distance(results),
            _about_rungs(rows),
            _about_gain(rows),
            _about_rest(),
        ]
    )


def _head(rows: Sequence[Row]) -> str:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    planned = len(MODELS) * (CONFIGURATIONS + CONFIGURATIONS // REPEATED * (len(SEEDS) - 1))
    missing = "" if len(rows) >= planned else f" **{planned - len(rows)} trials of the table are missing.**"
    return f"""# Search methods, compared by replay

```bash
python -m benchmarks.search_table   # trains the table; goes on where it ended
python -m benchmarks.search         # replays all methods on it and writes this page
```

{datetime.now(UTC):%d %B %Y}; Python {platform.python_version()}, {versions}; {os.cpu_count()} cores that other work
shared, so all times are CPU seconds of the one process that trained. The table has {len(rows)} of {planned}
trials.{missing}"""


def _about_table(rows: Sequence[Row]) -> str:
    body = []
    for model in MODELS:
        found = of_model(rows, model)
        scores = sorted((row.best for row in found), reverse=True)
        again = [row for row in rows if row.model == model]
        cpu = statistics.mean(row.evaluations[-1].cpu_s for row in found if row.evaluations)
        numbers = (scores[0], statistics.median(scores), scores[-1], seed_spread(again))
        cells = [model, f"{len(found)}", f"{len(again) - len(found)}", *(f"{number:.2f}" for number in numbers)]
        body.append([*cells, _near(found).split()[0], f"{cpu:.1f}"])
    header = ["model", "configurations", "more seeds", "best", "median", "worst", "sd of seeds", f"within {WITHIN}"]
    header.append("CPU s")
    return f"""## The table

Tiny models of 1+1 layers and width 64 go on from one pretraining each with {TRAINED} dialogues of English DialogSum;
{EVALUATIONS} evaluations a trial, each with ROUGE (combined F1) and loss on {DEV} dev dialogues. Searched are learning
rate, batch, warm-up, weight decay, dropout, label smoothing, schedule and length of the dialogues.

{table(header, body)}"""


def _about_methods(results: Results, missing: Sequence[str]) -> str:
    repetitions = min(len(found) for found in results.values())
    left_out = f"\n\n**Not replayed in this run: {', '.join(missing)}.**" if missing else ""
    return f"""## Compute to the best score minus {WITHIN}

CPU seconds until a trial's evaluation reaches the best score of the table minus {WITHIN} points: median of
{repetitions} repetitions (10 % to 90 %), the median number of trials started, and the ratio to random search.
{SIDE_BY_SIDE} trials run side by side; evaluations under way count. A search that ends without the target begins again
with another seed, and its costs go on, for at most {MOST_ATTEMPTS} searches. A grid is the same each time. *ASHA from
2* compares trials at evaluation 2 of {EVALUATIONS} first, with one in three passing a rung. *staged* is what the ready
files do: 24 trials by TPE, then 20 by TPE in the box of the best quarter, ASHA from 2; before this page, the first 24
were random and ASHA compared from evaluation 1. *From earlier sweeps*: the same, starting with the five best of 44
random trials of each of the other two models, as `tune-jobs export --points 5` gives them; their compute is not
counted. The table has just these configurations, which favours it. *Near earlier sweeps*: none of them is in the table,
so that its nearest other one takes the place of each, which is against it. A real search lies between.{left_out}

{_compute_table(results)}

![Best score by compute](search.png)

Single evaluations of ROUGE vary by chance, so the best score of a table is partly luck, which no method foresees."""


def _compute_table(results: Results) -> str:
    medians = {key: statistics.median(one.spent_s for one in found) for key, found in results.items()}
    body = []
    for method in dict.fromkeys(method for method, _ in results):
        cells = [method]
        for model in MODELS:
            key = (method, model)
            trials = statistics.median(one.trials for one in results[key])
            cells += [band([one.spent_s for one in results[key]]), f"{trials:.0f}"]
            cells.append(f"{medians[key] / medians[RIVAL, model]:.2f}")
        body.append(cells)
    header = ["method"]
    for model in MODELS:
        header += [f"{model}: CPU s", "trials", "ratio"]
    return table(header, body)


def _about_goal(rows: Sequence[Row], results: Results) -> str:
    lines = []
    for model in MODELS:
        medians = {
            method: statistics.median(one.spent_s for one in found)
            for (method, of), found in results.items()
            if of == model
        }
        ranked = sorted(medians, key=lambda method: medians[method])
        for method in (OURS, *(one for one in medians if one.endswith("earlier sweeps"))):
            ratio = medians[method] / medians[RIVAL]
            lines.append(
                f"* {model}: *{method}* needs {ratio:.2f} of random search (goal: at most 0.20,"
                f" {'met' if ratio <= 0.2 else 'missed'}); place {ranked.index(method) + 1} of {len(ranked)}, the first"
                f" is *{ranked[0]}* with {medians[ranked[0]] / medians[RIVAL]:.2f}"
            )
    near = ", ".join(f"{_near(of_model(rows, model))} on {model}" for model in MODELS)
    goals = "\n".join(lines)
    return f"""## The goal

{goals}

Good values carry over from one model to the next, so sweeps of other models save most where they are at hand.

Why the goal is missed without them: few configurations reach the target ({near}), by luck of an evaluation as much as
by their values. So a search starts a large part of all before it meets one, whatever it learned from the others.
Rungs save most of each other trial, but a rung that is early enough to save more ranks badly (below), and one that
stops the best configuration costs a whole search. Tried too, on the first 50 configurations, and not kept: rungs that
compare the dev loss in place of the score, and eta 2 and 4: none was better on all three models than ASHA from 2."""


def _near(rows: Sequence[Row]) -> str:
    best = max(row.best for row in rows)
    return f"{sum(row.best >= best - WITHIN for row in rows)} of {len(rows)}"


def _median(results: Results, method: str, model: str) -> float:
    return statistics.median(one.spent_s for one in results[method, model])


def _about_distance(results: Results) -> str:
    body = []
    for method in dict.fromkeys(method for method, _ in results):
        found = [one.distance for (of, _), several in results.items() if of == method for one in several]
        body.append([method, f"{statistics.mean(found):.3f}"])
    ratios = {model: _median(results, EXACT, model) / _median(results, RIVAL, model) for model in MODELS}
    exact = ", ".join(f"{ratio:.2f} ({model})" for model, ratio in ratios.items())
    return f"""## Proposals that the table does not have

A proposal is replayed by the nearest configuration that the search has not tried: the mean squared distance over the
eight parameters, each from 0 to 1 on its own scale (logarithms, places of a list; two schedules are 1 apart). The
sampler learns the values of that configuration. `random, exact` draws configurations of the table itself and needs
{exact} of what random search by the nearest needs. Where that is far from 1, the best configuration is
seldom the nearest one to a proposal: this makes all methods but the exact one slower there, so compare them with each
other. Mean distance by method:

{table(["method", "mean distance"], body)}"""


def _about_rungs(rows: Sequence[Row]) -> str:
    values: Mapping[str, Callable[[Evaluation], float]] = {
        "score": lambda one: one.score,
        "score of the first half of the dev dialogues": lambda one: one.half,
        "dev loss": lambda one: -one.loss,
    }
    body = []
    for model in MODELS:
        for name, value in values.items():
            found = of_model(rows, model)
            taus = [f"{rank_correlation(found, number, value):.2f}" for number in range(1, EVALUATIONS + 1)]
            body.append([f"{model}: {name}", *taus])
    header = ["Kendall's tau with the best score", *(f"evaluation {number}" for number in range(1, EVALUATIONS + 1))]
    return f"## How much early evaluations say\n\n{table(header, body)}"


def coverage(scores: Sequence[float], seen: int, further: int) -> tuple[float, float, float]:
    """Returns how often the gain was inside the band, the mean predicted gain and the mean real one."""
    rng = random.Random(seen * 100 + further)
    inside, predicted, real = 0, 0.0, 0.0
    for _ in range(_SHUFFLES):
        drawn = rng.sample(list(scores), seen + further)
        gain = further_gain(drawn[:seen], further)
        assert gain is not None, f"{seen} scores are too few"
        true = max(drawn) - max(drawn[:seen])
        inside += true <= gain.high
        predicted += gain.mean / _SHUFFLES
        real += true / _SHUFFLES
    return inside / _SHUFFLES, predicted, real


def _gain_rows(rows: Sequence[Row]) -> Iterator[list[str]]:
    for seen, further in _COVERED:
        cells = [f"{seen} + {further}"]
        for model in MODELS:
            scores = [row.best for row in of_model(rows, model)]
            if len(scores) < seen + further:
                cells += ["", ""]
                continue
            inside, predicted, real = coverage(scores, seen, further)
            cells += [f"{inside:.0%}", f"{predicted:.2f} / {real:.2f}"]
        yield cells


def _about_gain(rows: Sequence[Row]) -> str:
    header = ["trials + further ones"]
    for model in MODELS:
        header += [f"{model}: in the band", "predicted / real gain"]
    return f"""## What further trials buy

Reports and the live view of a random search say what further trials would probably add, with a 90 % band
(`tune_jobs/analysis/further_trials.py`). How often the real gain was inside the band, in {_SHUFFLES} random sequences
of the table's trials:

{table(header, list(_gain_rows(rows)))}"""


def _about_rest() -> str:
    return """## What is not here

* PBT: a trial copies another one's weights and goes on with other values; a table of separate trainings lacks that.
* Optuna's AutoSampler: `optunahub.load_module` loads it from GitHub, which this machine does not reach.
* NePS PriorBand is no dependency of this project and was not tried.
* A confirmation with several seeds follows a staged search; it is not part of the compute to the target, and neither is
  its quick check."""


def draw(results: Results, path: Path) -> None:
    """Draws the best score by compute: median and 10 % to 90 % of the repetitions, one panel for each model."""
    import matplotlib as mpl
    import numpy as np

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(MODELS), figsize=(11, 3.6), dpi=110)
    colors = {RIVAL: "#9aa7ad", "random + ASHA from 1": "#c08a3e", "TPE + ASHA from 2": "#7a5ea8", OURS: "#1d6f8f"}
    for axes, model in zip(panels, MODELS, strict=True):
        longest = statistics.median(one.spent_s for one in results[RIVAL, model])
        times = np.geomspace(10, 2 * longest, 60)
        for method, color in colors.items():
            found = results.get((method, model), ())
            curves = np.array([[_best_at(one.curve, at_s) for at_s in times] for one in found])
            if not len(curves):
                continue
            low, middle, high = np.percentile(curves, [10, 50, 90], axis=0)
            axes.plot(times, middle, color=color, label=method, linewidth=2 if method == OURS else 1.2)
            axes.fill_between(times, low, high, color=color, alpha=0.12, linewidth=0)
        axes.set(xscale="log", xlabel="CPU seconds", title=model)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("best ROUGE combined F1")
    panels[-1].legend(frameon=False, loc="lower right")
    figure.tight_layout()
    figure.savefig(path)


def _best_at(curve: Sequence[tuple[float, float]], at_s: float) -> float:
    return max((score for spent_s, score in curve if spent_s <= at_s), default=0.0)
