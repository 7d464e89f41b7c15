"""Seconds of a run's parts: a template's prediction against a direct trace at the same sizes."""

from dataclasses import replace

import pytest

from cluster.estimator.estimate import Estimator
from cluster.estimator.gpu_profile import find_gpu, gpu_of_size
from cluster.estimator.operation_fit import by_phase, constant_operations
from cluster.estimator.operations import Seconds
from cluster.estimator.roofline import Roofline
from cluster.estimator.step_seconds import predict_seconds
from cluster.estimator.template_requests import settings_of
from cluster.estimator.template_tape import atom_values
from cluster.estimator.trace import trace
from cluster.estimator.workload import Recipe, Shape
from dialsum.config import RunConfig
from tune_jobs.placing.memory_requests import request_of
from tune_jobs.placing.memory_templates import template_finder
from tune_jobs.placing.placer import note

L4 = find_gpu("NVIDIA L4")
PAPER = Roofline(half_flops_s=1e12, single_flops_s=1e11, bytes_s=1e10, launch_s=1e-6, host_s=0.0, source="on paper")
SMALL = {"tiny_hidden_size": 32, "tiny_layers": 1, "tiny_vocab_size": 500, "precision": "bf16"}


@pytest.fixture(scope="module")
def estimator(tmp_path_factory: pytest.TempPathFactory) -> Estimator:
    return Estimator(template_finder(note, cache=tmp_path_factory.mktemp("templates")))


@pytest.mark.parametrize("model", ["tiny-bart", "tiny-gpt2", "tiny-t5"])
def test_a_template_predicts_what_a_direct_trace_counts(model: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    config = RunConfig.from_dict(
        {**SMALL, "model": model, "batch_size": 6, "encoder_max_len": 137, "decoder_max_len": 43}, where="test"
    )
    request = request_of(config, L4)
    template = template_finder(note, cache=tmp_path_factory.mktemp("templates"))(request)
    found = predict_seconds(template, request, PAPER)
    assert found is not None
    encoder_len, decoder_len = request.padded_lengths
    shape = Shape(batch=request.micro_batch, encoder_len=encoder_len, decoder_len=decoder_len)
    workload = Recipe(factory="dialsum.workload:summarizer_workload", settings=settings_of(request)).make()
    direct = trace(workload, shape, family="flash", parts=("train", "optimizer", "evaluate"))

    def counted(*names: str) -> Seconds:
        total = Seconds()
        for name in names:
            for phase in by_phase(direct.tapes[name].operations):
                total = total + constant_operations(phase).seconds(atom_values(1, 1, 1, 1), PAPER)
        return total

    step = counted("first", "optimizer_later")
    assert found.step.flops == pytest.approx(step.flops, rel=1e-9)
    # Odd lengths take a copy of masks more, which a template counts at even ones too.
    assert step.moved_bytes <= found.step.moved_bytes <= 1.05 * step.moved_bytes
    assert found.step.total_s == pytest.approx(step.total_s, rel=0.05)
    assert found.busy == 1.0


def test_the_parts_of_a_run_grow_as_their_work_does(estimator: Estimator) -> None:
    config = RunConfig.from_dict({**SMALL, "model": "tiny-bart", "batch_size": 8}, where="test")
    one = estimator.seconds(request_of(config, L4))
    pieces = estimator.seconds(replace(request_of(config, L4), gradient_accumulation_steps=4))
    tokens = estimator.seconds(request_of(config.with_changes({"generation_max_len": 64}), L4))
    twice = estimator.seconds(request_of(config.with_changes({"generation_max_len": 127}), L4))
    assert one is not None
    assert pieces is not None
    assert tokens is not None
    assert twice is not None
    assert pieces.step.flops == pytest.approx(one.step.flops, rel=1e-6)
    assert pieces.step.host_s > 3 * one.step.host_s
    assert 1.9 < twice.generate.host_s / tokens.generate.host_s < 2.05
    assert one.step.bound == "launches"
    assert 0 < one.busy < 0.5  # a tiny model: the host submits more slowly than the card works


def test_a_card_that_is_known_only_by_its_size_has_no_seconds(estimator: Estimator) -> None:
    config = RunConfig.from_dict({**SMALL, "model": "tiny-bart"}, where="test")
    assert estimator.seconds(request_of(config, gpu_of_size("24GiB"))) is None
