"""Collects the facts for checks.evaluate from this machine or from every node of the cluster."""

import hashlib
import importlib.metadata
import os
import platform
import re
import shutil
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.machines.checks import CardFacts, NodeFacts, Wanted
from cluster.machines.hardware import GPU_MODEL_LABEL
from cluster.machines.inventory import Raylet, node_of, read_machine
from cluster.machines.node_watch import ANSWER_S
from cluster.machines.ray_nodes import raylet_of
from cluster.machines.storage import STORAGE
from cluster.machines.tokens import AUTH_MODE, token_problem

if TYPE_CHECKING:
    import ray

ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("tuning_common", "dialsum", "cluster", "tune_jobs")
_PROBE = ".check-"


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The collected facts.

    Attributes:
        nodes: Facts of the nodes that answered.
        silent: One sentence on each node that did not.
        wanted: The parameters of the check, with the nodes' shared folder.
    """

    nodes: tuple[NodeFacts, ...]
    silent: tuple[str, ...]
    wanted: Wanted


def pinned(requirements: Path = ROOT / "requirements.txt") -> dict[str, str]:
    """Returns the pinned versions; empty without the file, as in a job's package."""
    if not requirements.exists():
        return {}
    found = re.findall(r"^([\w.-]+)(?:\[[^]]*\])?==([^\s#]+)", requirements.read_text(encoding="utf-8"), re.MULTILINE)
    return {name.lower().replace("_", "-"): version for name, version in found}


def this_machine(wanted: Wanted) -> Answers:
    """Collects the facts of this machine."""
    wanted = replace(wanted, cluster=False)
    return Answers(nodes=(_facts(wanted, "this machine", None, None),), silent=(), wanted=wanted)


def every_node(wanted: Wanted) -> Answers:
    """Collects the facts of every node of the connected Ray cluster, by a task on each node.

    Args:
        wanted: The parameters of the check; without a storage, the nodes' own is checked.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    wanted = replace(wanted, storage=wanted.storage or os.environ.get(STORAGE) or _storage_of_nodes())
    probe = _place_probe(wanted.storage)
    alive = sorted(
        (entry for entry in ray.nodes() if entry["Alive"]), key=lambda entry: str(entry["NodeManagerAddress"])
    )
    pins = {
        entry["NodeID"]: {"scheduling_strategy": NodeAffinitySchedulingStrategy(node_id=entry["NodeID"], soft=False)}
        for entry in alive
    }
    task = ray.remote(num_cpus=0, max_retries=0)(_facts)
    clock = ray.remote(num_cpus=0, max_retries=0)(_own_clock)
    try:
        tasks = {
            entry["NodeID"]: task.options(**pins[entry["NodeID"]]).remote(
                wanted, _name(entry, alive), probe, raylet_of(entry)
            )
            for entry in alive
        }
        done, _ = ray.wait(list(tasks.values()), num_returns=len(tasks), timeout=ANSWER_S)
        nodes, silent = [], []
        for entry in alive:
            task, name = tasks[entry["NodeID"]], _name(entry, alive)
            if task not in done:
                silent.append(f"{name}: no answer in {ANSWER_S:g} s")
                continue
            try:
                facts: NodeFacts = ray.get(task)
                skew_s, error_s = _skew(partial(_now_at, clock.options(**pins[entry["NodeID"]])))
            except (ray.exceptions.RayError, TimeoutError) as error:
                silent.append(f"{name}: {str(error).strip().splitlines()[-1][:300]}")
                continue
            gpus = int(entry["Resources"].get("GPU", 0))
            nodes.append(replace(facts, skew_s=skew_s, skew_error_s=error_s, gpus=gpus))
    finally:
        if probe is not None:
            probe.unlink(missing_ok=True)
    return Answers(nodes=tuple(nodes), silent=tuple(silent), wanted=wanted)


def _facts(wanted: Wanted, name: str, probe: Path | None, raylet: Raylet | None) -> NodeFacts:
    machine = read_machine(own_parent=os.getppid())
    from cluster.machines.nvml import read

    reading = read()
    trouble = None if os.environ.get(AUTH_MODE) == "disabled" else token_problem(os.environ, Path.home()) or ""
    return NodeFacts(
        name=name,
        python=platform.python_version(),
        packages=_installed(wanted),
        code=code_hash(),
        cuda=reading.cuda,
        driver=reading.driver,
        gpus=len(machine.cards),
        gpus_unavailable=machine.node.gpus_unavailable,
        cards=tuple(
            CardFacts(name=card.model, total_bytes=card.total_bytes, others_bytes=card.used_by_others_bytes)
            for card in machine.cards
        ),
        gpu_problems=machine.problems,
        gpu_notes=() if raylet is None else node_of(raylet, machine)[1],
        storage_error=None if wanted.storage is None else _storage_error(Path(wanted.storage), probe),
        free_bytes=0 if wanted.storage is None else _free_bytes(Path(wanted.storage)),
        missing_data=tuple(path for path in wanted.data if not os.access(path, os.R_OK)),
        token_error=trouble,
    )


def code_hash(root: Path = ROOT) -> str:
    """Returns a hash of the running code, without tests and documents."""
    digest = hashlib.sha256()
    for package in _PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _installed(wanted: Wanted) -> dict[str, str]:
    found = {}
    for name in wanted.packages or ("torch", "transformers", "ray"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _storage_error(folder: Path, probe: Path | None) -> str:
    """Returns why this node cannot use the shared folder or misses another node's file in it; empty where it can."""
    if not folder.is_dir():
        return f"{folder} is not there"
    if probe is not None and not probe.exists():
        return f"{folder} is another folder than on the machine that checks: its probe file is not in it"
    own = folder / f"{_PROBE}{uuid.uuid4().hex}"
    try:
        own.write_bytes(b"check")
        read = own.read_bytes()
        own.unlink()
    except OSError as error:
        return f"{folder} cannot be written: {error.strerror}"
    return "" if read == b"check" else f"{folder} does not give back what was written"


def _free_bytes(folder: Path) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0


def _place_probe(folder: str | None) -> Path | None:
    """Writes a probe file that the other nodes must find; None where this machine lacks the folder."""
    if folder is None or not Path(folder).is_dir():
        return None
    probe = Path(folder) / f"{_PROBE}{uuid.uuid4().hex}"
    try:
        probe.write_bytes(b"check")
    except OSError:
        return None
    return probe


def _storage_of_nodes() -> str | None:
    """Returns the shared folder of the raylets."""
    import ray

    try:
        storage: str | None = ray.get(ray.remote(num_cpus=0)(_own_storage).remote(), timeout=ANSWER_S)
    except (ray.exceptions.RayError, TimeoutError):
        return None  # reported for each node later
    return storage


def _own_storage() -> str | None:
    return os.environ.get(STORAGE)


def _now_at(clock: "ray.remote_function.RemoteFunction") -> float:
    import ray

    now: float = ray.get(clock.remote(), timeout=30)
    return now


def _own_clock() -> float:
    return time.time()


def _skew(ask: Callable[[], float]) -> tuple[float, float]:
    """Returns the skew of a clock and its possible error in seconds, from the fastest of several answers."""
    best = (0.0, float("inf"))
    for _ in range(4):
        sent = time.time()
        there = ask()
        received = time.time()
        if (received - sent) / 2 < best[1]:
            best = (there - (sent + received) / 2, (received - sent) / 2)
    return best


def _name(entry: "dict[str, object]", alive: "list[dict[str, object]]") -> str:
    address = str(entry["NodeManagerAddress"])
    if sum(other["NodeManagerAddress"] == address for other in alive) == 1:
        return address
    labels = entry.get("Labels")
    model = labels.get(GPU_MODEL_LABEL) if isinstance(labels, dict) else None
    return f"{address} ({model or str(entry['NodeID'])[:6]})"
