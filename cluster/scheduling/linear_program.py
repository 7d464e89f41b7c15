"""SciPy's solver of linear programs (HiGHS), imported at the first use: most commands need none."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def least_time(
    columns: Floats, pools: Sequence[int], cards: NDArray[np.int64], work: Floats
) -> tuple[float, Floats, Floats]:
    """Runs columns for as long as it takes to get all work done, on all pools at once.

    Args:
        columns: Progress that a second of each column makes of each kind of work [columns, kinds].
        pools: On whose cards each column runs [columns].
        cards: How many columns each pool runs at a time [pools].
        work: To be done of each kind, above 0 [kinds]; some column makes progress of each.

    Returns:
        The least time; by how much it grows with each kind's work [kinds], and would shrink with a second of one more
        card of each pool [pools].

    >>> time, worth, _ = least_time(np.array([[1.0, 0.0], [0.0, 2.0]]), [0, 0], np.array([1]), np.array([10.0, 10.0]))
    >>> time, worth.tolist()
    (15.0, [1.0, 0.5])
    """
    from scipy.optimize import linprog

    count, kinds = columns.shape
    limits = np.zeros((len(cards) + kinds, count + 1))
    limits[np.asarray(pools), np.arange(count)] = 1.0
    limits[: len(cards), count] = -cards
    limits[len(cards) :, :count] = -columns.T
    goal = np.zeros(count + 1)
    goal[count] = 1.0
    solved = linprog(goal, A_ub=limits, b_ub=np.concatenate([np.zeros(len(cards)), -work]), method="highs")
    assert solved.success, solved.message
    prices = -np.asarray(solved.ineqlin.marginals, dtype=np.float64)
    return float(solved.fun), prices[len(cards) :], prices[: len(cards)]
