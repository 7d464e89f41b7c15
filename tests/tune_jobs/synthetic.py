"""Made-up ledgers with a known truth, for tests of analysis and reports."""

import math
import random
from dataclasses import replace
from pathlib import Path

from tune_jobs.records.ledger import SweepFolder, SweepRecord, TrialError, TrialOutcome, TrialRecord
from tuning_common.units import parse_bytes

METRIC = "eval/rouge_combined_f1"
START = 1_790_000_000.0
CARDS: list[dict[str, object]] = [
    {"node": "gpu-a", "card": "0", "gpu_model": "RTX 3090", "total_bytes": parse_bytes("24GiB")},
    {"node": "gpu-a", "card": "1", "gpu_model": "RTX 3090", "total_bytes": parse_bytes("24GiB")},
    {"node": "gpu-b", "card": "0", "gpu_model": "A100 80GB", "total_bytes": parse_bytes("80GiB")},
]
SPACE: dict[str, dict[str, object]] = {
    "learning_rate": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-3},
    "batch_size": {"values": [8, 16, 32]},
    "model": {"values": ["kobart", "t5"]},
    "label_smoothing": {"distribution": "uniform", "min": 0.0, "max": 0.2},
}


def sweep_record(**changes: object) -> SweepRecord:
    """The sweep that wide_ledger runs."""
    record = SweepRecord(
        sweep="wide_대화요약",
        metric=METRIC,
        goal="maximize",
        method="random",
        parameters=SPACE,
        trials=32,
        stopping="asha, eta 3, rungs 1, 3, 9",
        started_at=START,
        phase="wide",
        command="python -m tune_jobs run tune_jobs/sweeps/wide_search.yaml",
        simulated=True,
        cards=CARDS,
        baseline={"lead-3": 17.25},
        member="지민",
        source="tune_jobs/sweeps/wide_search.yaml",
    )
    return replace(record, **changes)  # type: ignore[arg-type]


def truth(sampled: dict[str, object]) -> float:
    """The score that a configuration would reach: best at a learning rate of 1e-4, batch 16, KoBART."""
    rate, batch = float(str(sampled["learning_rate"])), int(str(sampled["batch_size"]))
    score = 30.0 - 9.0 * (math.log10(rate) + 4.0) ** 2
    return score - (0.0 if batch == 16 else 0.8) - (0.0 if sampled.get("model", "kobart") == "kobart" else 2.0)


def curve(top: float, epochs: int, wall_s: float, rng: random.Random) -> list[dict[str, float | None]]:
    """One row for each of so many epochs, rising towards the top."""
    rows: list[dict[str, float | None]] = []
    for epoch in range(1, epochs + 1):
        score = top - 8.0 * math.exp(-epoch / 3.0) + rng.gauss(0.0, 0.15)
        rows.append(
            {
                "iteration": float(epoch),
                "rung": float({1: 0, 3: 1, 9: 2}.get(epoch, -1)) if epoch in (1, 3, 9) else None,
                "train/global_step": epoch * 100.0,
                "train/epoch": float(epoch),
                "wall_s": wall_s / epochs * epoch,
                METRIC: max(score, 0.5),
                "eval/rouge1_f1": max(score + 8.0, 0.5),
                "eval/rouge2_f1": max(score - 9.0, 0.1),
                "eval/rougeL_f1": max(score + 2.0, 0.5),
                "eval/loss": 4.0 - score / 20.0,
            }
        )
    return rows


def wide_ledger(count: int = 32, *, seed: int = 0, epochs: int = 9) -> list[TrialRecord]:
    """A random search under ASHA on three cards, with all that can happen to a trial."""
    rng = random.Random(seed)
    free_at = [[START] * 3, [START] * 3, [START] * 4]
    trials = []
    for number in range(1, count + 1):
        sampled: dict[str, object] = {
            "learning_rate": 10 ** rng.uniform(-5, -3),
            "batch_size": rng.choice((8, 16, 32)),
            "model": rng.choice(("kobart", "kobart", "t5")),
            "label_smoothing": rng.uniform(0.0, 0.2),
        }
        top = truth(sampled)
        reached = epochs if top > 27.0 else 3 if top > 22.0 else 1
        status: TrialOutcome = "finished" if reached == epochs else "stopped"
        if number % 11 == 0:
            status, reached = "failed", 0
        if number % 13 == 0:
            status, reached = "oom", 1
        card = min(range(3), key=lambda place: min(free_at[place]))
        slot = min(range(len(free_at[card])), key=lambda place: free_at[card][place])
        wall_s = (reached or 0.3) * rng.uniform(240, 360)
        begin = free_at[card][slot]
        free_at[card][slot] = begin + wall_s + 8.0
        trials.append(
            _trial(number, sampled, top, status, reached, wall_s, begin, CARDS[card], len(free_at[card]), rng)
        )
    return trials


def _trial(
    number: int,
    sampled: dict[str, object],
    top: float,
    status: TrialOutcome,
    reached: int,
    wall_s: float,
    begin: float,
    card: dict[str, object],
    tenants: int,
    rng: random.Random,
) -> TrialRecord:
    history = curve(top, reached, wall_s, rng) if reached else []
    best = max(history, key=lambda row: row[METRIC] or 0.0) if history else {}
    micro = min(int(str(sampled["batch_size"])), 16)
    estimate = int((3.1 + 0.21 * micro + (1.4 if sampled.get("model") == "t5" else 0.0)) * 2**30)
    name = (
        f"wide_{sampled.get('model', 'kobart')}_lr{sampled['learning_rate']:.0e}_bs{sampled['batch_size']}_{number:04d}"
    )
    errors = {
        "failed": TrialError(
            type="DataError",
            message="train.csv row 812: 요약(summary) is empty",
            where="outputs/experiments/x/training.log",
        ),
        "oom": TrialError(
            type="OutOfMemoryError", message="needed 8.20 GiB, share allows 8.00 GiB", where="gpu-a card 0"
        ),
    }
    return TrialRecord(
        trial_id=f"{number:05d}",
        name=name,
        sweep="wide_대화요약",
        status=status,
        phase="wide",
        sampled=sampled,
        resolved={**sampled, "num_epochs": 9, "eval_steps": None},
        metrics={key: value for key, value in (history[-1] if history else {}).items() if value is not None},
        best_metrics={key.replace("eval/", "best/"): value for key, value in best.items() if value is not None},
        history=history,
        error=errors.get(status),
        started_at=begin,
        ended_at=begin + wall_s,
        wall_s=wall_s,
        gpu_seconds=wall_s / tenants,
        node=str(card["node"]),
        card=str(card["card"]),
        gpu_model=str(card["gpu_model"]),
        share=round(1 / tenants, 4),
        estimate={
            "device_bytes": estimate,
            "upper_bytes": int(estimate * 1.1),
            "peak_phase": "backward",
            "terms": {"weights": estimate // 5, "optimizer": estimate // 3, "activations": estimate // 3},
        },
        plan={
            "micro_batch": micro,
            "accumulation": int(str(sampled["batch_size"])) // micro,
            "gradient_checkpointing": False,
        },
        measured={"device_bytes": estimate * rng.uniform(0.93, 1.04), "host_rss_bytes": 2.0 * 2**30}
        if reached
        else None,
        retries=1 if status == "oom" else 0,
        seed=42,
        simulated=True,
        experiment_dir=f"outputs/experiments/{name}",
        member="지민",
    )


def write(path: Path, trials: list[TrialRecord], sweep: SweepRecord | None = None) -> SweepFolder:
    """Writes a ledger and returns its folder."""
    folder = SweepFolder(path)
    folder.append(sweep or sweep_record())
    for trial in trials:
        folder.append(trial)
    return folder
