"""Finds the template of a memory request."""

from collections.abc import Callable

from cluster.memory.estimate import TemplateFinder
from cluster.memory.request import MemoryRequest
from cluster.memory.template import Template
from common.errors import RequestError


def template_finder(note: Callable[[str], None], *, only_at_hand: bool = False) -> TemplateFinder:
    """Returns a finder.

    Args:
        note: Told when a trace takes seconds.
        only_at_hand: Raise LookupError rather than trace.
    """

    def find(request: MemoryRequest) -> Template:
        raise RequestError(f"no template of {request.model.name} is at hand")

    return find
