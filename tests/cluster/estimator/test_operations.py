"""Operations of a routine: how they are counted, fitted to two shapes, and turned into seconds."""

import numpy as np
import pytest

from cluster.estimator.operation_fit import are_alike, by_phase, constant_operations, fit_operations, joined
from cluster.estimator.operation_trace import Counted, OperationLog
from cluster.estimator.operations import RawOperations, Seconds
from cluster.estimator.roofline import Roofline, roofline_of
from cluster.estimator.template_fit import TWO_SEQUENCES, candidates
from cluster.estimator.template_tape import atom_values
from cluster.estimator.trace_recorder import Recorder, watching
from cluster.estimator.workload import Shape

DEVICE = Roofline(half_flops_s=100.0, single_flops_s=10.0, bytes_s=5.0, launch_s=0.5, host_s=2.0, source="on paper")
SHAPES = (Shape(batch=3, encoder_len=211, decoder_len=79), Shape(batch=5, encoder_len=588, decoder_len=230))


def log(*counted: Counted, phases: tuple[int, ...] = (0,)) -> RawOperations:
    return OperationLog(counted=list(counted), phase_starts=list(phases)).raw()


def linear(shape: Shape) -> Counted:
    """A matrix product of all tokens of a batch: 64 in, 32 out, in fp16."""
    tokens = shape.batch * shape.encoder_len
    return Counted(flops=2 * tokens * 64 * 32, half=True, moved_bytes=(tokens * 128, 4096, tokens * 64))


def scores(shape: Shape) -> Counted:
    pairs = shape.batch * shape.encoder_len * shape.decoder_len
    return Counted(flops=16 * pairs, half=False, moved_bytes=(4 * pairs,))


def test_each_operation_takes_its_arithmetic_or_its_traffic_and_a_launch() -> None:
    found = constant_operations(
        log(
            Counted(flops=200, half=True, moved_bytes=(5,)),  # 2 s of arithmetic, 1 s of traffic
            Counted(flops=200, half=False, moved_bytes=(5,)),  # 20 s, 1 s
            Counted(flops=0, half=False, moved_bytes=(10, 5)),  # 3 s of traffic
            Counted(flops=0, half=False, moved_bytes=(10, 5)),
        )
    )
    assert (found.launches, len(found.count)) == (4, 3)
    seconds = found.seconds(atom_values(1, 1, 1, 1), DEVICE)
    assert seconds == Seconds(compute_s=22.0, memory_s=6.0, launch_s=2.0, host_s=8.0, flops=400.0, moved_bytes=40.0)
    assert (seconds.device_s, seconds.total_s, seconds.bound) == (30.0, 30.0, "compute")


def test_two_shapes_give_the_operations_of_any_other() -> None:
    raws = [log(linear(shape), linear(shape), scores(shape)) for shape in SHAPES]
    products, values = candidates(SHAPES, TWO_SEQUENCES)
    found = fit_operations(raws, products, values)
    assert found.count.tolist() == [2, 1]
    other = Shape(batch=7, encoder_len=100, decoder_len=40)
    atoms = atom_values(other.batch, 1, other.encoder_len, other.decoder_len)
    true = constant_operations(log(linear(other), linear(other), scores(other))).seconds(atoms, DEVICE)
    assert found.seconds(atoms, DEVICE) == true


def test_phases_are_taken_apart_and_put_together_again() -> None:
    raw = log(linear(SHAPES[0]), scores(SHAPES[0]), linear(SHAPES[1]), phases=(0, 2))
    first, second = by_phase(raw)
    assert (len(first.flops), len(second.flops)) == (2, 1)
    assert second.moved_by.tolist() == [0, 0, 0]
    again = joined([first, second])
    for name in ("flops", "half", "moved_bytes", "moved_by", "phase_starts"):
        assert np.array_equal(getattr(again, name), getattr(raw, name)), name


def test_other_operations_at_another_shape_are_noticed() -> None:
    assert are_alike([log(linear(shape)) for shape in SHAPES])
    assert not are_alike([log(linear(SHAPES[0])), log(scores(SHAPES[1]))])


def test_a_step_on_meta_tensors_is_counted_by_its_kernels_and_not_by_its_views() -> None:
    import torch

    recorder = Recorder(vocabulary=0)
    recorder.open_section("forward")
    recorder.enter_phase("forward")
    with watching(recorder, lambda name, args: 0), torch.device("meta"):
        inputs, weight = torch.empty(6, 10), torch.empty(4, 10)
        outputs = inputs @ weight.t()  # a view, and a product of 2 · 6 · 10 · 4 operations
        outputs.view(3, 8).transpose(0, 1)
        outputs.add_(1.0)
        inputs.expand(5, 6, 10).sum()  # reads what is repeated once
        torch.nn.functional.embedding(torch.empty(3, dtype=torch.int64), weight)  # reads three rows, not all
        torch._foreach_add_([outputs, weight], 1.0)
    raw = recorder.tape("forward").operations
    moved = [raw.moved_bytes[raw.moved_by == number].tolist() for number in range(len(raw.flops))]
    assert raw.flops.tolist() == [480.0, 0.0, 0.0, 0.0, 0.0]
    assert moved == [
        [240, 160, 96],
        [96, 96],
        [240, 4],
        [120, 120],
        [96, 160, 96, 160],
    ]


def test_every_gpu_model_with_a_profile_has_peaks_in_a_sane_relation() -> None:
    from cluster.estimator.gpu_profile import known_gpus

    for gpu in known_gpus():
        found = roofline_of(gpu.name)
        assert found is not None, gpu.name
        assert found.half_flops_s >= found.single_flops_s, gpu.name
        assert 15 < found.half_flops_s / found.bytes_s < 400, gpu.name


@pytest.mark.parametrize(("name", "bytes_s"), [("Tesla T4", 256e9), ("NVIDIA A100-SXM4-80GB", 1631.2e9)])
def test_four_fifths_of_the_bandwidth_are_taken_to_be_reached(name: str, bytes_s: float) -> None:
    found = roofline_of(name)
    assert found is not None
    assert found.bytes_s == pytest.approx(bytes_s)
