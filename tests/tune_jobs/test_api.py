"""The Python interface; the lines of the README run as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tune_jobs
from tuning_common.errors import RequestError

ROOT = Path(__file__).resolve().parents[2]
SWEEP = {
    "name": "first",
    "method": "random",
    "base_config": {"model": "kobart", "precision": "bf16"},
    "parameters": {"learning_rate": [1e-5, 2e-5, 4e-5]},
}


def test_a_plan_of_a_dict_needs_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    planned = tune_jobs.plan(SWEEP, cluster="1x24GiB", count=2)
    assert isinstance(planned.values["trials"], list)
    assert len(planned.values["trials"]) == 2
    assert planned._repr_html_().startswith("<pre>plan of first: 2 trials")
    assert Path("outputs/sweeps/first_base.yaml").read_text(encoding="utf-8").startswith("model: kobart\n")


def test_an_estimate_has_the_numbers_of_the_command() -> None:
    found = tune_jobs.estimate(model="kobart", batch_size=8, precision="bf16", gpu="L4")
    assert found["device_bytes"] > 3 * 2**30  # type: ignore[operator]
    assert {"upper_bytes", "gpu_share", "terms", "peak_phase"} <= set(found)


def test_wrong_requests_are_refused_with_what_would_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match="plan has no option 'clustr'; did you mean 'cluster'"):
        tune_jobs.plan(SWEEP, clustr="1x24GiB")
    with pytest.raises(RequestError, match="holds plain values only"):
        tune_jobs.plan({**SWEEP, "count": object()})
    with pytest.raises(RequestError, match="random does not end by itself"):
        tune_jobs.run(SWEEP)
    with pytest.raises(AttributeError, match="has no attribute 'rum'"):
        tune_jobs.rum  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.ray
def test_the_lines_of_the_readme_run(tmp_path: Path) -> None:
    (lines,) = re.findall(r"```python\n(import tune_jobs.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert len(lines.strip().splitlines()) <= 10
    shown = "print(len(result.table), result._repr_html_().count('<tr'))\n"
    done = subprocess.run(
        [sys.executable, "-c", lines + shown],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    score, model, report = done.stdout.splitlines()[2].split()
    assert float(score) >= 0
    assert (tmp_path / model / "config.json").exists()
    assert (tmp_path / report).exists()
    assert done.stdout.splitlines()[-1] == "2 3"
