"""Finds templates: shipped with the package, in the user's cache, or traced now. Does not import torch."""

import dataclasses
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np

from cluster.estimator.cuda_imitation import KERNEL_FAMILIES
from cluster.estimator.template import Template, TemplateKey, TrainTapes
from cluster.estimator.template_archive import read_shipped
from cluster.estimator.template_build import build_in_subprocess
from cluster.estimator.template_file import Part, read_part
from cluster.estimator.template_keys import PART_NAMES, ExactSizes, PartKey, PartName, part_key
from cluster.estimator.workload import Recipe
from tuning_common.errors import WorkError

SHIPPED = Path(__file__).with_name("templates")
CACHE = Path(".cache/dialsum/templates")
IMITATED_TORCH = "2.13"  # see cuda_imitation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """A part and its source."""

    part: Part
    source: str


def find_template(
    key: TemplateKey,
    sizes: ExactSizes,
    recipe: Recipe,
    *,
    cache: Path = CACHE,
    shipped: Path = SHIPPED,
    note: Callable[[str], None] = lambda text: None,
) -> Template:
    """Returns the template of a key: shipped, from the cache, or traced now and cached.

    Rebuilds files that are torn, changed or for another key.

    Args:
        key: See template_keys.
        sizes: Exact sizes for a model whose bytes are not products of batch and lengths; the template is then valid
            only for them and has them in its key.
        recipe: Recipe of the key's workload, for a trace.
        cache: The user's folder of templates.
        shipped: The package's own archives, see template_archive.
        note: Called before a trace, which takes seconds.

    Raises:
        RequestError: When the workload refuses its settings.
        WorkError: When the model cannot be traced, or a written file cannot be read.
    """
    names = _names(key, sizes, cache)
    found = {part: _existing(name, shipped, cache) for part, name in names.items()}
    while missing := [names[part] for part, where in found.items() if where is None]:
        note(f"no template at hand: tracing {', '.join(wanted.part for wanted in missing)} (some seconds, once)")
        if not key.torch.startswith(f"{IMITATED_TORCH}."):
            note(f"CUDA's choices are imitated as in torch {IMITATED_TORCH}; with torch {key.torch} they may differ")
        family = next(name for name in KERNEL_FAMILIES if name == key.kernels)
        build_in_subprocess(recipe, missing, family=family, folder=cache)
        _remembered.cache_clear()
        before, names = names, _names(key, sizes, cache)
        for wanted in missing:
            made = _existing(wanted, shipped, cache)
            if made is not None:
                found[wanted.part] = dataclasses.replace(made, source="traced now")
            elif names[wanted.part] == before[wanted.part]:
                raise WorkError(f"{cache / wanted.file_name} was written and cannot be read back; is the disk full?")
            else:
                found[wanted.part] = _existing(names[wanted.part], shipped, cache)
    exact = "-".join(value for name in names.values() for option, value in name.options if option == "sizes")
    parts = {part: where for part, where in found.items() if where is not None}
    return _assembled(dataclasses.replace(key, sizes=exact), parts)


def has_template(key: TemplateKey, sizes: ExactSizes, *, cache: Path = CACHE, shipped: Path = SHIPPED) -> bool:
    """Returns whether find_template needs no trace."""
    return all(_existing(name, shipped, cache) is not None for name in _names(key, sizes, cache).values())


def _names(key: TemplateKey, sizes: ExactSizes, cache: Path) -> dict[PartName, PartKey]:
    """Returns the keys of a template's parts: general ones, or those of exact sizes for uneven models."""
    names = {part: part_key(key, part) for part in PART_NAMES}
    return {
        part: part_key(key, part, sizes) if (cache / name.uneven_name).is_file() else name
        for part, name in names.items()
    }


def _existing(key: PartKey, shipped: Path, cache: Path) -> Found | None:
    part = _remembered_shipped(shipped, key)
    if part is not None:
        return Found(part=part, source="shipped")
    part = _remembered(cache.absolute(), key)
    return Found(part=part, source=str(cache)) if part is not None else None


@lru_cache(maxsize=1024)
def _remembered_shipped(folder: Path, key: PartKey) -> Part | None:
    return read_shipped(folder, key)


@lru_cache(maxsize=1024)
def _remembered(folder: Path, key: PartKey) -> Part | None:
    return read_part(folder, key)


def _assembled(key: TemplateKey, found: dict[PartName, Found]) -> Template:
    step, optimizer, evaluation = (found[part].part for part in PART_NAMES)
    assert np.array_equal(step.weight_bytes, evaluation.weight_bytes), "parts of one model have the same weights"
    return Template(
        key=key,
        model_parameters=step.model_parameters,
        operations=step.operations,
        weight_bytes=step.weight_bytes,
        train=TrainTapes(
            first=step.tapes["first"],
            later=step.tapes["later"],
            optimizer_first=optimizer.tapes["optimizer_first"],
            optimizer_later=optimizer.tapes["optimizer_later"],
        ),
        evaluate=evaluation.tapes["evaluate"],
        greedy=evaluation.tapes["greedy"],
        beam=evaluation.tapes["beam"],
        source=", ".join(sorted({where.source for where in found.values()})),
    )
