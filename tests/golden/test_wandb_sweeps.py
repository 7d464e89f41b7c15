"""Sweep files as people write them for W&B: they load unchanged, or every key without a meaning here is named.

After a wanted change: GOLDEN_ACCEPT=1 python -m pytest tests/golden/test_wandb_sweeps.py, then read the diff in git.
"""

import os
from pathlib import Path

import pytest

from tune_jobs.config.sweep import Phase, Sweep
from tune_jobs.config.sweep_file import kept_text, load_sweep
from tune_jobs.search.grid import planned_trials
from tuning_common.errors import RequestError
from tuning_common.strict import dump_yaml

FOLDER = Path(__file__).parent / "wandb_sweeps"


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.yaml")))
def test_a_file_for_wandb_is_read_or_its_keys_are_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_text((FOLDER / name).read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    try:
        shown = as_read(load_sweep(Path(name)))
    except RequestError as error:
        shown = f"{error}\n"
    golden = FOLDER / name.replace(".yaml", ".txt")
    if os.environ.get("GOLDEN_ACCEPT"):
        golden.write_text(shown, encoding="utf-8")
    assert shown == golden.read_text(encoding="utf-8")


def as_read(sweep: Sweep) -> str:
    if sweep.method in ("grid", "random") and not sweep.phases:
        assert len(planned_trials(sweep)) == sweep.trials, "every trial is a valid run"
    stop = sweep.early_terminate
    return dump_yaml(
        {
            "name": sweep.name,
            "description": sweep.description,
            "method": sweep.method,
            "trials": sweep.trials,
            "metric": f"{sweep.metric.goal} {sweep.metric.name}",
            "parameters": sweep.space.spec(),
            **({"rules": dict(sweep.rules.set)} if sweep.rules.set else {}),
            **({"phases": {one.name: as_phase(one) for one in sweep.phases}} if sweep.phases else {}),
            "compared at evaluations": list(stop.rungs(27)),
            "stop": f"{stop.type}, eta {stop.eta:g}{', strict' if stop.strict else ''}",
            "project": f"{sweep.tracking.entity}/{sweep.tracking.project}",
            "notes": list(sweep.notes),
        }
    )


def as_phase(phase: Phase) -> dict[str, object]:
    sweep = phase.sweep
    seeds = {"seeds": list(phase.seeds)} if phase.kind == "confirm" else {}
    return {"method": sweep.method, "trials": sweep.trials, "parameters": list(sweep.space.spec()), **seeds}


def test_a_missing_count_is_taken_from_the_command_line_and_kept(tmp_path: Path) -> None:
    body = "method: random\nparameters: {training.learning_rate: {min: 1e-5, max: 1e-4}}"
    for name, text in (("a.yaml", body), ("b.yaml", '{"method": "random", "lr": {"min": 1e-5, "max": 1e-4}}\n')):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        with pytest.raises(RequestError, match="--count 20"):
            load_sweep(path)
        sweep = load_sweep(path, 7)
        assert sweep.trials == 7
        path.write_bytes(kept_text(sweep))
        assert load_sweep(path, 9).trials == 7
