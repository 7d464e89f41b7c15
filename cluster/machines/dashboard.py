"""A Prometheus configuration and a Grafana dashboard for the metrics of sweeps. Pure: returns texts and values."""

from dataclasses import dataclass

from cluster.machines.metric_names import METRICS
from tuning_common.strict import dump_yaml

DATASOURCE_UID = "tuning-prometheus"
_WIDTH, _HEIGHT = 12, 8  # of 24 columns: two panels per row
_FILTER = 'sweep=~"$sweep"'


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One panel of the dashboard.

    Attributes:
        title: For people.
        queries: PromQL and legend of each query.
        unit: Grafana's name of the unit.
        text: Description, shown at the panel's corner.
        stacked: Whether the series are stacked.
    """

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    text: str = ""
    stacked: bool = False


def _name(name: str) -> str:
    return METRICS[name].exported


PANELS = (
    Panel(
        title="Trials by state",
        queries=((f"sum by (sweep, state) ({_name('tuning_trials')}{{{_FILTER}}})", "{{sweep}} {{state}}"),),
        stacked=True,
    ),
    Panel(
        title="Best score",
        queries=((f"max by (sweep, metric) ({_name('tuning_best_score')}{{{_FILTER}}})", "{{sweep}} {{metric}}"),),
        text="Of sweeps that minimise, the lowest value so far.",
    ),
    Panel(
        title="Share of each card",
        queries=(
            (f"sum by (node, card, trial) ({_name('tuning_trial_share')}{{{_FILTER}}}) > 0", "{{card}} {{trial}}"),
        ),
        unit="percentunit",
        stacked=True,
    ),
    Panel(
        title="Co-tenants of each card",
        queries=((f"sum by (node, card) ({_name('tuning_card_tenants')}{{{_FILTER}}})", "{{node}} card {{card}}"),),
    ),
    Panel(
        title="Memory of each trial, estimated and measured",
        queries=(
            (f"max by (trial) ({_name('tuning_trial_estimated_bytes')}{{{_FILTER}}}) > 0", "{{trial}} estimated"),
            (f"max by (trial) ({_name('tuning_trial_measured_bytes')}{{{_FILTER}}}) > 0", "{{trial}} measured"),
        ),
        unit="bytes",
        text="The estimate includes its margin: a measured value above it exceeds the share.",
    ),
    Panel(
        title="Memory of each card, estimated and measured",
        queries=(
            (
                f"sum by (node, card) ({_name('tuning_trial_estimated_bytes')}{{{_FILTER}}})",
                "{{node}} card {{card}} estimated",
            ),
            (
                f"sum by (node, card) ({_name('tuning_trial_measured_bytes')}{{{_FILTER}}})",
                "{{node}} card {{card}} measured",
            ),
        ),
        unit="bytes",
    ),
    Panel(
        title="Out of memory and retries, in the last hour",
        queries=(
            (f"sum by (sweep) (increase({_name('tuning_out_of_memory')}{{{_FILTER}}}[1h]))", "{{sweep}} out of memory"),
            (f"sum by (sweep) (increase({_name('tuning_retries')}{{{_FILTER}}}[1h]))", "{{sweep}} retries"),
        ),
    ),
    Panel(
        title="Tokens per second",
        queries=(
            (
                f"sum by (node, card, trial) ({_name('tuning_trial_tokens_per_second')}{{{_FILTER}}}) > 0",
                "{{trial}} on {{node}} card {{card}}",
            ),
        ),
    ),
    Panel(
        title="Quotas: what members hold, may hold and wait for",
        queries=(
            (f"max by (member) ({_name('tuning_member_held_gpus')})", "{{member}} holds"),
            (f"max by (member) ({_name('tuning_member_quota_gpus')})", "{{member}} may hold"),
            (f"max by (member) ({_name('tuning_member_waiting_gpus')})", "{{member}} waits for"),
        ),
        text="Above the quota: lent GPUs.",
    ),
)


def prometheus_config(discovery_file: str) -> str:
    """Returns the text of prometheus.yml.

    Args:
        discovery_file: Ray's list of the nodes' metrics endpoints; the head updates it.

    >>> print(prometheus_config("/tmp/ray-1000/ray/prom_metrics_service_discovery.json").splitlines()[-1].strip())
    - /tmp/ray-1000/ray/prom_metrics_service_discovery.json
    """
    return dump_yaml(
        {
            "global": {"scrape_interval": "10s", "evaluation_interval": "10s"},
            "scrape_configs": [{"job_name": "ray", "file_sd_configs": [{"files": [discovery_file]}]}],
        }
    )


def grafana_dashboard() -> dict[str, object]:
    """Returns the dashboard (Grafana's JSON model, schema version 39) with every panel of PANELS."""
    return {
        "uid": "dialogue-summarizer-tuning",
        "title": "Tuning of dialogue summarizers",
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "tags": ["tuning", "ray"],
        "templating": {"list": [_sweep_variable()]},
        "panels": [_panel(index, panel) for index, panel in enumerate(PANELS)],
    }


def grafana_datasource(prometheus_url: str) -> str:
    """Returns the provisioning file with the address of Prometheus."""
    source = {
        "name": "Tuning",
        "uid": DATASOURCE_UID,
        "type": "prometheus",
        "access": "proxy",
        "url": prometheus_url,
        "isDefault": True,
    }
    return dump_yaml({"apiVersion": 1, "datasources": [source]})


def grafana_provider(folder: str) -> str:
    """Returns the provisioning file with the folder of dashboards."""
    provider = {"name": "tuning", "type": "file", "options": {"path": folder}}
    return dump_yaml({"apiVersion": 1, "providers": [provider]})


def _sweep_variable() -> dict[str, object]:
    return {
        "name": "sweep",
        "label": "Sweep",
        "type": "query",
        "datasource": _datasource(),
        "query": f"label_values({_name('tuning_trials')}, sweep)",
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _panel(index: int, panel: Panel) -> dict[str, object]:
    stacking = {"mode": "normal" if panel.stacked else "none"}
    return {
        "id": index + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.text,
        "datasource": _datasource(),
        "gridPos": {"x": index % 2 * _WIDTH, "y": index // 2 * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": None,
                "custom": {"stacking": stacking, "fillOpacity": 20 if panel.stacked else 0},
            },
            "overrides": [],
        },
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + place), "expr": query, "legendFormat": legend, "datasource": _datasource()}
            for place, (query, legend) in enumerate(panel.queries)
        ],
    }


def _datasource() -> dict[str, str]:
    return {"type": "prometheus", "uid": DATASOURCE_UID}
