"""A request is planned with its own template; a refusal names changes that fit, with their bytes."""

import dataclasses
import time

import pytest

from cluster.estimator.estimate import Estimator, TemplateFinder
from cluster.estimator.gpu_profile import find_gpu
from cluster.estimator.memory_plan import NoPlan, Plan
from cluster.estimator.model_facts import model_facts
from cluster.estimator.planning import plan_request
from cluster.estimator.request import MemoryRequest

MIB = 2**20
BART = model_facts("kobart", {"model_type": "bart", "vocab_size": 30000, "max_position_embeddings": 1026})
REQUEST = MemoryRequest(model=BART, gpu=find_gpu("L4"), batch_size=64, generation_batch_size=2)


@pytest.fixture
def estimator(make: TemplateFinder) -> Estimator:
    return Estimator(make)


def test_the_plan_stays_inside_its_budget_and_keeps_the_batch(estimator: Estimator) -> None:
    for budget_mib in (1600, 1800, 2200, 3000, 6000, 20_000):
        found = plan_request(estimator, REQUEST, budget_mib * MIB)
        assert isinstance(found, Plan)
        assert found.micro_batch * found.accumulation == 64
        assert found.upper_bytes <= budget_mib * MIB
        planned = dataclasses.replace(
            REQUEST,
            gradient_accumulation_steps=found.accumulation,
            gradient_checkpointing=found.gradient_checkpointing,
        )
        assert found.upper_bytes == estimator.upper_bytes(planned)


def test_ranks_share_the_batch(estimator: Estimator) -> None:
    found = plan_request(estimator, dataclasses.replace(REQUEST, ranks=2), 20_000 * MIB)
    assert isinstance(found, Plan)
    assert (found.micro_batch, found.accumulation) == (32, 1)


def test_a_refusal_names_what_would_fit(estimator: Estimator) -> None:
    large = dataclasses.replace(REQUEST, generation_batch_size=512, num_beams=8)
    found = plan_request(estimator, large, 2000 * MIB)
    assert isinstance(found, NoPlan)
    assert found.smallest_bytes > 2000 * MIB
    assert [text.split(" ")[0] for text in found.remedies] == ["generation_batch_size", "a"]
    size = int(found.remedies[0].split(" ")[1])
    assert estimator.upper_bytes(dataclasses.replace(large, batch_size=1, generation_batch_size=size)) <= 2000 * MIB
    assert found.remedies[-1].startswith("a card of at least ")
    assert "would fit with generation_batch_size" in str(found)


def test_changes_without_a_template_are_left_out(estimator: Estimator) -> None:
    def nothing(request: MemoryRequest) -> int:
        raise LookupError(request.optimizer)

    found = plan_request(estimator, REQUEST, 900 * MIB, remedies_from=nothing)
    assert isinstance(found, NoPlan)
    assert len(found.remedies) == 1


def test_a_plan_takes_less_than_five_milliseconds(estimator: Estimator) -> None:
    plan_request(estimator, REQUEST, 3000 * MIB)
    best_s = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        plan_request(estimator, REQUEST, 3000 * MIB)
        best_s = min(best_s, time.perf_counter() - start)
    assert best_s < 0.005


def test_a_confirmed_plan_has_the_bytes_of_its_estimate(estimator: Estimator) -> None:
    for budget_mib in (1500, 1600, 1800, 2200, 3000, 6000):
        found = plan_request(estimator, REQUEST, budget_mib * MIB, confirm=True)
        if isinstance(found, NoPlan):
            assert found.budget_bytes == budget_mib * MIB
            continue
        planned = dataclasses.replace(
            REQUEST,
            gradient_accumulation_steps=found.accumulation,
            gradient_checkpointing=found.gradient_checkpointing,
        )
        assert found.upper_bytes == estimator.estimate(planned).upper_bytes <= budget_mib * MIB
