"""A small file that would fill the memory or never end is refused in words, soon and with little memory."""

import json
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from cluster.scheduling.quotas import load_team
from dialsum.config import load_run_config
from dialsum.data import load_examples
from tune_jobs.config.sweep_file import load_sweep
from tuning_common.errors import RequestError
from tuning_common.strict import MOST_BYTES, load_yaml

SOON_S = 2.0  # of this process alone; a second on a machine of today
FEW_KIB = 150 * 1024


def ladder(rung: str, first: str) -> str:
    """Nine aliases, each of ten of the one before."""
    lines = [f"a0: &a0 {first}"]
    lines += [f"a{step}: &a{step} {rung % ','.join([f'*a{step - 1}'] * 10)}" for step in range(1, 10)]
    return "\n".join(lines)


BOMBS = {
    "billion laughs": ladder("[%s]", "[x, x]"),
    "merged keys": ladder("{<<: [%s]}", "{k: v}"),
    "twice the same keys": "a: &a {" + "k: 1," * 9000 + "}\nb: &b [" + "*a," * 9000 + "]\nc: [" + "*b," * 900 + "]\n",
    "list in itself": "a: &a [*a]",
    "mapping in itself": "a: &a {b: *a}",
    "mapping merged into itself": "a: &a {<<: *a}",
    "brackets": "a: " + "[" * 100_000,
    "braces": "{a: " * 50_000,
    "keys": "? " * 50_000,
    "indents": "".join(" " * depth + "a:\n" for depth in range(500)),
    "many values": "a: [" + "[]," * 60_000 + "]",
    "a whole number": "a: " + "9" * 200_000,
    "a binary number": "a: !!int '0b" + "1" * 20_000 + "'",
    "too large": "a: '" + "x" * MOST_BYTES + "'",
    "no such day": "a: 2026-13-45",
    "an escape": "a: \x1b[2J",
}
READERS: dict[str, Callable[[Path], object]] = {
    "any": load_yaml,
    "sweep": load_sweep,
    "run": load_run_config,
    "team": load_team,
}


@contextmanager
def refused(match: str = "") -> Iterator[None]:
    before_kib, began_s = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(RequestError, match=match) as caught:
        yield
    assert time.process_time() - began_s < SOON_S
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < FEW_KIB
    assert len(str(caught.value)) < 3000
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_yaml_bomb_is_refused(tmp_path: Path, bomb: str, reader: str) -> None:
    path = tmp_path / "bomb.yaml"
    path.write_text(BOMBS[bomb], encoding="utf-8")
    with refused(r"bomb\.yaml"):
        READERS[reader](path)


def test_aliases_that_people_write_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: *a\n", encoding="utf-8")
    assert load_yaml(path).data == {"a": {"x": 1}, "b": {"x": 1, "y": 2}, "c": {"x": 1}}


def grid(**parameters: object) -> dict[str, object]:
    return {"method": "grid", "parameters": parameters}


RATE = {"learning_rate": {"min": 1e-5, "max": 1e-3}}
SWEEPS: dict[str, tuple[dict[str, object], str]] = {
    "count": ({"method": "random", "count": 10**9, "parameters": RATE}, "count may be at most 10000"),
    "count of a phase": (
        {"method": "random", "parameters": RATE, "phases": [{"name": "w", "kind": "wide", "count": 10**9}]},
        "count may be at most 10000",
    ),
    "seeds of a grid": (grid(seed={"distribution": "int_uniform", "min": 0, "max": 10**9}), "at most 10000 values"),
    "many parameters": (
        grid(**{name: {"values": [*range(1, 101)]} for name in ("seed", "num_epochs", "eval_steps")}),
        "the grid has 1000000 configurations",
    ),
    "tiny steps": (
        grid(warmup_ratio={"distribution": "q_uniform", "min": 0.0, "max": 0.5, "q": 1e-300}),
        "q 1e-300 is too small",
    ),
    "eta": (grid(seed={"values": [1, 2]}) | {"early_terminate": {"type": "asha", "eta": 1.0000001}}, "eta must be"),
    "s": (
        grid(seed={"values": [1, 2]}) | {"early_terminate": {"type": "hyperband", "s": 10**9, "max_iter": 9}},
        "s must be at most 100",
    ),
    "brackets": (
        grid(seed={"values": [1, 2]}) | {"early_terminate": {"type": "ASHAScheduler", "brackets": 10**9}},
        "brackets must be at most 100",
    ),
    "reduction": (
        grid(seed={"values": [1, 2]})
        | {"early_terminate": {"type": "ASHAScheduler", "reduction_factor": 1.0000001, "max_t": 10**9}},
        "reduction_factor must be at least 1.1",
    ),
    "cards": (grid(seed={"values": [1, 2]}) | {"resources": {"simulate": "1000000000x24GiB"}}, "at most 9999 cards"),
    "cards of a trial": (grid(seed={"values": [1, 2]}) | {"resources": {"gpus_per_trial": 10**9}}, "gpus_per_trial"),
    "seed of the search": (
        grid(seed={"values": [1, 2]}) | {"search": {"seed": 10**17}},
        "seed must be at most 4294967295",
    ),
    "workers": (grid(dataloader_workers={"values": [1, 10**9]}), "dataloader_workers must be at most 256"),
    "rule": (
        grid(seed={"values": [1, 2]}) | {"rules": {"set": {"batch_size": "9 ** 9 ** 9"}}},
        "batch_size",
    ),
}


@pytest.mark.parametrize("name", SWEEPS)
def test_a_number_that_would_never_end_is_refused(tmp_path: Path, name: str) -> None:
    content, match = SWEEPS[name]
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    load_sweep_once()
    with refused(match):
        load_sweep(path).resolve({"seed": 1})


def load_sweep_once() -> None:
    """Imports what reading a sweep needs."""
    import tune_jobs.config.ray_schedulers  # noqa: F401


@pytest.mark.parametrize(
    ("quota", "rule"), [(".nan", "a finite number"), (".inf", "a finite number"), ("-1", "at least 0")]
)
def test_a_quota_is_a_number(tmp_path: Path, quota: str, rule: str) -> None:
    path = tmp_path / "team.yaml"
    path.write_text(f"members: {{minji: {{quota_gpus: {quota}}}}}\n", encoding="utf-8")
    with refused(f"quota_gpus must be {rule}"):
        load_team(path)


@pytest.mark.parametrize(
    "value", ["[" * 100_000, '{"fname": ' * 50_000, "9" * 100_000], ids=["brackets", "braces", "number"]
)
def test_a_line_of_data_that_is_a_bomb_is_named(tmp_path: Path, value: str) -> None:
    path = tmp_path / "data.jsonl"
    good = json.dumps({"fname": "a", "dialogue": "b", "summary": "c"})
    path.write_text(f"{good}\n{value}\n", encoding="utf-8")
    with refused(r"data\.jsonl:2: broken JSON"):
        load_examples(path)
