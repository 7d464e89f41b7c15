"""How long a trial takes, from what was measured: earlier runs of the ledgers, or a quick measurement."""

import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import cast

from dialsum.config import RunConfig
from tune_jobs.records.card_sharing import SLOWDOWN_KEY
from tune_jobs.records.ledger import TrialRecord
from tuning_common.units import counted

CPU = "CPU"
_ALIKE = ("model", "encoder_max_len", "decoder_max_len", "num_beams", "gradient_checkpointing", "generation_max_len")
_TINY = ("tiny_hidden_size", "tiny_layers")
DevSize = Callable[[RunConfig], int]


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What one run took.

    Attributes:
        config: The run.
        card: Name of the GPU model, or "CPU".
        train_s: Seconds of one card for learning from one dialogue.
        evaluate_s: Seconds of one card for scoring one dev dialogue, its summary included.
        start_s: Seconds before the first step.
        source: Where this comes from, for people.
    """

    config: RunConfig
    card: str
    train_s: float
    evaluate_s: float
    start_s: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast a run goes; see Observation.

    Attributes:
        busy: Part of a card's compute that training keeps busy alone; None where nobody knows.
    """

    train_s: float
    evaluate_s: float
    start_s: float
    source: str
    busy: float | None = None

    def times(self, factor: float) -> "Speed":
        """Returns the speed of a card on which everything takes `factor` times as long."""
        return replace(
            self, train_s=self.train_s * factor, evaluate_s=self.evaluate_s * factor, start_s=self.start_s * factor
        )

    def trial_s(self, *, evaluations: int, dialogues: float, dev_dialogues: int, cards: int = 1) -> float:
        """Returns the seconds of a trial.

        Args:
            evaluations: How many it makes.
            dialogues: Learned from between two of them.
            dev_dialogues: Scored in each.
            cards: On which it trains; so many are taken to be so many times as fast.

        >>> speed = Speed(train_s=0.01, evaluate_s=0.1, start_s=5, source="measured")
        >>> speed.trial_s(evaluations=3, dialogues=1000, dev_dialogues=50)
        50.0
        """
        return self.start_s + evaluations * (dialogues * self.train_s + dev_dialogues * self.evaluate_s) / cards


def observe(record: TrialRecord, dev_size: DevSize) -> Observation | None:
    """Reads what a trial of a ledger took; None where it has no evaluation with a time.

    Evaluations of one trial are compared with each other, so that waiting and loading are not counted as training;
    `time/total_s` of its last steps separates learning from scoring. Beside co-tenants it took longer than alone, by
    the slowdown that packing assumes.

    Args:
        record: The trial; its configuration must be one of today's.
        dev_size: Counts the dev dialogues of a configuration.
    """
    rows = [(row.get("wall_s"), row.get("train/global_step")) for row in record.history]
    points = [(wall_s, step) for wall_s, step in rows if wall_s is not None and step is not None]
    if not points or not record.resolved:
        return None
    config = RunConfig.from_dict(record.resolved)
    gaps = [(later[0] - now[0], later[1] - now[1]) for now, later in itertools.pairwise(points)]
    gaps = [(seconds, steps) for seconds, steps in gaps if seconds > 0 and steps > 0]
    seconds = statistics.median(gap[0] for gap in gaps) if gaps else points[0][0]
    steps = statistics.median(gap[1] for gap in gaps) if gaps else points[0][1]
    if seconds <= 0 or steps <= 0:
        return None
    step_s = min(record.metrics.get("time/total_s", seconds / steps), seconds / steps)
    slowdowns = [slowdown for row in record.history if (slowdown := row.get(SLOWDOWN_KEY)) is not None]
    slowdown = statistics.median(slowdowns) if slowdowns else 1.0
    cards = cast("int", (record.plan or {}).get("ranks", 1))
    card = CPU if record.simulated or record.gpu_model is None else record.gpu_model
    return Observation(
        config=config,
        card=card,
        train_s=cards * step_s / config.batch_size / slowdown,
        evaluate_s=cards * (seconds - step_s * steps) / max(1, dev_size(config)) / slowdown,
        start_s=max(0.0, points[0][0] - seconds),
        source=record.sweep,
    )


class Throughput:
    """Finds the speed of a configuration among observations of runs like it.

    Args:
        observations: Everything that was measured.
        anywhere: Whether they count for GPU models on which nothing was measured, too.
    """

    def __init__(self, observations: Iterable[Observation], *, anywhere: bool = False) -> None:
        self.anywhere = anywhere
        self._by_kind: dict[tuple[object, ...], list[Observation]] = {}
        self.observations: list[Observation] = []
        for one in observations:
            self.add(one)

    @property
    def cards(self) -> tuple[str, ...]:
        """Names of the GPU models on which something was measured."""
        return tuple(sorted({str(kind[0]) for kind in self._by_kind}))

    def add(self, one: Observation) -> None:
        """Takes in what one more run took."""
        self.observations.append(one)
        self._by_kind.setdefault((one.card, *kind_of(one.config)), []).append(one)

    def of(self, config: RunConfig, card: str) -> Speed | None:
        """Returns the speed of a run on a card, None where no run of its model and lengths was measured there.

        Of several batches the nearest counts: time is taken to be proportional to the dialogues.
        """
        alike = self._by_kind.get((card, *kind_of(config)))
        return _speed(config, card, alike) if alike else None


def kind_of(config: RunConfig) -> tuple[object, ...]:
    names = (*_ALIKE, *_TINY) if config.model.startswith("tiny-") else _ALIKE
    return tuple(getattr(config, name) for name in names)


def _speed(config: RunConfig, card: str, alike: Sequence[Observation]) -> Speed:
    def distance(one: Observation) -> float:
        return abs(math.log(one.config.batch_size / config.batch_size))

    nearest = min(map(distance, alike))
    taken = [one for one in alike if distance(one) == nearest]
    batches = sorted({one.config.batch_size for one in taken})
    scaled = f", from batch {' and '.join(map(str, batches))}" if nearest > 0 else ""
    sources = ", ".join(sorted({one.source for one in taken}))
    runs = counted(len(taken), "run")
    return Speed(
        train_s=statistics.median(one.train_s for one in taken),
        evaluate_s=statistics.median(one.evaluate_s for one in taken),
        start_s=statistics.median(one.start_s for one in taken),
        source=f"{config.model} on {card}: {runs} of {sources}{scaled}",
    )
