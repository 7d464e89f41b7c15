"""Options of trials with the durations that were measured, for plans of tests."""

from dataclasses import replace

from cluster.machines.hardware import Inventory
from dialsum.config import RunConfig
from tests.tune_jobs.placing.linear_estimator import LinearEstimator
from tune_jobs.placing.durations import Durations, measured_cards
from tune_jobs.placing.placer import Option
from tune_jobs.placing.throughput import Observation, Throughput
from tune_jobs.planning.plan import FindOptions
from tune_jobs.search.inputs import DataSizes


def timed(find: FindOptions, inventory: Inventory, sizes: DataSizes, *observations: Observation) -> FindOptions:
    """Adds durations to the options that a function finds, as the placer does."""
    throughput = Throughput(observations)
    cards = measured_cards(inventory, throughput, described=True)
    durations = Durations(sizes=sizes, throughput=throughput, cards=cards, estimator=LinearEstimator())

    def options(name: str, config: RunConfig) -> tuple[Option, ...]:
        found = []
        for option in find(name, config):
            speed = durations.speed(config, option.alternative.model, None)
            one = durations.timed(option.alternative, config, speed) if speed else option.alternative
            found.append(replace(option, alternative=one, speed=speed))
        return tuple(found)

    return options
