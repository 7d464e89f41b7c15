"""A process is training, then generation, in one allocator beside cuBLAS's workspaces."""

import pytest

from cluster.estimator.allocator import replay
from cluster.estimator.estimate import TemplateFinder
from cluster.estimator.gpu_profile import find_gpu
from cluster.estimator.model_facts import model_facts
from cluster.estimator.process import Setting, dynamic_batches, replay_process, usual_slack
from cluster.estimator.request import MemoryRequest
from cluster.estimator.template import Template

MIB = 2**20
BART = model_facts("kobart", {"model_type": "bart", "vocab_size": 30000})


@pytest.fixture(params=[1, 4])
def template(make: TemplateFinder, request: pytest.FixtureRequest) -> Template:
    pieces: int = request.param
    return make(MemoryRequest(model=BART, gpu=find_gpu("L4"), batch_size=8, gradient_accumulation_steps=pieces))


@pytest.mark.parametrize("expandable", [True, False])
def test_without_workspaces_it_is_a_plain_replay(template: Template, expandable: bool) -> None:
    setting = Setting(expandable=expandable, workspace_bytes=1024)
    found = replay_process(template, setting, train=(4, 200, 60), generate=(2, 200, 60), beams=2)
    pieces = 2 if template.key.accumulation else 1
    training = template.events([(4, 200, 60)] * 3 * pieces, micro_steps=pieces)
    whole = template.events([(4, 200, 60)] * 3 * pieces, micro_steps=pieces, generate=[(2, 200, 60)], beams=2)
    # Two small workspaces lie in the segment that small blocks have anyway.
    assert found.train_reserved_bytes == replay(training, expandable=expandable).peak_reserved_bytes
    assert found.reserved_bytes == replay(whole, expandable=expandable).peak_reserved_bytes
    assert found.train_allocated_bytes - replay(training, expandable=expandable).peak_allocated_bytes == 1024


def test_workspaces_stay_beside_everything(template: Template) -> None:
    small, large = (Setting(expandable=True, workspace_bytes=size * MIB) for size in (40, 80))
    sizes = {"train": (8, 512, 128), "generate": (1, 8, 8), "beams": 1}
    less, more = replay_process(template, small, **sizes), replay_process(template, large, **sizes)
    assert more.train_allocated_bytes - less.train_allocated_bytes == 40 * MIB
    assert more.reserved_bytes - less.reserved_bytes == 40 * MIB


def test_a_large_generation_adds_to_what_training_reserved(template: Template) -> None:
    setting = Setting(expandable=True, workspace_bytes=1024)
    found = replay_process(template, setting, train=(1, 64, 16), generate=(64, 512, 64), beams=8)
    assert found.reserved_bytes > found.train_reserved_bytes + 64 * 8 * 512 * 4096 // 2
    alone = replay_process(template, setting, train=None, generate=(64, 512, 64), beams=8)
    assert alone.train_reserved_bytes < alone.reserved_bytes <= found.reserved_bytes


def test_the_usual_slack_is_at_least_none(template: Template) -> None:
    assert 1.0 <= usual_slack(template, Setting(expandable=True, workspace_bytes=2 * MIB)) < 1.5


def test_batches_of_a_data_set_hold_similar_lengths() -> None:
    lengths = [(length, length // 4 + 1) for length in range(1, 101)]
    batches = dynamic_batches(lengths, 8)
    assert sum(size for size, _, _ in batches) == 100
    assert sorted(encoder for _, encoder, _ in batches) == [8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 96, 100]
    assert batches == dynamic_batches(lengths, 8) != dynamic_batches(lengths, 8, seed=1)
    assert len(dynamic_batches(lengths, 1, count=7)) == 7
    assert dynamic_batches([], 8) == []


@pytest.mark.parametrize("expandable", [False, True])
def test_batches_of_other_lengths_never_reserve_less(template: Template, expandable: bool) -> None:
    setting = Setting(expandable=expandable, workspace_bytes=0)
    longest, generate = (8, 512, 128), (1, 64, 8)
    others = dynamic_batches([(length, length // 4 + 1) for length in range(16, 512, 3)], 8)
    alone = replay_process(template, setting, train=longest, generate=generate, beams=1)
    mixed = replay_process(template, setting, train=longest, generate=generate, beams=1, others=others)
    assert mixed.train_allocated_bytes >= alone.train_allocated_bytes
    assert mixed.train_reserved_bytes >= alone.train_reserved_bytes
    assert mixed.reserved_bytes >= alone.reserved_bytes
