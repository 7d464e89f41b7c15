"""What the tracer writes down, on tiny models whose bytes can be counted."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor, nn

from cluster.estimator import cuda_imitation
from cluster.estimator.cuda_imitation import KERNEL_FAMILIES, choose_kernel
from cluster.estimator.template_tape import BLOCK_BYTES, TERMS, round_up
from cluster.estimator.trace import Part, Trace, trace, traced_peaks
from cluster.estimator.trace_recorder import RawTape
from cluster.estimator.workload import Recipe, Shape, Workload
from dialsum.models import SPECS
from tests.cluster.estimator.tiny_models import BART, FAMILIES, GPT2, T5

SHAPE = Shape(batch=3, encoder_len=40, decoder_len=5, beams=2)
STEP: tuple[Part, ...] = ("train", "optimizer")


def workload(**settings: object) -> Workload:
    return Recipe(factory="dialsum.workload:summarizer_workload", settings=settings).make()


def traced(parts: tuple[Part, ...] = ("train",), **settings: object) -> Trace:
    return trace(workload(**settings), SHAPE, family="cudnn", parts=parts)


def kept_bytes(tape: RawTape, term: str) -> int:
    live = np.zeros(len(tape.sizes), dtype=bool)
    for event in tape.events.tolist():
        live[abs(event) - 1] = event > 0
    assert {TERMS[index] for index in tape.terms[live]} <= {term}
    return int(tape.sizes[live].sum())


def test_with_the_models_own_loss_a_peak_is_that_of_an_independent_tracer(monkeypatch: pytest.MonkeyPatch) -> None:
    """3,195 MiB: facts-memory, peaks at B8 S512 T128."""

    def own_loss(model: nn.Module, batch: Mapping[str, Tensor], **_: object) -> Tensor:
        loss: Tensor = model(**{name: batch[name] for name in batch if name != "positions"}, use_cache=False)["loss"]
        return loss

    monkeypatch.setattr("dialsum.workload.forward_loss", own_loss)
    kobart = workload(model_config={"model_type": "bart", **SPECS["kobart"].shape}, precision="bf16")
    shape = Shape(batch=8, encoder_len=512, decoder_len=128)
    found = traced_peaks(kobart, shape, family="efficient", generated=Shape(batch=1, encoder_len=8, decoder_len=2))
    assert found.train / 2**20 == pytest.approx(3195, rel=0.002)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_gradients_are_as_large_as_the_weights(family: str) -> None:
    found = traced(model_config=FAMILIES[family])
    assert kept_bytes(found.tapes["first"], "gradients") == 4 * found.model_parameters
    assert kept_bytes(found.tapes["later"], "gradients") == 0
    assert int(found.weight_bytes.sum()) >= 4 * found.model_parameters
    assert found.operations > 100


@pytest.mark.parametrize(
    ("optimizer", "bytes_each"),
    [("adamw_fused", 8.0), ("adamw", 8.0), ("sgd", 0.0), ("adamw_8bit", 2 + 2 * 4 / 256)],
)
def test_states_of_an_optimizer(optimizer: str, bytes_each: float) -> None:
    config = BART | {"vocab_size": 40_000, "d_model": 128, "max_position_embeddings": 32}  # nearly all in one matrix
    found = traced(("optimizer",), model_config=config, optimizer=optimizer)
    states = kept_bytes(found.tapes["optimizer_first"], "optimizer")
    assert states == pytest.approx(bytes_each * found.model_parameters, rel=0.01, abs=4096)
    assert kept_bytes(found.tapes["optimizer_later"], "optimizer") == 0


def test_factored_states_are_small() -> None:
    found = traced(("optimizer",), model_config=T5, optimizer="adafactor")
    assert 0 < kept_bytes(found.tapes["optimizer_first"], "optimizer") < 4 * found.model_parameters


def test_foreach_needs_a_copy_where_the_fused_optimizer_needs_nothing() -> None:
    foreach, fused = (traced(("optimizer",), model_config=BART, optimizer=name) for name in ("adamw", "adamw_fused"))
    weights = 4 * foreach.model_parameters
    assert fused.tapes["optimizer_later"].peak_bytes < 0.1 * weights + 100 * BLOCK_BYTES
    assert foreach.tapes["optimizer_later"].peak_bytes > 0.9 * weights  # of the matrices, which are one group


def test_an_untied_head_has_weights_gradients_and_states_of_its_own() -> None:
    tied, untied = (traced(STEP, model_config=T5, untied=value) for value in (False, True))
    assert untied.model_parameters - tied.model_parameters == 300 * 32
    assert int(untied.weight_bytes.sum() - tied.weight_bytes.sum()) == 4 * 300 * 32


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_checkpointing_keeps_less(family: str) -> None:
    config = FAMILIES[family] | {"vocab_size": 32}  # small logits: layers decide
    plain, recomputed = (traced(model_config=config, gradient_checkpointing=value) for value in (False, True))
    assert recomputed.tapes["first"].peak_bytes < plain.tapes["first"].peak_bytes
    assert recomputed.operations > plain.operations


def test_autocast_keeps_half_precision_copies_of_weights() -> None:
    full, half = (traced(model_config=BART, precision=precision) for precision in ("fp32", "bf16"))
    term = TERMS.index("weights")
    copies = half.tapes["first"].sizes[half.tapes["first"].terms == term]
    assert not (full.tapes["first"].terms == term).any()
    assert 2 * 300 * 32 in copies.tolist()  # the head, tied to the embedding
    fp16 = traced(model_config=BART, precision="fp16")
    assert abs(fp16.tapes["first"].peak_bytes - half.tapes["first"].peak_bytes) <= 2 * BLOCK_BYTES  # the scaler's


def test_dropout_keeps_a_mask_of_one_byte() -> None:
    with_masks, without = (traced(model_config=GPT2, dropout=dropout) for dropout in (0.1, 0.0))
    mask = SHAPE.batch * (SHAPE.encoder_len + SHAPE.decoder_len) * 32
    counts = [found.tapes["first"].sizes.tolist().count(mask) for found in (with_masks, without)]
    assert counts[0] - counts[1] == 5  # behind the embedding, and behind attention and feed-forward of two layers


def test_eager_attention_keeps_scores() -> None:
    fused, eager = (traced(model_config=GPT2, attention=attention) for attention in ("sdpa", "eager"))
    assert eager.tapes["first"].peak_bytes > fused.tapes["first"].peak_bytes


def test_a_causal_model_sees_one_sequence_and_its_head_the_summary_alone() -> None:
    made = workload(model_config=GPT2)
    other = Shape(batch=3, encoder_len=20, decoder_len=25)
    first, second = (trace(made, shape, family="cudnn", parts=("train",)).tapes["first"] for shape in (SHAPE, other))
    assert len(first.sizes) == len(second.sizes)
    changed = {pair for pair in zip(first.sizes.tolist(), second.sizes.tolist(), strict=True) if pair[0] != pair[1]}
    rows = [shape.batch * shape.decoder_len for shape in (SHAPE, other)]
    assert {pair[1] * rows[0] == pair[0] * rows[1] for pair in changed} == {True}  # of the summary's positions
    logits = (4 * rows[0] * 300, 4 * rows[1] * 300)
    assert logits in changed


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_same_input_gives_the_same_trace(family: str) -> None:
    parts: tuple[Part, ...] = ("train", "optimizer", "evaluate", "greedy", "beam")
    first, second = (traced(parts, model_config=FAMILIES[family], precision="bf16") for _ in range(2))
    for name in first.tapes:
        assert first.tapes[name].sizes.tolist() == second.tapes[name].sizes.tolist()
        assert first.tapes[name].events.tolist() == second.tapes[name].events.tolist()


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_pass_of_a_generation_is_seen(family: str) -> None:
    found = traced(("greedy", "beam"), model_config=FAMILIES[family])
    for tape in found.tapes.values():
        assert tape.phases == ("start", *(f"pass {number}" for number in range(5)), "end")
        assert kept_bytes(tape, "none") == 0
    assert found.tapes["beam"].peak_bytes > found.tapes["greedy"].peak_bytes


@pytest.mark.parametrize("micro_steps", [1, 2])
def test_pieces_add_up_to_the_whole_run(micro_steps: int) -> None:
    made = workload(model_config=BART, precision="bf16")
    found = trace(made, SHAPE, family="cudnn")
    run = traced_peaks(made, SHAPE, family="cudnn", micro_steps=micro_steps)
    weights = int(round_up(found.weight_bytes, BLOCK_BYTES).sum())
    kept = {name: held_at_end(found.tapes[name]) for name in ("first", "optimizer_first")}
    states, gradients = kept["optimizer_first"], kept["first"]
    peaks = [found.tapes["first"].peak_bytes, gradients + found.tapes["optimizer_later"].peak_bytes]
    if micro_steps > 1:
        peaks.append(gradients + found.tapes["later"].peak_bytes)
    assert run.train == weights + states + max(peaks)
    assert run.evaluate == weights + states + found.tapes["evaluate"].peak_bytes
    assert run.generate == weights + states + found.tapes["beam"].peak_bytes


def held_at_end(tape: RawTape) -> int:
    sign = np.sign(tape.events)
    return int((sign * round_up(tape.sizes, BLOCK_BYTES)[np.abs(tape.events) - 1]).sum())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_learned_position_bias_without_dropout_is_traced_on_every_card(precision: str) -> None:
    made = workload(model_config=T5, precision=precision, dropout=0.0)  # cuDNN gives no gradient for a mask
    peaks = [
        trace(made, SHAPE, family=family, parts=("train",)).tapes["first"].peak_bytes for family in KERNEL_FAMILIES
    ]
    assert max(peaks) <= 1.002 * min(peaks)  # kernels differ in attention to the encoder only


def test_attention_of_older_cards_takes_other_kernels() -> None:
    half = {"half": True, "head_size": 64, "query_len": 64, "key_len": 64, "causal": False, "dropout": 0.0}
    assert choose_kernel("flash", masked=True, **half) == "efficient"  # type: ignore[arg-type]
    assert choose_kernel("efficient", masked=False, **half) == "efficient"  # type: ignore[arg-type]
    odd = half | {"head_size": 20}
    assert choose_kernel("flash", masked=True, **odd) == "math"  # type: ignore[arg-type]


def test_this_package_names_no_model_library() -> None:
    source = Path(cuda_imitation.__file__).read_text(encoding="utf-8")
    assert "transformers" not in source.replace("native/transformers/", "")


@pytest.mark.parametrize("family", ["bart", "gpt2"])
def test_forbidden_repetitions_take_a_mask_and_a_copy_of_the_scores(family: str) -> None:
    config = FAMILIES[family] | {"vocab_size": 5000}  # scores are the largest of a pass
    free, forbidden = (
        traced(("greedy",), model_config=config, no_repeat_ngram_size=size).tapes["greedy"] for size in (0, 2)
    )
    scores = SHAPE.batch * 5000 * 4
    mask = SHAPE.batch * (5000 + 1)
    added = sorted(set(forbidden.sizes.tolist()) - set(free.sizes.tolist()))
    assert mask in added
    assert forbidden.sizes.tolist().count(scores) > free.sizes.tolist().count(scores)
    longer = traced(("greedy",), model_config=config, no_repeat_ngram_size=4).tapes["greedy"]
    assert free.peak_bytes <= longer.peak_bytes <= forbidden.peak_bytes
