"""In which order the trials of a list start: large ones first, so that small ones fill the gaps. Pure."""

from collections.abc import Mapping

from cluster.machines.hardware import Inventory
from cluster.scheduling.fair_line import Reach
from cluster.scheduling.placement import Demand, largest_first
from tune_jobs.config.sweep import Sweep


def starts_largest_first(sweep: Sweep) -> bool:
    """Whether the order of a sweep's trials is ours to choose.

    Results decide what bayes, bohb and pbt try; and what a time budget cuts off must be a random part of a search, not
    its small trials.

    >>> from tune_jobs.config.space import Space
    >>> [starts_largest_first(Sweep(name="a", source="", method=method, space=Space())) for method in ("grid", "bayes")]
    [True, False]
    """
    return sweep.method in ("grid", "random") and sweep.resources.time_budget_s is None


def reach_of(sweep: Sweep) -> Reach:
    """Returns how far the line of a sweep's trials looks; see fair_line.

    >>> from tune_jobs.config.space import Space
    >>> [reach_of(Sweep(name="a", source="", method=method, space=Space())) for method in ("random", "bohb", "pbt")]
    ['list', 'few', 'one']
    """
    if sweep.method == "pbt":
        return "one"
    return "list" if sweep.method in ("grid", "random") else "few"


def largest_numbers_first(total: int, demands: Mapping[int, Demand], inventory: Inventory) -> tuple[int, ...]:
    """Orders trials by what they take of a card (best-fit-decreasing; Johnson, Fast Algorithms for Bin Packing, 1974).

    Ray looks neither ahead nor back: two thirds that come after two small trials wait, where the other way round all
    four run at once. Numbers, and so names and the ledger, stay those of the list.

    Args:
        total: Trials in the list, from 1.
        demands: What each asks for, by number; those that can run nowhere are absent, and come first: a refusal costs
            nothing and should not come at the end of the night.
        inventory: The cards.

    >>> from cluster.machines.hardware import parse_simulated
    >>> from cluster.scheduling.placement import Need
    >>> sizes = {1: 2, 2: 14, 4: 2, 5: 8}
    >>> demands = {number: Demand(name="", needs=(Need(upper_bytes=gib * 2**30),)) for number, gib in sizes.items()}
    >>> largest_numbers_first(5, demands, parse_simulated("1x24GiB"))
    (3, 2, 5, 1, 4)
    """
    named = tuple(Demand(name=f"{number:09d}", needs=demand.needs) for number, demand in sorted(demands.items()))
    nowhere = tuple(number for number in range(1, total + 1) if number not in demands)
    return nowhere + tuple(int(demand.name) for demand in largest_first(named, inventory))
