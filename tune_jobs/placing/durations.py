"""How long a trial takes on each GPU model: as runs like it took, else as the estimator predicts, corrected.

A prediction is made for the longest texts. One factor for each model family, GPU model and precision corrects it by
what earlier runs took there, and those trials of the sweep itself that have ended.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from cluster.estimator.estimate import Estimator
from cluster.estimator.gpu_profile import find_gpu
from cluster.estimator.request import MemoryRequest
from cluster.machines.hardware import Inventory
from cluster.scheduling.request import Alternative
from dialsum.config import RunConfig
from tune_jobs.placing.memory_requests import precision_on, request_of
from tune_jobs.placing.throughput import CPU, Observation, Speed, Throughput
from tune_jobs.search.inputs import DataSizes, count_evaluations
from tuning_common.errors import RequestError

Cards = Callable[[str], Sequence[tuple[str, float]]]


def measured_cards(inventory: Inventory, throughput: Throughput, *, described: bool = False) -> Cards:
    """Returns a function from a GPU model's label to the names under which runs on such cards may have been measured.

    Each name comes with the factor by which a run takes longer here than on a card of that name: 1 for the model's own
    name; for other models of the inventory, which come last, the ratio of the speeds that it gives.

    Args:
        inventory: The cards; simulated ones run on this machine's CPU.
        throughput: What was measured.
        described: Whether the cards were described for a plan, so that simulated ones stand for real ones.
    """
    speeds = {pool.model: pool.speed for pool in inventory.pools}
    on_cpu = not inventory.cards or (inventory.simulated and not described)

    def own(model: str) -> list[str]:
        return [CPU] if on_cpu else [card for card in throughput.cards if _profile(card) == _profile(model)]

    def cards(model: str) -> list[tuple[str, float]]:
        found = dict.fromkeys(own(model), 1.0)
        for other, speed in speeds.items():
            for card in own(other):
                found.setdefault(card, speed / speeds[model])
        if throughput.anywhere:
            found = {**dict.fromkeys(throughput.cards, 1.0), **found}
        return list(found.items())

    return cards


def cores_of_cards(inventory: Inventory) -> dict[str, float]:
    """Returns the CPU cores for each card of a GPU model, where the model's cards are most.

    >>> from cluster.machines.hardware import parse_simulated
    >>> cores_of_cards(parse_simulated("2x24GiB"))
    {'simulated-24GiB': 8.0}
    """
    nodes = sorted((node for node in inventory.nodes if node.cards), key=lambda node: len(node.cards))
    return {node.cards[0].model: node.cpus / len(node.cards) for node in nodes}


def _profile(label: str) -> str:
    try:
        return find_gpu(label.replace("-", " ")).name
    except RequestError:
        return label


@dataclass(kw_only=True)
class Durations:
    """Expected durations of a sweep's trials.

    Attributes:
        sizes: Of the data files.
        throughput: What was measured.
        cards: See measured_cards.
        estimator: Predicts seconds.
        trains: Whether trials train; else they evaluate once.
        in_order: Whether the broker is told none, so that requests keep their sequence.
        cores: CPU cores for each simulated card, by GPU model: its trials compute there. Empty where cards are real.
    """

    sizes: DataSizes
    throughput: Throughput
    cards: Cards
    estimator: Estimator
    trains: bool = True
    in_order: bool = False
    cores: Mapping[str, float] = field(default_factory=dict)
    _factors: dict[tuple[str, str, str], tuple[float, int]] = field(default_factory=dict, init=False)

    def add(self, one: Observation) -> None:
        """Takes in what one more run took; predictions are corrected by it from now on."""
        self.throughput.add(one)
        self._factors.clear()

    def speed(self, config: RunConfig, model: str, request: MemoryRequest | None) -> Speed | None:
        """Returns how fast a run goes alone on a GPU model, or on CPUs.

        Args:
            config: The run.
            model: Label of the GPU model; empty without a card.
            request: How it runs there; None without a card.
        """
        predicted = None if request is None else self._predicted(request, model)
        for card, factor in self.cards(model):
            measured = self.throughput.of(config, card)
            if measured is not None and (predicted is None or factor == 1):
                return replace(measured.times(factor), busy=predicted.busy if predicted else None)
        return predicted

    def timed(self, alternative: Alternative, config: RunConfig, speed: Speed | None) -> Alternative:
        """Returns an alternative with the duration of a whole run and the part of a card that it keeps busy, if known.

        Args:
            alternative: Without them.
            config: The run.
            speed: How fast it goes there; None where nobody knows.
        """
        # Trials that ask for the CPUs that they use are counted by these alone.
        cores = self.cores.get(alternative.model) if alternative.cpus < config.cpu_threads else None
        busy = min(1.0, config.cpu_threads / cores) if cores else speed.busy if speed else None
        if speed is None or self.in_order:
            return replace(alternative, busy=busy)
        return replace(alternative, expected_s=self.trial_s(config, speed, alternative.bundles), busy=busy)

    def trial_s(self, config: RunConfig, speed: Speed, cards: int = 1) -> float:
        """Returns the seconds of a whole run that is never stopped.

        Args:
            config: The run.
            speed: How fast it goes on one card.
            cards: On which it trains.
        """
        dialogues = self.sizes.train(config)
        evaluations = count_evaluations(config, dialogues) if self.trains else 1
        epochs = epochs_of(config, dialogues) if self.trains else 0.0
        return speed.trial_s(
            evaluations=evaluations,
            dialogues=epochs / evaluations * dialogues,
            dev_dialogues=self.sizes.dev(config),
            cards=cards,
        )

    def _predicted(self, request: MemoryRequest, model: str) -> Speed | None:
        found = self.estimator.seconds(request)
        if found is None:
            return None
        factor, runs = self._correction(request, model)
        corrected = (
            f"corrected by {factor:.2f} after {runs} run{'s' if runs > 1 else ''} there" if runs else "not measured"
        )
        batch_s = found.evaluate.total_s + found.generate.total_s
        return Speed(
            # Of one card, as Speed.trial_s divides by the cards.
            train_s=factor * found.step.total_s * request.ranks / request.batch_size,
            evaluate_s=factor * batch_s / request.generation_batch_size,
            start_s=0.0,
            source=f"{request.model.name} on {request.gpu.name}: predicted by a roofline, {corrected}",
            busy=found.busy,
        )

    def _correction(self, request: MemoryRequest, model: str) -> tuple[float, int]:
        """Returns by what predictions for a family, GPU model and precision are multiplied, and after how many runs."""
        key = (request.model.family, model, request.precision)
        if key not in self._factors:
            names = [card for card, factor in self.cards(model) if factor == 1]
            ratios = [
                ratio
                for one in self.throughput.observations
                if one.card in names and (ratio := self._ratio(one, request)) is not None
            ]
            self._factors[key] = (statistics.median(ratios) if ratios else 1.0, len(ratios))
        return self._factors[key]

    def _ratio(self, one: Observation, request: MemoryRequest) -> float | None:
        """Returns what a run took over what is predicted for it; None where it was of another family or precision."""
        try:
            asked = request_of(one.config, request.gpu)
        except RequestError:
            return None
        alike = (asked.model.family, precision_on(request.gpu, one.config, asked.model.family))
        if alike != (request.model.family, request.precision) or one.train_s <= 0:
            return None
        found = self.estimator.seconds(asked)
        return None if found is None else one.train_s * asked.batch_size / found.step.total_s


def epochs_of(config: RunConfig, dialogues: int) -> float:
    """Returns the passes over the data of a run that is never stopped.

    Args:
        config: The run.
        dialogues: That it learns from.
    """
    if config.max_steps is None:
        return float(config.num_epochs)
    return config.max_steps / max(1, -(-dialogues // config.batch_size))
