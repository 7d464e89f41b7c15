"""Reads the `early_terminate` section of a sweep file or of a phase."""

from collections.abc import Mapping
from types import MappingProxyType

from tune_jobs.config.early_terminate import KEYS, EarlyTerminate, default_stop
from tune_jobs.config.sections import Method
from tune_jobs.config.sweep_parts import read_mapping
from tuning_common.errors import Problems, RequestError
from tuning_common.strict import KeyPath, Located, nearest

_OTHER_NAMES = MappingProxyType(
    {
        "grace_period": "min_iter",
        "max_t": "max_iter",
        "reduction_factor": "eta",
        "min_samples_required": "min_trials",
        "bracket": "s",
        "brackets": "s",
    }
)


def read_early_terminate(
    raw: object, path: KeyPath, method: Method, document: Located, problems: Problems
) -> EarlyTerminate:
    """Returns the rule of the file; the default is asha, for pbt none, for bohb hyperband.

    Args:
        raw: The section, None where it is absent.
        path: Its path in the document.
        method: The search method; some methods stop trials themselves.
        document: The sweep file.
        problems: Collects the problems.
    """
    if raw is None:
        return default_stop(method)
    if not isinstance(raw, dict):
        hint = " (write `type: none` below it)" if raw == "none" else ""
        problems.add(f"{document.where(*path)}: early_terminate must be a mapping, but is {raw!r}{hint}")
        return default_stop(method)
    kind = str(raw.get("type"))
    values = {str(key): value for key, value in raw.items()}
    if kind in KEYS:
        found = _read_ours(kind, values, path, document, problems)
    elif kind[:1].isupper() and kind.lower() not in KEYS and raw.get("type") is not None:
        found = _read_ray_class(kind, values, path, document, problems)
    else:
        hint = nearest(kind.lower(), list(KEYS)) if raw.get("type") is not None else ""
        problems.add(
            f"{document.where(*path, 'type')}: early_terminate.type must be one of {', '.join(KEYS)}, or a class of"
            f" ray.tune.schedulers such as HyperBandScheduler, but is {raw.get('type')!r}{hint}"
        )
        return default_stop(method)
    reason = _why_not(method, kind)
    if reason:
        problems.add(f"{document.where(*path, 'type')}: {reason}")
    return found or default_stop(method)


def _read_ours(
    kind: str, values: Mapping[str, object], path: KeyPath, document: Located, problems: Problems
) -> EarlyTerminate | None:
    keys = KEYS[kind]
    for key in [key for key in values if key not in keys and key != "type"]:
        meant = _OTHER_NAMES.get(key)
        hint = f"; did you mean {meant!r}?" if meant in keys else nearest(key, keys)
        listed = f"; it has {', '.join(keys)}" if keys else "; it has no keys"
        problems.add(f"{document.where(*path, key)}: early_terminate of type {kind} has no key {key!r}{hint or listed}")
    known = {key: value for key, value in values.items() if key in keys or key == "type"}
    return read_mapping(EarlyTerminate, known, path, document, problems)


def _read_ray_class(
    kind: str, values: Mapping[str, object], path: KeyPath, document: Located, problems: Problems
) -> EarlyTerminate | None:
    from tune_jobs.config.ray_schedulers import check_arguments  # imports ray.tune

    arguments = {key: value for key, value in values.items() if key != "type"}
    try:
        return EarlyTerminate(type=kind, arguments=check_arguments(kind, arguments))
    except RequestError as error:
        for problem in error.problems or (error.message,):
            name = problem.split(" ", 1)[0]
            location = document.where(*path, name if name in arguments else "type")
            problems.add(f"{location}: early_terminate: {problem}")
        return None


def _why_not(method: Method, kind: str) -> str:
    """Returns why a method refuses a type; empty where it does not."""
    if kind == "PopulationBasedTraining" and method != "pbt":
        return f"PopulationBasedTraining moves weights between trials; write `method: pbt` instead of {method}"
    if method == "pbt" and kind not in ("none", "PopulationBasedTraining"):
        return "pbt never stops a trial but gives it a better one's weights; write `type: none` or leave it out"
    if method == "bohb" and kind in ("median", "none", "MedianStoppingRule", "FIFOScheduler"):
        return f"bohb is bayes with hyperband or asha; with {kind} write `method: bayes`"
    return ""
