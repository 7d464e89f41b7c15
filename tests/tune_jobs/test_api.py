"""The Python interface; the lines of the README run as they stand there, in a notebook."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import tune_jobs
from cluster.machines.loopback import SINGLE_MACHINE
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
def test_the_notebook_runs_the_lines_of_the_readme_and_shows_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (lines,) = re.findall(r"```python\n(import tune_jobs.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert len(lines.strip().splitlines()) <= 10
    notebook = nbformat.read(ROOT / "docs" / "notebook.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.outputs for cell in cells] == [[]] * len(cells)
    assert "\n".join(cell.source for cell in cells) == f"{lines.strip()}\nresult"
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv(SINGLE_MACHINE)  # of these tests: `plan` imports Ray, and it must still keep to the loopback
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    NotebookClient(notebook, timeout=None, resources={"metadata": {"path": str(tmp_path)}}).execute()
    *_, run, shown, table, result = cells
    progress = "".join(output.text for output in run.outputs if output.output_type == "stream")
    assert "2 of 2 trials ended" in progress
    score, model, report = "".join(output.text for output in shown.outputs).split()
    assert float(score) >= 0
    assert (tmp_path / model / "config.json").exists()
    assert (tmp_path / report).exists()
    for cell in (table, result):
        assert cell.outputs[-1].data["text/html"].count("<tr") == 3
    assert "best: <b>first_" in result.outputs[-1].data["text/html"]
