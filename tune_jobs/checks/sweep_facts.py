"""Gathers the facts for sweep_checks from a sweep's folder, W&B's server, NVML and one quick training."""

import base64
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster.machines import nvml
from dialsum.config import RunConfig
from tune_jobs.analysis.experiments import folder_of
from tune_jobs.checks.sweep_checks import LeftFacts, LoginFacts, RunningFacts, Stage
from tune_jobs.config.sweep import Sweep
from tune_jobs.jobs.sealed_key import own_key
from tune_jobs.records.journal import FILE_NAME, Journal
from tune_jobs.records.ledger import ExperimentFolder, SweepFolder
from tune_jobs.records.sweep_lock import is_held
from tune_jobs.report.anomalies import find_anomalies
from tune_jobs.report.findings import find_findings
from tuning_common.errors import RequestError
from tuning_common.strict import dump_yaml

_ANSWER_S = 10.0
_PIPELINE_S = 600.0
_QUICK: Mapping[str, object] = {
    "max_train_samples": 8,
    "max_eval_samples": 2,
    "num_epochs": 1,
    "max_steps": 2,
    "eval_steps": None,
    "batch_size": 2,
    "gradient_accumulation_steps": 1,
    "tiny_hidden_size": 16,
    "tiny_layers": 1,
    "encoder_max_len": 64,
    "decoder_max_len": 16,
    "test_file": None,
}


def data_of(configs: Sequence[RunConfig]) -> tuple[str, ...]:
    """Returns the absolute data paths that configurations name; relative ones are packaged with the sweep."""
    paths = [path for config in configs for path in (config.train_file, config.dev_file, config.test_file) if path]
    return tuple(dict.fromkeys(path for path in paths if Path(path).is_absolute()))


def login(sweep: Sweep | None, environment: Mapping[str, str], home: Path) -> LoginFacts:
    """Asks W&B's server for the owner of the user's key."""
    wished = environment.get("WANDB_MODE") or (sweep.tracking.wandb if sweep is not None else "auto")
    key = own_key(environment, home)
    if key is None or wished in ("disabled", "offline"):
        return LoginFacts(wished=wished, has_key=key is not None)
    base = environment.get("WANDB_BASE_URL", "https://api.wandb.ai").rstrip("/")
    request = urllib.request.Request(
        f"{base}/graphql",
        data=json.dumps({"query": "query Viewer { viewer { username } }"}).encode(),
        headers={
            "Content-Type": "application/json",
            "Authorization": "Basic " + base64.b64encode(f"api:{key}".encode()).decode(),
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=_ANSWER_S) as answer:
            viewer = json.load(answer)["data"]["viewer"]
    except urllib.error.HTTPError as error:
        return LoginFacts(wished=wished, has_key=True, error="401" if error.code in (401, 403) else str(error))
    except (OSError, ValueError, KeyError, TypeError) as error:
        return LoginFacts(wished=wished, has_key=True, error=str(getattr(error, "reason", error)))
    if not viewer:
        return LoginFacts(wished=wished, has_key=True, error="401")
    return LoginFacts(wished=wished, has_key=True, user=str(viewer["username"]))


def quick_run(config: RunConfig) -> tuple[str, float]:
    """Trains a tiny model on a few dialogues of a trial, in a separate process.

    Returns:
        The last lines of the error, empty on success; and the duration in seconds.
    """
    config = quick_config(config)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tune_jobs_check_") as folder:
        file = Path(folder) / "quick.yaml"
        file.write_text(dump_yaml(config.to_dict()), encoding="utf-8")
        command = [sys.executable, "-m", "dialsum", "train", "--config", str(file), "--output", f"{folder}/run"]
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join(sys.path)}
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_PIPELINE_S)
        except subprocess.TimeoutExpired:
            return f"no end within {_PIPELINE_S:g} s", time.monotonic() - began
        error = "" if done.returncode == 0 else _why(done.stderr)
        if not error and not ExperimentFolder(Path(folder) / "run").best_model.joinpath("model.safetensors").exists():
            error = "the training ended and left no model"
    return error, time.monotonic() - began


def _why(output: str) -> str:
    """Returns the error message of a command, without the output before it."""
    lines = output.strip().splitlines()
    begins = [i for i, line in enumerate(lines) if line.startswith("error: ")]
    return "\n".join(lines[begins[-1] :][:6] if begins else lines[-3:]) or "it printed nothing"


def quick_config(config: RunConfig) -> RunConfig:
    """Returns a configuration with a tiny model; language, data and scoring stay the same."""
    return config.with_changes({**_QUICK, "model": "tiny-bart", "tiny_vocab_size": 400})


def stage_of(folder: Path) -> Stage:
    """Returns "during" if a driver holds the sweep's folder, else "after"."""
    return "during" if is_held(folder) else "after"


def running(folder: Path) -> RunningFacts:
    """Gathers the facts about a running sweep.

    Raises:
        RequestError: When the folder is not a sweep's.
    """
    journal = _journal(folder)
    if journal is None:
        phases = ", ".join(sorted(str(path.parent) for path in folder.parent.glob(f"{folder.name}_*/{FILE_NAME}")))
        raise RequestError(f"{folder}: a staged sweep that runs; check the phase: {phases}")
    ledger = SweepFolder(folder).load()
    states = list(journal.trials.values())
    busy = tuple((f"card {index}", percent) for index, percent in nvml.utilisation())
    return RunningFacts(
        silent_s=max(0.0, time.time() - (folder / FILE_NAME).stat().st_mtime),
        running=sum(state.running for state in states),
        ended=sum(state.status is not None for state in states),
        total=ledger.sweep.trials if ledger.sweep else None,
        anomalies=tuple(_odd(folder)) if ledger.trials else (),
        busy=busy,
    )


def left(folder: Path) -> LeftFacts:
    """Gathers the facts about an ended sweep.

    Raises:
        RequestError: When the folder is not a sweep's.
    """
    sweep = SweepFolder(folder)
    journal = _journal(folder)
    findings = find_findings(folder)
    winner = findings.analysis.winner
    model = None if winner is None else ExperimentFolder(folder_of(folder, winner.trial)).best_model
    leftovers = leftovers_of(folder)
    return LeftFacts(
        model=None if model is None else str(model),
        model_error="" if model is None else _model_error(model),
        report=str(sweep.report_html),
        report_error=_report_error(sweep),
        leftovers=tuple(map(str, leftovers)),
        leftover_bytes=sum(_size(path) for path in leftovers),
        held=tuple(
            (f"card {reading.card.index}", sum(one.held_bytes or 0 for one in reading.processes if _mine(one.pid)))
            for reading in nvml.read().cards
            if any(_mine(one.pid) for one in reading.processes)
        ),
        unfinished=sum(trial.status is None for trial in journal.trials.values()) if journal is not None else 0,
        anomalies=tuple(find_anomalies(findings.analysis, findings.summaries.summaries)),
        source=findings.analysis.ledger.sweep.source if findings.analysis.ledger.sweep else "SWEEP",
    )


def leftovers_of(folder: Path) -> list[Path]:
    """Lists checkpoints and partial files that a dead process left in the folders of a sweep and its experiments."""
    found = [path for path in folder.glob("tune/**/checkpoint_*") if path.is_dir() and not path.is_symlink()]
    experiments = ExperimentFolder.of(folder.resolve().parent.parent, "").path
    for record in SweepFolder(folder).load().trials:
        experiment = folder_of(folder, record).resolve()
        if (
            experiment.is_dir() and experiment.parent == experiments
        ):  # a path in the ledger must not remove other folders
            found += [path for path in experiment.glob("checkpoint-*") if path.is_dir() and not path.is_symlink()]
            found += experiment.rglob("*.part")
    return sorted({*found, *folder.glob("*.part")})


def _journal(folder: Path) -> Journal | None:
    """Reads the journal; returns None for a staged sweep, whose phases have their own."""
    if not (folder / FILE_NAME).exists():
        if SweepFolder(folder).ledger.exists():
            return None
        raise RequestError(f"{folder}: no {FILE_NAME} in it; give the folder of a sweep, outputs/sweep_results/NAME")
    return Journal(folder / FILE_NAME)


def _odd(folder: Path) -> list[str]:
    findings = find_findings(folder)
    return find_anomalies(findings.analysis, findings.summaries.summaries)


def _model_error(model: Path) -> str:
    """Returns why transformers could not load a model: absent files or damaged weights; empty if it could."""
    absent = [
        name for name in ("config.json", "model.safetensors", "tokenizer_config.json") if not (model / name).exists()
    ]
    if absent:
        return f"without {', '.join(absent)}"
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(model / "model.safetensors", framework="np") as weights:
            return "" if len(list(weights.keys())) else "its weights are empty"
    except (SafetensorError, OSError) as error:
        return f"its weights cannot be read ({error})"


def _report_error(sweep: SweepFolder) -> str:
    if not sweep.report_html.exists():
        return f"{sweep.report_html} does not exist"
    older = sweep.report_html.stat().st_mtime < sweep.ledger.stat().st_mtime
    return f"{sweep.report_html} is older than the ledger" if older else ""


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _mine(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}").stat().st_uid == os.geteuid()
    except OSError:
        return False
