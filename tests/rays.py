"""Ray for tests that start one in their own process."""

from typing import Any

ATTEMPTS = 5
TOO_SLOW = "timed out during startup"  # in what Ray says


def start_ray(**options: Any) -> Any:
    """Starts a Ray of this process's own and returns what `ray.init` returns.

    Ray 2.60 gives a raylet 30 s and its agent 15 s to come up (node.py, node_manager.cc), unchangeably: too little
    on a machine that is busy with other things. Then it is tried again; what was half started ends with this process.
    """
    import ray

    for attempt in range(1, ATTEMPTS + 1):
        try:
            return ray.init("local", include_dashboard=False, log_to_driver=False, **options)
        except Exception as error:  # Ray raises a plain Exception
            ray.shutdown()
            if TOO_SLOW not in str(error) or attempt == ATTEMPTS:
                raise
    raise AssertionError("not reached")
