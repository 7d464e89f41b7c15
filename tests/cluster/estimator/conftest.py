"""A small model made by hand, whose bytes can be computed on paper."""

from collections.abc import Callable

import numpy as np
import pytest

from cluster.estimator.request import MemoryRequest
from cluster.estimator.template import Template, TemplateKey, TrainTapes
from tests.cluster.estimator.tapes import Block, tape

MIB = 2**20


WEIGHTS = 100 * MIB
HIDDEN: Block = (("batch", "encoder"), 40_960.0, "activations")
LOGITS: Block = (("batch", "decoder"), 239_616.0, "logits")
GRADIENT: Block = ((), float(WEIGHTS), "gradients")
STATE: Block = ((), float(2 * WEIGHTS), "optimizer")
SCRATCH: Block = ((), 1024.0, "workspace")
CACHE: Block = (("batch", "beams", "encoder"), 4096.0, "activations")
SCORES: Block = (("batch", "beams"), 119_808.0, "logits")


def toy(request: MemoryRequest) -> Template:
    """Makes the template of a request."""
    key = TemplateKey(
        model="0" * 64, precision=request.precision, optimizer=request.optimizer, attention=request.attention,
        gradient_checkpointing=request.gradient_checkpointing, dropout=request.dropout != 0,
        label_smoothing=request.label_smoothing > 0, accumulation=request.gradient_accumulation_steps > 1,
        kernels="sm80", torch="2.13.0", transformers="5.23.0",
    )  # fmt: skip
    hidden = (HIDDEN[0], HIDDEN[1] / 8, HIDDEN[2]) if request.gradient_checkpointing else HIDDEN
    return Template(
        key=key,
        model_parameters=WEIGHTS // 4,
        operations=4000,
        weight_bytes=np.array([WEIGHTS]),
        train=TrainTapes(
            first=tape([hidden, LOGITS, GRADIENT], [1, 2, -2, 3, -1], {"forward": 0, "backward": 2}),
            later=tape([hidden, LOGITS], [1, 2, -2, -1], {"forward": 0, "backward": 2}),
            optimizer_first=tape([STATE], [1], {"optimizer": 0}),
            optimizer_later=tape([SCRATCH], [1, -1], {"optimizer": 0}),
        ),
        evaluate=tape([LOGITS], [1, -1], {"forward": 0}),
        greedy=tape([CACHE, SCORES], [1, 2, -2, -1], {"prefill": 0, "decode": 1}),
        beam=tape([CACHE, SCORES], [1, 2, -2, -1], {"prefill": 0, "decode": 1}),
        source="made by hand",
    )


@pytest.fixture(scope="session")
def make() -> Callable[[MemoryRequest], Template]:
    """Finds the toy's template for any request."""
    made: dict[tuple[object, ...], Template] = {}

    def find(request: MemoryRequest) -> Template:
        key = (
            request.precision, request.optimizer, request.attention, request.gradient_checkpointing,
            request.dropout == 0, request.label_smoothing > 0, request.gradient_accumulation_steps > 1,
        )  # fmt: skip
        if key not in made:
            made[key] = toy(request)
        return made[key]

    return find
