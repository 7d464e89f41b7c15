"""The list of metrics that sweeps export. Pure."""

from dataclasses import dataclass
from typing import Literal

PREFIX = "ray_"  # Ray adds it before every name, and `_total` after a counter's


@dataclass(frozen=True, kw_only=True)
class PrometheusMetric:
    """One metric.

    Attributes:
        name: Name in the code.
        kind: A gauge is set, a counter only grows.
        text: Description for people.
        tags: Labels beside Ray's own (node, worker, session).
    """

    name: str
    kind: Literal["gauge", "counter"]
    text: str
    tags: tuple[str, ...]

    @property
    def exported(self) -> str:
        """The name in Prometheus.

        >>> PrometheusMetric(name="tuning_retries", kind="counter", text="", tags=()).exported
        'ray_tuning_retries_total'
        """
        return f"{PREFIX}{self.name}{'_total' if self.kind == 'counter' else ''}"


_SWEEP = ("sweep", "member")
_TRIAL = ("sweep", "trial", "node", "card")
METRICS = {
    metric.name: metric
    for metric in (
        PrometheusMetric(
            name="tuning_trials", kind="gauge", text="Trials of a sweep by state", tags=(*_SWEEP, "state")
        ),
        PrometheusMetric(name="tuning_best_score", kind="gauge", text="Best value so far", tags=(*_SWEEP, "metric")),
        PrometheusMetric(name="tuning_retries", kind="counter", text="Attempts after a failure", tags=_SWEEP),
        PrometheusMetric(
            name="tuning_card_tenants", kind="gauge", text="Trials of a sweep on a card", tags=(*_SWEEP, *_TRIAL[2:])
        ),
        PrometheusMetric(
            name="tuning_out_of_memory", kind="counter", text="Attempts that outgrew their share", tags=_TRIAL
        ),
        PrometheusMetric(name="tuning_trial_share", kind="gauge", text="GPUs that a trial holds", tags=_TRIAL),
        PrometheusMetric(
            name="tuning_trial_estimated_bytes", kind="gauge", text="Predicted, with its margin", tags=_TRIAL
        ),
        PrometheusMetric(
            name="tuning_trial_measured_bytes", kind="gauge", text="Highest that was measured", tags=_TRIAL
        ),
        PrometheusMetric(
            name="tuning_trial_tokens_per_second", kind="gauge", text="Trained, without padding", tags=_TRIAL
        ),
        PrometheusMetric(
            name="tuning_member_quota_gpus", kind="gauge", text="GPUs that are a member's now", tags=("member",)
        ),
        PrometheusMetric(
            name="tuning_member_held_gpus", kind="gauge", text="GPUs that a member holds", tags=("member",)
        ),
        PrometheusMetric(
            name="tuning_member_waiting_gpus", kind="gauge", text="GPUs that a member waits for", tags=("member",)
        ),
    )
}
