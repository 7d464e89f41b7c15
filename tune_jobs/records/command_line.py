"""The arguments of `python -m tune_jobs` that continue a sweep. Pure."""

from collections.abc import Sequence


def driver_arguments(arguments: Sequence[str], *, resume: bool) -> list[str]:
    """Returns the arguments of the next driver.

    >>> driver_arguments(["run", "a.yaml", "--supervise", "--start-at", "22:00"], resume=True)
    ['run', 'a.yaml', '--resume']
    """
    kept = [argument for argument in arguments if argument not in ("--supervise", "--resume")]
    if not resume:
        return kept
    kept = [argument for argument in kept if argument != "--restart"]
    hour = [place for place, argument in enumerate(kept) if argument == "--start-at"]
    gone = {index + more for index in hour for more in (0, 1)}  # the start time has passed
    kept = [one for place, one in enumerate(kept) if place not in gone and not one.startswith("--start-at=")]
    return [*kept, "--resume"]
