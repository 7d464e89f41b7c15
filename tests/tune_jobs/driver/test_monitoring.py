"""A sweep's metrics on a real Ray's endpoints, read by a real Prometheus with our configuration for our dashboard."""

import json
import logging
import re
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.machines.dashboard import PANELS
from cluster.machines.metric_names import METRICS
from tests.tune_jobs.specs_of import spec_of
from tests.waiting import LIMIT_S, wait_until
from tune_jobs.driver.callbacks import ViewCallback
from tune_jobs.driver.view import LogView
from tune_jobs.records.progress import SweepFrame, SweepProgress, TrialProgress, TrialStatus
from tune_jobs.records.trial_spec import Bundle, TrialSpec
from tune_jobs.trial.meter import TrialMeter

ROOT = Path(__file__).resolve().parents[3]
GIB = float(2**30)


class Recorder:
    """Keeps the last value of every series."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, ...], float] = {}

    def gauge(self, name: str, value: float, **tags: str) -> None:
        assert set(tags) == set(METRICS[name].tags)
        self.values[(name, *(tags[tag] for tag in METRICS[name].tags))] = value

    def count(self, name: str, by: float = 1.0, **tags: str) -> None:
        key = (name, *(tags[tag] for tag in METRICS[name].tags))
        self.values[key] = self.values.get(key, 0.0) + by


def spec() -> TrialSpec:
    return spec_of(
        Path(),
        "one",
        sweep="wide",
        bundle=Bundle(cpus=1, gpus=0.25),
        metric="eval/loss",
        estimate={"upper_bytes": 5 * 2**30},
    )


def progress_of_three(first: TrialStatus = "running", second: TrialStatus = "running") -> SweepProgress:
    """Two trials on one card, one of them after a failure, and one that waits."""
    frame = SweepFrame(sweep="wide", metric="eval/loss", goal="minimize", total=3, longest=4, slots=2)
    trials = {
        number: TrialProgress(
            number=number,
            name=f"trial_{number}",
            status=status,
            iteration=1,
            last=3.0 - number,
            best=3.0 - number,
            share=0.25,
            retries=number - 1,
            location=("10.0.0.2", "0"),
        )
        for number, status in ((1, first), (2, second))
    }
    return SweepProgress(frame=frame, trials=trials, now_s=1.0)


def drive(meter: "Recorder | Any") -> None:
    """Sets every metric, as driver, trial and broker do."""
    ViewCallback(LogView(sys.stderr), progress_of_three, meter, "minji").update()
    trial = TrialMeter(meter, spec(), "10.0.0.2", "0")
    trial.log({"memory/reserved_bytes": 3 * GIB, "trial/held_bytes": 4 * GIB, "train/tokens_per_second": 900.0})
    trial.out_of_memory()
    for name in ("quota", "held", "waiting"):
        meter.gauge(f"tuning_member_{name}_gpus", 2.0, member="minji")


def test_what_a_sweep_and_its_trials_set() -> None:
    meter, now_s, progress = Recorder(), 0.0, progress_of_three()
    view = ViewCallback(LogView(sys.stderr), lambda: progress, meter, "minji", clock=lambda: now_s)
    view.update()
    states = {key[3]: value for key, value in meter.values.items() if key[0] == "tuning_trials"}
    assert (states["running"], states["waiting"], states["finished"]) == (2, 1, 0)
    assert meter.values["tuning_best_score", "wide", "minji", "eval/loss"] == 1.0
    assert meter.values["tuning_retries", "wide", "minji"] == 1
    assert meter.values["tuning_card_tenants", "wide", "minji", "10.0.0.2", "0"] == 2
    progress, now_s = progress_of_three("finished"), 4.0
    view.update()
    assert meter.values["tuning_card_tenants", "wide", "minji", "10.0.0.2", "0"] == 2, "not more often than that"
    progress = progress_of_three("finished", "finished")
    view.close(progress)
    assert meter.values["tuning_card_tenants", "wide", "minji", "10.0.0.2", "0"] == 0
    assert meter.values["tuning_retries", "wide", "minji"] == 1

    trial = TrialMeter(meter, spec(), "10.0.0.2", "0")
    trial.log({"memory/reserved_bytes": 3 * GIB, "trial/held_bytes": 4 * GIB, "train/tokens_per_second": 900.0})
    of_trial = {key[0]: value for key, value in meter.values.items() if key[1:] == ("wide", "one", "10.0.0.2", "0")}
    assert of_trial == {
        "tuning_trial_share": 0.25,
        "tuning_trial_estimated_bytes": 5 * GIB,
        "tuning_trial_measured_bytes": 4 * GIB,
        "tuning_trial_tokens_per_second": 900.0,
    }
    trial.close()
    assert {value for key, value in meter.values.items() if key[1:2] == ("wide",) and key[2] == "one"} == {0.0}


def test_a_trial_on_two_cards_is_a_tenant_of_both() -> None:
    frame = SweepFrame(sweep="wide", metric="eval/loss", goal="minimize", total=1, longest=4, slots=1)
    trial = TrialProgress(number=1, name="wide", status="running", iteration=1, share=2.0, location=("10.0.0.1", "0,1"))
    meter, progress = Recorder(), SweepProgress(frame=frame, trials={1: trial})
    ViewCallback(LogView(sys.stderr), lambda: progress, meter, "").update()
    tenants = [value for key, value in meter.values.items() if key[0] == "tuning_card_tenants"]
    assert tenants == [1, 1]


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as answer:
        text: str = answer.read().decode()
    return text


@pytest.fixture
def own_ray(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """A head with a metrics endpoint of its own; the shared one of this folder has no fast reports."""
    ray = pytest.importorskip("ray")
    assert not ray.is_initialized(), "conftest.py puts the tests that share a Ray last"
    context = ray.init(
        num_cpus=2,
        num_gpus=1,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=100 * 2**20,
        _node_ip_address="127.0.0.1",
        _metrics_export_port=18090,
        _system_config={"metrics_report_interval_ms": 1000},
    )
    yield dict(context.address_info)
    ray.shutdown()


@pytest.mark.ray
@pytest.mark.slow
def test_a_real_prometheus_reads_every_curve_of_the_dashboard(own_ray: dict[str, Any], tmp_path: Path) -> None:
    prometheus = shutil.which("prometheus")
    if prometheus is None:
        pytest.skip("prometheus is not installed (Debian's package `prometheus`)")
    from cluster.machines.metrics import Meters

    meters = Meters()
    drive(meters)
    endpoint = "http://127.0.0.1:18090/metrics"
    wanted = {metric.exported for metric in METRICS.values()}
    wait_until(lambda: all(f"{name}{{" in read(endpoint) for name in wanted), "all metrics on the node's endpoint")

    (tmp_path / "prom_metrics_service_discovery.json").write_text('[{"targets": ["127.0.0.1:18090"]}]')
    command = [sys.executable, "-m", "cluster", "monitor", "--output", str(tmp_path), "--temp-dir", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    config = tmp_path / "prometheus.yml"
    config.write_text(config.read_text().replace("10s", "1s"))  # a rate needs two readings
    server = subprocess.Popen(
        [
            prometheus,
            f"--config.file={tmp_path}/prometheus.yml",
            "--web.listen-address=127.0.0.1:19090",
            f"--storage.tsdb.path={tmp_path}/data",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def query(text: str) -> list[dict[str, Any]]:
        url = f"http://127.0.0.1:19090/api/v1/query?query={urllib.parse.quote(text)}"
        try:
            result: list[dict[str, Any]] = json.loads(read(url))["data"]["result"]
        except OSError:
            return []
        return result

    try:
        wait_until(lambda: bool(query("ray_tuning_trials")), "the first reading")
        for panel in PANELS:
            for text, legend in panel.queries:
                whole = text.replace("$sweep", ".*")
                wait_until(lambda whole=whole: bool(query(whole)), f"{panel.title}: {whole}")  # type: ignore[misc]
                labels = {label for one in query(whole) for label in one["metric"]}
                assert set(re.findall(r"{{(\w+)}}", legend)) <= labels, panel.title
        (one,) = query('sum by (node, card) (ray_tuning_card_tenants{sweep=~".*"})')
        assert (one["metric"], one["value"][1]) == ({"node": "10.0.0.2", "card": "0"}, "2")
        (measured,) = query("max by (trial) (ray_tuning_trial_measured_bytes)")
        assert float(measured["value"][1]) == 4 * GIB
    finally:
        server.terminate()
        server.wait(LIMIT_S)
