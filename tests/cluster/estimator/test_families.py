"""Families that teams ask for: parameters exact, the estimate beside a direct trace, or a refusal in words."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from cluster.estimator.gpu_profile import find_gpu
from cluster.estimator.model_facts import ModelFacts, model_facts
from cluster.estimator.request import MemoryRequest
from cluster.estimator.template import Template, TrainTapes
from cluster.estimator.template_build import build_part
from cluster.estimator.template_fit import UnevenModelError
from cluster.estimator.template_keys import part_key
from cluster.estimator.template_requests import key_of, settings_of, sizes_of
from cluster.estimator.trace import traced_peaks
from cluster.estimator.workload import Shape
from dialsum.workload import empty_model, summarizer_workload
from tests.cluster.estimator.families import FAMILIES
from tuning_common.errors import RequestError

L4 = find_gpu("L4")
WITHOUT_SDPA = frozenset({"Gemma-2", "BLOOM", "LED", "BigBird-Pegasus", "ProphetNet", "T5Gemma"})
# Experts and global attention take tokens by their values; block-sparse attention mixes formats under autocast; and
# ProphetNet hands a tensor's value to a check.
REFUSED = frozenset({"Kanana-2", "LED", "BigBird-Pegasus", "ProphetNet"})
# In tiny models every block's rounding to 512 bytes is a large part, and an estimate bounds it.
MOST_OVER = 0.06


def request_of(facts: ModelFacts, name: str, *, encoder_len: int = 200, decoder_len: int = 56) -> MemoryRequest:
    attention = "eager" if name in WITHOUT_SDPA else "sdpa"
    return MemoryRequest(
        model=facts, gpu=L4, batch_size=3, encoder_max_len=encoder_len, decoder_max_len=decoder_len,
        generation_batch_size=2, attention=attention,
    )  # fmt: skip


def trained(request: MemoryRequest, *, exact: bool = False) -> Template:
    """A template whose evaluation is that of the training's first pass; only its training is asked."""
    workload = summarizer_workload(**settings_of(request))  # type: ignore[arg-type]
    key = key_of(request)
    family = "flash" if request.attention == "sdpa" else "efficient"
    try:
        step = build_part(workload, part_key(key, "step", sizes_of(request) if exact else None), family=family)
    except UnevenModelError:
        step = build_part(workload, part_key(key, "step", sizes_of(request)), family=family)
    optimizer = build_part(workload, part_key(key, "optimizer"), family=family)
    tapes = TrainTapes(
        first=step.tapes["first"], later=step.tapes["later"],
        optimizer_first=optimizer.tapes["optimizer_first"], optimizer_later=optimizer.tapes["optimizer_later"],
    )  # fmt: skip
    return Template(
        key=key, model_parameters=step.model_parameters, operations=step.operations,
        weight_bytes=step.weight_bytes, train=tapes, evaluate=tapes.first, greedy=tapes.first, beam=tapes.first,
        source="traced now",
    )  # fmt: skip


def compare(config: Mapping[str, object], name: str, *, shorter: int = 0, **lengths: int) -> float:
    """Estimate over a direct trace at the same sizes, or at dialogues that are so many tokens shorter, less 1."""
    request = request_of(model_facts(name, config), name, **lengths)
    template = trained(request)
    workload = summarizer_workload(**settings_of(request))  # type: ignore[arg-type]
    encoder_len, decoder_len = request.padded_lengths
    shape = Shape(batch=request.micro_batch, encoder_len=encoder_len - shorter, decoder_len=decoder_len)
    family = "flash" if request.attention == "sdpa" else "efficient"
    direct = traced_peaks(workload, shape, family=family, generated=replace(shape, decoder_len=2)).train
    assert template.model_parameters == empty_model(config, untied=request.model.untied).num_parameters()
    return template.allocated_bytes(shape.batch, encoder_len, decoder_len) / direct - 1


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in REFUSED])
@pytest.mark.filterwarnings("ignore::FutureWarning")  # of encoder-decoder pairs
def test_the_estimate_of_a_family_is_that_of_a_direct_trace(name: str) -> None:
    assert 0 <= compare(FAMILIES[name], name) < MOST_OVER


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_family_that_cannot_be_traced_is_refused_in_words(name: str) -> None:
    request = request_of(model_facts(name, FAMILIES[name]), name)
    workload = summarizer_workload(**settings_of(request))  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="cannot be traced without a GPU, so it is not estimated"):
        build_part(workload, part_key(key_of(request), "evaluation"), family="efficient")


@pytest.mark.parametrize("encoder_len", [200, 400, 600, 900])  # the window is 512 tokens
@pytest.mark.parametrize("name", ["Gemma-3", "EXAONE-4"])
def test_a_sliding_window_is_traced_at_two_lengths_on_each_side(name: str, encoder_len: int) -> None:
    """Lengths of whole steps need no padded copies of the masks, of which the estimate has room as of other lengths."""
    whole = compare(FAMILIES[name], name, encoder_len=encoder_len)
    assert whole >= 0
    assert min(whole, compare(FAMILIES[name], name, encoder_len=encoder_len, shorter=1)) < 0.01


@pytest.mark.parametrize("name", sorted(WITHOUT_SDPA))
def test_a_family_without_sdpa_is_refused_with_what_would_work(name: str) -> None:
    request = replace(request_of(model_facts(name, FAMILIES[name]), name), attention="sdpa")
    with pytest.raises(RequestError, match="does not support") as caught:
        trained(request)
    assert "attention: eager" in str(caught.value)
