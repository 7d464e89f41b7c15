"""A request that cannot be is refused with everything that is wrong with it."""

import pytest

from cluster.estimator.gpu_profile import find_gpu
from cluster.estimator.model_facts import model_facts
from cluster.estimator.request import OPTIMIZERS, MemoryRequest
from tuning_common.errors import RequestError

BART = model_facts("kobart", {"model_type": "bart", "vocab_size": 30000, "max_position_embeddings": 1026})
GPT2 = model_facts("kogpt2", {"model_type": "gpt2", "vocab_size": 51200, "n_positions": 1024})
T5 = model_facts("t5", {"model_type": "t5", "vocab_size": 32128})
L4 = find_gpu("L4")


def test_every_wrong_value_is_listed_at_once() -> None:
    with pytest.raises(RequestError, match="memory estimate: 9 problems") as caught:
        MemoryRequest(
            model=BART, gpu=L4, batch_size=0, encoder_max_len=0, num_beams=0, label_smoothing=1.5, dropout=-0.1,
            precision="bf61", optimizer="adam", attention="flash", allocator="cuda",
        )  # fmt: skip
    text = str(caught.value)
    assert "batch_size must be at least 1, but is 0" in text
    assert "precision must be one of fp32, fp16, bf16, bf16_pure, but is 'bf61'; did you mean 'bf16'?" in text
    assert f"optimizer must be one of {', '.join(OPTIMIZERS)}, but is 'adam'" in text


@pytest.mark.parametrize(("batch", "pieces", "ranks"), [(8, 3, 1), (8, 4, 4)])
def test_pieces_and_cards_must_divide_the_batch(batch: int, pieces: int, ranks: int) -> None:
    with pytest.raises(RequestError, match=f"must divide batch_size {batch}"):
        MemoryRequest(model=BART, gpu=L4, batch_size=batch, gradient_accumulation_steps=pieces, ranks=ranks)


def test_lengths_beyond_the_positions_are_refused() -> None:
    with pytest.raises(RequestError, match="2 problems") as caught:
        MemoryRequest(model=BART, gpu=L4, batch_size=8, encoder_max_len=1027, generation_max_len=2000)
    assert "encoder_max_len must be at most 1026, the positions of kobart, but is 1027" in str(caught.value)
    assert "generation_max_len must be at most 1026" in str(caught.value)
    MemoryRequest(model=BART, gpu=L4, batch_size=8, encoder_max_len=1026)


def test_a_causal_model_holds_both_in_one_sequence() -> None:
    MemoryRequest(model=GPT2, gpu=L4, batch_size=8, encoder_max_len=896, decoder_max_len=128)
    with pytest.raises(RequestError, match=r"encoder_max_len \+ decoder_max_len must be at most 1024") as caught:
        MemoryRequest(model=GPT2, gpu=L4, batch_size=8, encoder_max_len=897, decoder_max_len=128)
    assert len(caught.value.problems) == 1


def test_relative_positions_have_no_end() -> None:
    assert MemoryRequest(model=T5, gpu=L4, batch_size=1, encoder_max_len=100_000).padded_lengths == (100_000, 128)


def test_lengths_are_padded_as_the_collator_pads() -> None:
    seq2seq = MemoryRequest(model=T5, gpu=L4, batch_size=1, encoder_max_len=499, decoder_max_len=101)
    assert seq2seq.padded_lengths == (504, 104)
    causal = MemoryRequest(model=GPT2, gpu=L4, batch_size=1, encoder_max_len=499, decoder_max_len=101)
    assert causal.padded_lengths == (499, 101)  # together 600, a multiple of 8 already


def test_the_micro_batch_is_what_one_process_computes_at_once() -> None:
    request = MemoryRequest(model=T5, gpu=L4, batch_size=64, gradient_accumulation_steps=4, ranks=2)
    assert request.micro_batch == 8
    assert request.new_tokens == 128
