"""Finds the template of a memory request: shipped, traced before, or traced now by the trainer's own workload."""

from collections.abc import Callable
from pathlib import Path

from cluster.estimator.estimate import TemplateFinder
from cluster.estimator.model_facts import ModelFacts
from cluster.estimator.request import MemoryRequest
from cluster.estimator.template import Template
from cluster.estimator.template_keys import ExactSizes
from cluster.estimator.template_requests import key_of, settings_of, sizes_of
from cluster.estimator.template_store import CACHE, find_template, has_template
from cluster.estimator.workload import Recipe

FACTORY = "dialsum.workload:summarizer_workload"


class NoTemplateError(LookupError):
    """There is no template yet, and the caller did not want to wait for a trace."""


def template_finder(note: Callable[[str], None], *, only_at_hand: bool = False, cache: Path = CACHE) -> TemplateFinder:
    """Returns a finder that remembers what it found.

    Args:
        note: Told before a trace, which takes seconds.
        only_at_hand: Raise NoTemplateError rather than trace.
        cache: Folder of templates that were traced here.
    """
    found: dict[tuple[tuple[object, ...], ExactSizes | None], tuple[ModelFacts, Template]] = {}

    def find(request: MemoryRequest) -> Template:
        kind, sizes = (id(request.model), *_kind(request)), sizes_of(request)
        known = found.get((kind, None)) or found.get((kind, sizes))
        if known is None:
            key = key_of(request)
            if only_at_hand and not has_template(key, sizes, cache=cache):
                raise NoTemplateError(request.model.name)
            recipe = Recipe(factory=FACTORY, settings=settings_of(request))
            template = find_template(key, sizes, recipe, cache=cache, note=note)
            # The facts are kept beside the template: as long as they live, no others have their id.
            known = found[kind, sizes if template.key.sizes else None] = (request.model, template)
        return known[1]

    return find


def _kind(request: MemoryRequest) -> tuple[object, ...]:
    """What a template depends on beside the model."""
    return (
        key_of(request).window,
        request.gpu.sm,
        request.precision,
        repr(request.adapter),
        request.optimizer,
        request.attention,
        request.gradient_checkpointing,
        request.dropout,
        request.label_smoothing > 0,
        request.gradient_accumulation_steps > 1,
        request.no_repeat_ngram_size > 0,
    )
