"""python -m cluster monitor: writes the files with which Prometheus and Grafana show sweeps."""

import argparse
import os
from pathlib import Path

from cluster.machines.dashboard import grafana_dashboard, grafana_datasource, grafana_provider, prometheus_config
from cluster.machines.ray_folder import ray_folder
from tuning_common import cli
from tuning_common.files import write_json, write_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description = "Writes a Prometheus configuration, a Grafana dashboard and Grafana's provisioning files."
    parser.epilog = "example: python -m cluster monitor --output monitoring"
    parser.add_argument("--output", type=Path, default=Path("monitoring"), metavar="DIR", help="where the files go")
    parser.add_argument(
        "--temp-dir",
        type=Path,
        metavar="DIR",
        help="Ray's folder on the head; that of `cluster start` by default",
    )
    parser.add_argument(
        "--prometheus", default="http://127.0.0.1:9090", metavar="URL", help="where Grafana will find Prometheus"
    )
    cli.add_format(parser)
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Writes the files and prints the commands that use them."""
    output: Path = chosen.output.resolve()
    prometheus = output / "prometheus.yml"
    dashboard = output / "dashboards" / "tuning.json"
    provisioning = output / "provisioning"
    temporary: Path = chosen.temp_dir or ray_folder(os.environ)
    write_text(prometheus, prometheus_config(str(temporary / "prom_metrics_service_discovery.json")))
    write_json(dashboard, grafana_dashboard())
    write_text(provisioning / "datasources" / "prometheus.yml", grafana_datasource(chosen.prometheus))
    write_text(provisioning / "dashboards" / "tuning.yml", grafana_provider(str(dashboard.parent)))
    listen = chosen.prometheus.split("//")[-1].rstrip("/")
    commands = {
        "prometheus": f"prometheus --config.file={prometheus} --web.listen-address={listen}"
        f" --storage.tsdb.path={output / 'data'}",
        "grafana": f"GF_PATHS_PROVISIONING={provisioning} grafana server --homepath /usr/share/grafana",
        "ray_dashboard": f"RAY_PROMETHEUS_HOST={chosen.prometheus} RAY_GRAFANA_HOST=http://127.0.0.1:3000"
        " python -m cluster start --head ...",
    }
    if chosen.format == "json":
        cli.emit_json({"prometheus": str(prometheus), "dashboard": str(dashboard), "commands": commands})
        return 0
    cli.emit(f"{prometheus}\n{dashboard}\n{provisioning}\n")
    cli.emit("On the head's machine (both listen on the loopback; reach them through an SSH tunnel):")
    for command in commands.values():
        cli.emit(f"  {command}")
    cli.emit("The last one shows the curves in Ray's own dashboard too.")
    return 0
