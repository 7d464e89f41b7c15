"""`python -m benchmarks.co_tenants`: how soon a sweep ends with fixed numbers of trials on a card, and when it learns.

Real processes of a real sweep on one simulated card: every trial computes hashes, so that trials compete for the cores
and caches of this machine, and reports its rate as a training reports tokens per second. Trials are equal, or the last
two are four times as long. Ratios in one run matter, not seconds. Writes co_tenants.md in its own folder.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.pages import table
from benchmarks.sweeps import METRIC, NO_MODEL, driver_environment, run_with
from cluster.machines.loopback import prefer_loopback
from dialsum.config import RunConfig
from dialsum.reporter import Reporter
from tune_jobs.trial.run_trial import run_trial
from tuning_common import cli

STEPS = 4  # of each evaluation
BLOCK, BLOCKS = bytes(2**22), 40  # hashed in each step
LONG = 4  # times as many steps in an evaluation
LIMIT_S = 600.0
SWEEP = """
name: NAME
method: grid
parameters:
  learning_rate: {values: RATES}
  seed: {value: SEED}
  num_epochs: {value: EPOCHS}
"""
RESOURCES = "resources: {cpus_per_trial: 0.25, simulate: 1x24GiB, share: SHARE}\n"


@dataclass(frozen=True, kw_only=True)
class Case:
    """Trials of one sweep.

    Attributes:
        trials: Their number.
        long: How many of them are long; they come last.
    """

    trials: int
    long: int = 0

    @property
    def fixed(self) -> tuple[int, ...]:
        """Numbers of trials on the card that are tried."""
        return tuple(number for number in (1, 2, 4, 8) if number <= self.trials)


def compute(
    config: RunConfig, folder: Path, *, reporter: Reporter, resume_from: Path | None, **options: object
) -> None:
    """Takes the place of dialsum.trainer.train; the seed is the number of long trials, which have the lowest rates."""
    steps = STEPS * (LONG if round(config.learning_rate * 1e6) <= config.seed else 1)
    for epoch in range(1, config.num_epochs + 1):
        started_s = time.perf_counter()
        for _ in range(steps * BLOCKS):
            hashlib.sha256(BLOCK).digest()
        step_s = (time.perf_counter() - started_s) / steps
        checkpoint = folder / f"checkpoint-{epoch}"
        checkpoint.mkdir(parents=True, exist_ok=True)
        rates = {"time/total_s": step_s, "train/tokens_per_second": 1000.0 / step_s}
        reporter.report({METRIC: float(epoch), "train/global_step": float(epoch * steps), **rates}, checkpoint)


def trial(config: dict[str, object]) -> None:
    """What Tune runs in the trial's process."""
    run_trial(config, train=compute)


def measure(folder: Path, case: Case, share: str, epochs: int) -> tuple[float, int, list[str]]:
    """Runs a sweep.

    Returns:
        Seconds from the start of its first trial to the end of its last one, the most trials on the card at a time,
        and what it learned.
    """
    name = f"s{case.trials}_{case.long}_{share.replace('.', '_')}"
    rates = [f"{(case.trials - number) * 1e-6:.6f}" for number in range(case.trials)]  # the last ones are the lowest
    text = (
        (SWEEP + NO_MODEL + RESOURCES)
        .replace("NAME", name)
        .replace("RATES", f"[{', '.join(rates)}]")
        .replace("SHARE", share)
    )
    text = text.replace("SEED", str(case.long)).replace("EPOCHS", str(epochs))
    (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "benchmarks.co_tenants", "run-sweep", f"{name}.yaml"]
    done = subprocess.run(
        command, cwd=folder, env=driver_environment(), capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ledger = (folder / "outputs" / "sweep_results" / name / "all_results.jsonl").read_text(encoding="utf-8")
    trials = [record for record in map(json.loads, ledger.splitlines()) if record["event"] == "trial"]
    assert len(trials) == case.trials, len(trials)
    spans = [(record["started_at"], record["ended_at"]) for record in trials]
    together = max(sum(start <= moment < end for start, end in spans) for moment, _ in spans)
    learned = [line for line in done.stderr.splitlines() if "from now on a card takes" in line]
    return max(end for _, end in spans) - min(start for start, _ in spans), together, learned


def write_page(
    rows: Sequence[Sequence[object]], decisions: Sequence[str], loads: Sequence[float], epochs: int, repeats: int
) -> None:
    """Writes what is known so far."""
    header = ["Trials", "Long", "1", "2", "4", "8", "Learned", "Together at most", "Quickest fixed, s"]
    page = (
        "# How many trials of one machine's processes share a card\n\n"
        f"Made by `python -m benchmarks.co_tenants --epochs {epochs} --repeats {repeats}` on {os.cpu_count()} cores.\n"
        f"Load, with other work: {min(loads):.1f} to {max(loads):.1f}.\n"
        "The card is **simulated**; on real GPUs it is *not measured*.\n\n"
        "Duration of a sweep with 1, 2, 4 and 8 trials on the card at a time (a fixed `share`), and with\n"
        "`share: auto`, which learns: each divided by the quickest fixed one of its row. *Long* trials take\n"
        f"{LONG} times as long and come last. Every trial computes hashes of blocks of 4 MiB and evaluates\n"
        f"{epochs} times; the quickest of {repeats} runs counts.\n\n"
        + table(header, rows)
        + "\n\nWhat was learned:\n\n"
        + "\n".join(
            f"* {line}" for line in decisions or ["nothing: the last trial had started before enough rates were known"]
        )
        + "\n"
    )
    (Path(__file__).parent / "co_tenants.md").write_text(page, encoding="utf-8")


def main() -> int:
    """Runs all sweeps and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=1, help="the quickest of so many runs counts")
    chosen = parser.parse_args()
    rows, decisions, loads = [], [], []
    for case in [Case(trials=count, long=long) for count in chosen.trials for long in (0, 2)]:
        seconds: dict[str, float] = {}
        most = 0
        for _ in range(chosen.repeats):
            for share in (*(f"{1 / number:g}" for number in case.fixed), "auto"):
                with tempfile.TemporaryDirectory() as name:
                    loads.append(os.getloadavg()[0])
                    took_s, together, learned = measure(Path(name), case, share, chosen.epochs)
                cli.note(f"{case} share {share}: {took_s:.1f} s, up to {together} together, load {loads[-1]:.1f}")
                seconds[share] = min(took_s, seconds.get(share, took_s))
                if share == "auto":
                    most = together
                    decisions += [f"{case.trials} trials, {case.long} long: {line}" for line in learned]
        least_s = min(took_s for share, took_s in seconds.items() if share != "auto")
        fixed = [
            f"{seconds[f'{1 / number:g}'] / least_s:.2f}" if number in case.fixed else "" for number in (1, 2, 4, 8)
        ]
        rows.append([case.trials, case.long, *fixed, f"{seconds['auto'] / least_s:.2f}", most, f"{least_s:.0f}"])
        write_page(rows, decisions, loads, chosen.epochs, chosen.repeats)
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["run-sweep"]:
        prefer_loopback()
        sys.exit(cli.run(lambda arguments: run_with(trial, arguments[1:])))
    sys.exit(main())
