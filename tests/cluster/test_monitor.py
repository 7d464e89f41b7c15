"""The files for Prometheus and Grafana: right by their own checkers, and every curve has a metric behind it."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.machines.dashboard import DATASOURCE_UID, PANELS, grafana_dashboard
from cluster.machines.metric_names import METRICS
from tuning_common.strict import load_yaml

ROOT = Path(__file__).resolve().parents[2]
NAME = re.compile(r"\bray_tuning_\w+")


@pytest.fixture(scope="module")
def monitoring(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("monitoring")
    command = [sys.executable, "-m", "cluster", "monitor", "--output", str(folder), "--temp-dir", str(folder)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True).stdout
    assert f"prometheus --config.file={folder}/prometheus.yml --web.listen-address=127.0.0.1:9090" in said
    return folder


def test_every_metric_has_a_curve_and_every_curve_a_metric() -> None:
    used = {name for panel in PANELS for query, _ in panel.queries for name in NAME.findall(query)}
    assert used == {metric.exported for metric in METRICS.values()}


def test_legends_name_labels_that_the_query_keeps() -> None:
    for panel in PANELS:
        for query, legend in panel.queries:
            kept = re.findall(r"by \(([^)]*)\)", query)[0].split(", ")
            assert set(re.findall(r"{{(\w+)}}", legend)) <= set(kept), panel.title


def test_the_dashboard_has_the_structure_that_grafana_reads(monitoring: Path) -> None:
    board: dict[str, Any] = json.loads((monitoring / "dashboards" / "tuning.json").read_text())
    assert board == json.loads(json.dumps(grafana_dashboard()))
    assert {"uid", "title", "schemaVersion", "panels", "templating", "time"} <= set(board)
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) == len(PANELS)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells)), "panels overlap"
    assert max(x for x, _ in cells) == 23
    for panel in panels:
        assert panel["type"] == "timeseries"
        assert panel["datasource"] == {"type": "prometheus", "uid": DATASOURCE_UID}
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]) >= 1
    (variable,) = board["templating"]["list"]
    assert variable["name"] == "sweep"
    source = load_yaml(monitoring / "provisioning" / "datasources" / "prometheus.yml").mapping()["datasources"]
    assert isinstance(source, list)
    assert source[0]["uid"] == DATASOURCE_UID


def test_promtool_finds_nothing_wrong(monitoring: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian's package `prometheus`)")
    checked = subprocess.run(
        [promtool, "check", "config", str(monitoring / "prometheus.yml")], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "SUCCESS" in checked.stdout
