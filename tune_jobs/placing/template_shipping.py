"""Which templates are shipped with the estimator, how they are made, and whether a trace still sees what they say."""

import gc
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.estimator.cuda_imitation import KERNEL_FAMILIES, KernelFamily
from cluster.estimator.gpu_profile import find_gpu
from cluster.estimator.model_facts import ModelFacts, model_facts
from cluster.estimator.request import BF16_SM, OPTIMIZERS, MemoryRequest, Precision
from cluster.estimator.template_archive import archived_parts, write_archive
from cluster.estimator.template_build import build_part
from cluster.estimator.template_difference import differences
from cluster.estimator.template_file import Part
from cluster.estimator.template_keys import PartKey, PartName, part_key
from cluster.estimator.template_requests import key_of, settings_of
from cluster.estimator.template_store import SHIPPED
from cluster.estimator.workload import Recipe
from dialsum.models import SPECS
from tune_jobs.placing.memory_requests import NEVER_FP16, values_of
from tune_jobs.placing.memory_templates import FACTORY
from tuning_common.units import format_duration

SHIPPED_MODELS: Mapping[str, tuple[str, bool]] = {  # name of the archive: model, output head of its own
    "kobart": ("kobart", False),
    "kogpt2": ("kogpt2", False),
    "t5": ("t5", True),
    "t5-small": ("t5-small", False),
    "t5-base": ("t5-base", False),
    "mt5-tied": ("mt5", False),
    "mt5-untied": ("mt5", True),
    "mt5-base-tied": ("mt5-base", False),
    "mt5-base-untied": ("mt5-base", True),
}
_CARDS = ("H100 PCIe", "L4", "T4")  # one of each family of attention kernels
_PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")  # bf16 shares the parts of fp16


@dataclass(frozen=True, kw_only=True)
class TraceJob:
    """A part and how it is traced."""

    key: PartKey
    recipe: Recipe
    family: KernelFamily

    def trace(self) -> Part:
        """Traces it; takes seconds and imports torch."""
        return build_part(self.recipe.make(), self.key, family=self.family)


def shipped_facts(archive: str) -> ModelFacts:
    """Returns the model of an archive, as an estimate by its name sees it."""
    name, untied = SHIPPED_MODELS[archive]
    return model_facts(name, values_of(SPECS[name]), untied=untied)


def shipped_jobs(facts: ModelFacts) -> list[TraceJob]:
    """Lists the parts that are shipped of a model: what its sweeps search, on every family of attention kernels.

    Left out, and so traced where they are asked for: no dropout with label smoothing; with eager attention whatever
    else is not usual; and T5 in half precision on cards without bf16.
    """
    jobs: dict[str, TraceJob] = {}
    for part, request in _requests(facts):
        key = key_of(request)
        wanted = part_key(key, part)
        family = next(name for name in KERNEL_FAMILIES if name == key.kernels)
        recipe = Recipe(factory=FACTORY, settings=settings_of(request))
        jobs.setdefault(wanted.file_name, TraceJob(key=wanted, recipe=recipe, family=family))
    return list(jobs.values())


def _requests(facts: ModelFacts) -> Iterator[tuple[PartName, MemoryRequest]]:
    plain = MemoryRequest(model=facts, gpu=find_gpu(_CARDS[0]), batch_size=1)
    for optimizer in OPTIMIZERS:
        yield "optimizer", replace(plain, optimizer=optimizer)
    for card, precision, attention in itertools.product(_CARDS, _PRECISIONS, ("sdpa", "eager")):
        common = replace(plain, gpu=find_gpu(card), precision=precision, attention=attention)
        if precision == "fp16" and common.gpu.sm < BF16_SM and facts.family in NEVER_FP16:
            continue  # there the trainer takes fp32
        usual = attention == "sdpa"
        for ngram_size in (0, 3) if usual else (0,):
            yield "evaluation", replace(common, no_repeat_ngram_size=ngram_size)
        for checkpointing in (False, True):
            step = replace(common, gradient_checkpointing=checkpointing)
            yield "step", step
            if usual:
                yield "step", replace(step, label_smoothing=0.1)
                yield "step", replace(step, dropout=0.0)


def make_archive(archive: str, *, folder: Path = SHIPPED, note: Callable[[str], None]) -> Path:
    """Traces every part that is shipped of a model and writes its archive; takes minutes.

    Args:
        archive: A name of SHIPPED_MODELS.
        folder: Where it goes.
        note: Told how far it is.

    Raises:
        WorkError: When a trace fails.
    """
    jobs = shipped_jobs(shipped_facts(archive))
    parts = [job.trace() for job in _with_progress(archive, jobs, note)]
    for old in folder.glob(f"{archive}-????????????.tar.xz"):
        old.unlink()
    return write_archive(folder, archive, parts)


def check_archive(path: Path, archive: str, *, every: int = 1, note: Callable[[str], None]) -> list[str]:
    """Traces parts of an archive again and compares; versions may differ.

    Args:
        path: The archive.
        archive: A name of SHIPPED_MODELS.
        every: Of how many parts one is traced.
        note: Told how far it is.

    Returns:
        What differs, and what the archive lacks, in words.
    """
    shipped = {_kind(part.key): part for part in archived_parts(path)}
    jobs = shipped_jobs(shipped_facts(archive))
    found = [f"{_title(job.key)}: not in {path.name}" for job in jobs if _kind(job.key) not in shipped]
    for job in _with_progress(archive, jobs[::every], note):
        before = shipped.get(_kind(job.key))
        if before is not None:
            found += [f"{_title(job.key)}: {text}" for text in differences(before, job.trace())]
    return found


def find_archive(archive: str, folder: Path = SHIPPED) -> Path | None:
    """Finds the file of an archive."""
    return next(iter(sorted(folder.glob(f"{archive}-????????????.tar.xz"))), None)


def _kind(key: PartKey) -> tuple[str, ...]:
    """A part whatever versions it was made with."""
    return (key.part, key.model, *(value for _, value in key.options))


def _title(key: PartKey) -> str:
    return " ".join((key.part, *(value for _, value in key.options)))


def _with_progress(archive: str, jobs: Sequence[TraceJob], note: Callable[[str], None]) -> Iterator[TraceJob]:
    begin_s = time.monotonic()
    for done, job in enumerate(jobs):
        if done and done % 10 == 0:
            left_s = (time.monotonic() - begin_s) / done * (len(jobs) - done)
            note(f"{archive}: {done} of {len(jobs)} parts, about {format_duration(left_s)} left")
        if done == 1:
            gc.freeze()  # each trace begins with a collection, which then passes over the libraries
        yield job
