"""Sets metrics through ray.util.metrics; they reach the node's metrics endpoint some seconds later."""

import logging
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote

from cluster.machines.metric_names import METRICS

if TYPE_CHECKING:
    from ray.util.metrics import Counter, Gauge

logger = logging.getLogger(__name__)
METER_S = 5.0  # between two updates of a gauge


class Meter(Protocol):
    """Sets metrics; see Meters."""

    def gauge(self, name: str, value: float, **tags: str) -> None:
        """Sets a gauge."""
        ...

    def count(self, name: str, by: float = 1.0, **tags: str) -> None:
        """Adds to a counter."""
        ...


class Meters:
    """Sets metrics of METRICS in this process, which must be connected to Ray; errors never stop the work."""

    def __init__(self) -> None:
        self._meters: dict[str, Counter | Gauge] = {}
        self._is_broken = False

    def gauge(self, name: str, value: float, **tags: str) -> None:
        """Sets a gauge."""
        self._record(name, "set", value, tags)

    def count(self, name: str, by: float = 1.0, **tags: str) -> None:
        """Adds to a counter."""
        self._record(name, "inc", by, tags)

    def _record(self, name: str, verb: str, value: float, tags: dict[str, str]) -> None:
        metric = METRICS[name]
        assert set(tags) == set(metric.tags), f"{name} has the tags {metric.tags}, not {tuple(tags)}"
        if self._is_broken:
            return
        try:
            if name not in self._meters:
                from ray.util.metrics import Counter, Gauge

                kind = Gauge if metric.kind == "gauge" else Counter
                self._meters[name] = kind(name, description=metric.text, tag_keys=metric.tags)
            getattr(self._meters[name], verb)(value, tags={key: ascii_tag(text) for key, text in tags.items()})
        except Exception as error:  # metrics must not stop the work
            self._is_broken = True
            logger.warning("no metrics from this process any more: %s: %s", type(error).__name__, error)


def ascii_tag(text: str) -> str:
    """Returns a tag's value as Ray 2.60 can take it, in ASCII; other letters are percent-encoded as in an address.

    >>> ascii_tag("wide 50%"), ascii_tag("요약")
    ('wide 50%', '%EC%9A%94%EC%95%BD')
    """
    return text if text.isascii() else quote(text, safe=" /:,=+@")
