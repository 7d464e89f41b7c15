"""Times a sweep of trials that do nothing beside bare Ray Tune; writes control_plane.md.

`python -m benchmarks.control_plane --trials 100 500` runs as many trials through our driver and through `tune.Tuner`
with reused actors, each in a process of its own, in turns, two trials at a time on two logical cores. A trial reports
one value with a checkpoint of one small file. Results stay below outputs/, and what is there is not run again.
"""

import cProfile
import json
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from benchmarks.pages import page_parser, table
from benchmarks.sweeps import METRIC, NO_MODEL, run_with
from cluster.machines.loopback import LOOPBACK, prefer_loopback
from dialsum.config import RunConfig
from dialsum.reporter import Reporter
from tuning_common.cli import emit, note
from tuning_common.files import write_json, write_text

OUTPUT = Path("outputs/benchmarks/control_plane")
CORES = 2
SIZES = (100, 500, 1000)
GOAL, GOAL_BYTES = 1.15, 20_000
SWEEP = """
name: noop
method: random
count: COUNT
parameters:
  learning_rate: {distribution: log_uniform_values, min: 1e-5, max: 1e-2}
  num_epochs: {value: 1}
"""
RESOURCES = f"resources: {{cpus_per_trial: 1, max_concurrent_trials: {CORES}}}\n"
Measured = Mapping[str, float]


def no_training(config: RunConfig, folder: Path, *, reporter: Reporter, **options: object) -> None:
    """Takes the place of dialsum.trainer.train."""
    reporter.report({METRIC: 1 / config.learning_rate}, _checkpoint(folder / "checkpoint-1"))


def our_trial(config: dict[str, object]) -> None:
    """What our driver runs in a trial's process."""
    from tune_jobs.trial.run_trial import run_trial

    run_trial(config, train=no_training)


def bare_trial(config: dict[str, float]) -> None:
    """What bare Tune runs."""
    from ray import tune

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = tune.Checkpoint.from_directory(str(_checkpoint(Path(folder))))
        tune.report({METRIC: 1 / config["learning_rate"]}, checkpoint=checkpoint)


def _checkpoint(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "state.json").write_text("{}", encoding="utf-8")
    return folder


def run_ours(trials: int, folder: Path) -> None:
    """Runs the trials through our driver."""
    file = folder / "sweep.yaml"
    write_text(file, SWEEP.replace("COUNT", str(trials)) + NO_MODEL + RESOURCES)
    assert run_with(our_trial, [str(file), "--output", str(folder), "--cpu-only"]) == 0


def run_bare(trials: int, folder: Path) -> None:
    """Runs them through Tune."""
    import ray
    from ray import tune

    ray.init("local", num_cpus=CORES, include_dashboard=False, log_to_driver=False, _node_ip_address=LOOPBACK)
    tuner = tune.Tuner(
        tune.with_resources(bare_trial, {"cpu": 1}),
        param_space={"learning_rate": tune.loguniform(1e-5, 1e-2)},
        tune_config=tune.TuneConfig(metric=METRIC, mode="max", num_samples=trials, reuse_actors=True),
        run_config=tune.RunConfig(storage_path=str(folder.resolve()), name="noop", verbose=0),
    )
    assert len(tuner.fit()) == trials
    ray.shutdown()


def measure(side: str, trials: int, profile: Path | None) -> Measured:
    """Runs one side in this process; returns seconds, CPU seconds of the driver, and the most memory it held."""
    folder = OUTPUT / f"work_{side}_{trials}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    profiler = cProfile.Profile()
    if profile is not None:
        profiler.enable()
    begin_s, cpu_s = time.perf_counter(), time.process_time()
    {"ours": run_ours, "bare": run_bare}[side](trials, folder)
    wall_s, cpu_s = time.perf_counter() - begin_s, time.process_time() - cpu_s
    if profile is not None:
        profiler.disable()
        profiler.dump_stats(profile)
    shutil.rmtree(folder)
    return {"wall_s": wall_s, "cpu_s": cpu_s, "rss_bytes": 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}


def kept(side: str, trials: int) -> Measured:
    """Returns a measurement; makes it in a process of its own where there is none."""
    path = OUTPUT / f"{side}_{trials}.json"
    if not path.exists():
        command = [sys.executable, "-m", "benchmarks.control_plane", "--trials", str(trials), "--only", side]
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".log").open("w", encoding="utf-8") as log:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, text=True, check=True)
        write_json(path, json.loads(done.stdout.strip().split("\n")[-1]))
        note(f"{side}, {trials} trials: {path.read_text(encoding='utf-8').strip()}")
    found: Measured = json.loads(path.read_text(encoding="utf-8"))
    return found


def page(found: Mapping[int, Mapping[str, Measured]]) -> str:
    """Writes the tables."""
    rows = []
    for trials, sides in found.items():
        ours, bare = sides["ours"], sides["bare"]
        cells = [f"{side['wall_s']:.0f} / {side['cpu_s']:.0f}" for side in (bare, ours)]
        rows.append([str(trials), *cells, *(f"{ours[name] / bare[name]:.2f}" for name in ("wall_s", "cpu_s"))])
    text = [
        "# A sweep of trials that do nothing, beside bare Ray Tune",
        "",
        f"Made by `python -m benchmarks.control_plane --trials {' '.join(map(str, found))}` on {platform.machine()},"
        f" Python {platform.python_version()},",
        f"Ray {version('ray')}, two trials at a time, on a machine that other work shared. *bare* is `tune.Tuner` with"
        " reused actors.",
        f"Seconds are from the driver's start to its end, with Ray's own start and end. Goals: {GOAL:.2f} x the wall of"
        f" bare Tune, {GOAL_BYTES // 1000} kB a trial more.",
        "",
        table(["trials", "bare: wall / driver's CPU s", "ours: wall / driver's CPU s", "wall", "CPU"], rows),
    ]
    missing = [str(trials) for trials in SIZES if trials not in found]
    if missing:
        text += ["", f"**Not measured: {' and '.join(missing)} trials.**"]
    if len(found) > 1:
        few, many = min(found), max(found)
        slopes = {
            (name, side): (found[many][side][name] - found[few][side][name]) / (many - few)
            for name in ("wall_s", "cpu_s", "rss_bytes")
            for side in ("bare", "ours")
        }
        rows = [
            [title, *(f"{slopes[name, side] * scale:.0f}" for side in ("bare", "ours"))]
            for title, name, scale in (
                ("wall, ms", "wall_s", 1e3),
                ("driver's CPU, ms", "cpu_s", 1e3),
                ("driver's memory, kB", "rss_bytes", 1e-3),
            )
        ]
        text += ["", f"## Each further trial, from {few} to {many}", "", table(["", "bare", "ours"], rows)]
        text += ["", "Memory is the most that the driver's process held."]
    return "\n".join([*text, ""])


def main() -> None:
    """Measures what is missing and writes the page; with --only, measures one side here and prints it as JSON."""
    parser = page_parser(__file__, __doc__)
    parser.add_argument("--trials", type=int, nargs="+", default=list(SIZES), metavar="N", help="sizes of the sweeps")
    parser.add_argument("--only", choices=("ours", "bare"), help="measure this side here")
    parser.add_argument("--profile", type=Path, metavar="FILE", help="with --only: write a profile of the driver")
    chosen = parser.parse_args()
    if chosen.only:
        prefer_loopback()
        for trials in chosen.trials:
            emit(json.dumps(measure(chosen.only, trials, chosen.profile)))
        sys.stdout.flush()
        return
    found = {trials: {side: kept(side, trials) for side in ("bare", "ours")} for trials in chosen.trials}
    write_text(chosen.output, page(found))
    note(f"written to {chosen.output}")


if __name__ == "__main__":
    main()
