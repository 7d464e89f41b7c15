"""A template made by hand: what it answers can be computed on paper."""

import numpy as np
import pytest

from cluster.estimator.template import Template, TemplateKey, TrainTapes
from cluster.estimator.template_tape import TERMS
from tests.cluster.estimator.tapes import Block, tape
from tuning_common.errors import RequestError

KEY = TemplateKey(
    model="0" * 64, precision="fp32", optimizer="adamw_fused", attention="sdpa", gradient_checkpointing=False,
    dropout=True, label_smoothing=False, accumulation=False, kernels="sm80", torch="2.13.0", transformers="5.23.0",
)  # fmt: skip

HIDDEN: Block = (("batch", "encoder"), 1024.0, "activations")
LOGITS: Block = (("batch", "decoder"), 4096.0, "logits")
MASK: Block = (("batch", "encoder", "encoder^8"), 2.0, "activations")
GRADIENT: Block = ((), 10_000.0, "gradients")
STATE: Block = ((), 20_000.0, "optimizer")
SCRATCH: Block = ((), 5_000.0, "workspace")
FIRST = tape([HIDDEN, MASK, LOGITS, GRADIENT], [1, 2, -2, 3, -3, 4, -1], {"forward": 0, "backward": 4})
LATER = tape([HIDDEN, LOGITS], [1, 2, -2, -1], {"forward": 0, "backward": 2})
DECODE: Block = (("batch", "beams", "decoder"), 512.0, "activations")


def template(*, accumulation: bool = False) -> Template:
    return Template(
        key=KEY if not accumulation else TemplateKey(**{**vars(KEY), "accumulation": True}),
        model_parameters=2500,
        operations=10,
        weight_bytes=np.array([9000, 1000]),
        train=TrainTapes(
            first=FIRST,
            later=LATER,
            optimizer_first=tape([STATE], [1], {"optimizer": 0}),
            optimizer_later=tape([SCRATCH], [1, -1], {"optimizer": 0}),
        ),
        evaluate=tape([LOGITS], [1, -1], {"forward": 0}),
        greedy=tape([DECODE], [1, -1], {"decode": 0}),
        beam=tape([DECODE, DECODE], [1, 2, -1, -2], {"decode": 0}),
        source="made by hand",
    )


WEIGHTS = 9216 + 1024  # rounded up to 512 bytes
STATES, GRADIENTS, SCRATCHED = 20480, 10240, 5120


def test_training_peak_is_the_fullest_moment() -> None:
    made = template()
    hidden, logits = 2 * 100 * 1024, 2 * 30 * 4096
    assert made.allocated_bytes(2, 100, 30) == WEIGHTS + STATES + hidden + logits
    assert made.peak_phase(2, 100, 30) == "forward"
    mask = 2 * 100 * 104 * 2
    assert made.allocated_bytes(2, 100, 1) == WEIGHTS + STATES + hidden + mask + 510  # 510: at most, by rounding


def test_a_tiny_batch_peaks_in_the_optimizer() -> None:
    made = template()
    peak = made.peak(1, 1, 1)
    assert peak.allocated_bytes == WEIGHTS + STATES + GRADIENTS + SCRATCHED
    assert peak.phase == "optimizer"
    assert peak.terms == {
        "weights": WEIGHTS, "gradients": GRADIENTS, "optimizer": STATES, "activations": 0, "logits": 0,
        "workspace": SCRATCHED,
    }  # fmt: skip


def test_accumulation_holds_gradients_beside_activations() -> None:
    plain, accumulated = template(), template(accumulation=True)
    assert accumulated.allocated_bytes(2, 100, 30) - plain.allocated_bytes(2, 100, 30) == GRADIENTS
    assert accumulated.terms(2, 100, 30)["gradients"] == GRADIENTS
    assert plain.terms(2, 100, 30)["gradients"] == 0


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 100, 30), (3, 333, 77), (64, 17, 1024)])
@pytest.mark.parametrize("accumulation", [False, True])
def test_terms_add_up(shape: tuple[int, int, int], accumulation: bool) -> None:
    made = template(accumulation=accumulation)
    terms = made.terms(*shape)
    assert tuple(terms) == TERMS
    assert min(terms.values()) >= 0
    assert sum(terms.values()) == made.allocated_bytes(*shape)


def test_many_queries_at_once_equal_one_by_one() -> None:
    made = template(accumulation=True)
    batch, encoder, decoder = (np.arange(1, 5001) % n + 1 for n in (64, 1024, 128))
    together = made.allocated_bytes(batch, encoder, decoder)
    single = [made.allocated_bytes(int(batch[i]), int(encoder[i]), int(decoder[i])) for i in range(0, 5000, 499)]
    assert together[::499].tolist() == single


def test_beams_are_another_search() -> None:
    made = template()
    assert made.allocated_bytes(4, 9, 30, routine="generate") == WEIGHTS + STATES + 4 * 30 * 512
    assert made.allocated_bytes(4, 9, 30, routine="generate", beams=4) == WEIGHTS + STATES + 2 * 4 * 4 * 30 * 512
    assert made.allocated_bytes(4, 9, 30, routine="evaluate") == WEIGHTS + STATES + 4 * 30 * 4096


def test_events_balance_and_keep_weights_and_states() -> None:
    made = template(accumulation=True)
    log = made.events([(2, 100, 30)] * 4, generate=[(4, 9, 30)], beams=4)
    live: dict[int, int] = {}
    for number, size in zip(log.ids.tolist(), log.sizes.tolist(), strict=True):
        if number > 0:
            assert number not in live
            live[number] = size
        else:
            assert size == 0
            del live[-number]
    assert sorted(live.values()) == [1000, 9000, 20_000]
    assert log.ids.max() == 2 + 4 * 3 + 2 + 1 + 1 + 2 - 2  # weights, 2 x (first, later), states, scratch, generation


@pytest.mark.parametrize("shape", [(0, 1, 1), (1, 0, 1), (1, 1, -5)])
def test_sizes_below_one_are_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(RequestError, match="must be at least 1"):
        template().allocated_bytes(*shape)
    with pytest.raises(RequestError, match="must be at least 1"):
        template().allocated_bytes(*(np.array([3, size]) for size in shape))
    with pytest.raises(RequestError, match="must be at least 1"):
        template().allocated_bytes(1, 1, 1, routine="generate", beams=0)
