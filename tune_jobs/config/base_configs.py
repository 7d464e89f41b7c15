"""Reads the `base_config` of a sweep file: one run configuration, or one for each searched model."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from dialsum.config import RunConfig, read_run_config
from tune_jobs.config.parameter_entries import Entries
from tune_jobs.config.rules import Rules
from tune_jobs.config.space import Space
from tuning_common.errors import Problems, RequestError
from tuning_common.strict import Located, nearest


def read_bases(
    raw: object, space: Space, document: Located, problems: Problems, notes: list[str]
) -> dict[str, RunConfig]:
    """Returns base configurations by model; "" is the one of all others. Adds notes on what was translated."""
    if raw is None:
        return {}
    if isinstance(raw, str):
        base = _base(raw, document.where("base_config"), problems, notes)
        return {"": base} if base else {}
    if not isinstance(raw, dict) or not all(isinstance(path, str) for path in raw.values()):
        problems.add(
            f"{document.where('base_config')}: base_config must be a file such as configs/kobart.yaml, "
            f"or a file for each model, but is {raw!r}"
        )
        return {}
    models = {str(model) for model in space["model"].values()} if "model" in space else set()
    for model in sorted(models - set(raw)):
        problems.add(f"{document.where('base_config')}: base_config has no file for model {model!r}")
    for model in [str(model) for model in raw if model not in models]:
        hint = nearest(model, sorted(models))
        problems.add(f"{document.where('base_config', model)}: model {model!r} is not among `parameters.model`{hint}")
    read = {
        str(model): _base(path, document.where("base_config", str(model)), problems, notes)
        for model, path in raw.items()
    }
    return {model: base for model, base in read.items() if base is not None}


def base_files(raw: object) -> dict[str, str]:
    """Returns the files by model, as written; read_bases has reported their problems."""
    if isinstance(raw, dict):
        return {str(model): str(path) for model, path in raw.items()}
    return {"": raw} if isinstance(raw, str) else {}


def _base(path: str, location: str, problems: Problems, notes: list[str]) -> RunConfig | None:
    try:
        config, translated = read_run_config(Path(path))
        notes += translated
        return config
    except RequestError as error:
        problems.extend(error.problems or [f"{location}: {error.message}"])
        return None


def with_micro_batches(rules: Rules, entries: Entries, space: Space, bases: Mapping[str, RunConfig]) -> Rules:
    """Returns the rules; a batch size by device, as other trainers give it, is multiplied by the accumulation."""
    accumulates = "gradient_accumulation_steps" in space or any(
        base.gradient_accumulation_steps > 1 for base in bases.values()
    )
    if not entries.micro_batches or not accumulates or "batch_size" in rules.set:
        return rules
    micro = "batch_size" if "batch_size" in space else next(iter(bases.values()), RunConfig()).micro_batch
    return dataclasses.replace(rules, set={"batch_size": f"{micro} * gradient_accumulation_steps", **rules.set})
