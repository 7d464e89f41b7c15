"""Encoding keeps what the model needs, pads as each model kind needs it, and is done once."""

import errno
import random
from pathlib import Path

import pytest

from dialsum.config import RunConfig
from dialsum.data import Example
from dialsum.encoding import EncodedDataset, encode
from dialsum.tokenizers import build_tokenizer, decode, fingerprint

EXAMPLES = [
    Example(
        fname="a", dialogue="#Person1#: 예약할게요.\n#Person2#: 네.", summaries=("#Person1#은 예약한다.",), topic=None
    ),
    Example(fname="b", dialogue="#Person1#: 네.", summaries=("#Person1#은 답한다.", "둘째"), topic=None),
]
TEXTS = [text for example in EXAMPLES for text in (example.dialogue, *example.summaries)] * 3


def test_seq2seq_sources_begin_and_end_and_targets_end(tmp_path: Path) -> None:
    config = RunConfig(model="tiny-bart")
    tokenizer = build_tokenizer(config, TEXTS, tmp_path)
    encoding = encode(EXAMPLES, tokenizer, config, tmp_path)
    assert encoding.sources[0][0] == tokenizer.bos_token_id
    assert encoding.sources[0][-1] == encoding.targets[0][-1] == tokenizer.eos_token_id
    assert decode(tokenizer, encoding.sources[0]) == EXAMPLES[0].dialogue
    assert decode(tokenizer, encoding.targets[1]) == EXAMPLES[1].summaries[0]


def test_the_prompt_of_a_causal_model_carries_no_loss(tmp_path: Path) -> None:
    config = RunConfig(model="tiny-gpt2")
    tokenizer = build_tokenizer(config, TEXTS, tmp_path)
    encoding = encode(EXAMPLES, tokenizer, config, tmp_path)
    item = EncodedDataset(encoding, "causal")[0]
    prompt = len(encoding.sources[0])
    assert item["labels"][:prompt] == [-100] * prompt
    assert item["labels"][prompt:] == item["input_ids"][prompt:] == list(encoding.targets[0])


def test_a_topic_stands_before_the_dialogue_on_request(tmp_path: Path) -> None:
    config = RunConfig(use_topic=True)
    tokenizer = build_tokenizer(config, [*TEXTS, "예약"], tmp_path)
    named = Example(fname="a", dialogue=EXAMPLES[0].dialogue, summaries=(), topic="예약")
    encoding = encode([named, EXAMPLES[1]], tokenizer, config, tmp_path)
    assert decode(tokenizer, encoding.sources[0]) == f"예약\n{named.dialogue}"
    assert decode(tokenizer, encoding.sources[1]) == EXAMPLES[1].dialogue


def test_long_texts_are_cut_to_the_limit_and_counted(tmp_path: Path) -> None:
    config = RunConfig(model="tiny-bart", encoder_max_len=6, decoder_max_len=3)
    encoding = encode(EXAMPLES, build_tokenizer(config, TEXTS, tmp_path), config, tmp_path)
    assert [len(ids) for ids in encoding.sources] == [6, min(6, len(encoding.sources[1]))]
    assert max(len(ids) for ids in encoding.targets) == 3
    assert (encoding.cut_dialogues, encoding.cut_summaries) == (1, 2)


def test_the_second_trial_reads_the_cache(tmp_path: Path) -> None:
    config = RunConfig(model="tiny-bart")
    tokenizer = build_tokenizer(config, TEXTS, tmp_path)
    first = encode(EXAMPLES, tokenizer, config, tmp_path)
    (path,) = (tmp_path / "encodings").iterdir()
    stamp = path.stat().st_mtime_ns
    assert encode(EXAMPLES, build_tokenizer(config, TEXTS, tmp_path), config, tmp_path) == first
    assert path.stat().st_mtime_ns == stamp
    assert len(list((tmp_path / "tokenizers").iterdir())) == 1


@pytest.mark.parametrize("folder", ["tokenizers", "encodings"])
def test_a_damaged_cache_file_is_made_again(tmp_path: Path, folder: str) -> None:
    """Cut anywhere, one bit changed anywhere, and zeros behind any byte, as a power loss leaves them."""
    config = RunConfig(model="tiny-bart")
    tokenizer = build_tokenizer(config, TEXTS, tmp_path)
    first = encode(EXAMPLES, tokenizer, config, tmp_path)
    (path,) = (tmp_path / folder).iterdir()
    whole = path.read_bytes()
    rng = random.Random(0)
    for at in rng.sample(range(len(whole)), 60):
        bit = bytes([whole[at] ^ 1 << rng.randrange(8)])
        for damaged in (whole[:at], whole[:at] + bit + whole[at + 1 :], whole[:at] + bytes(len(whole) - at)):
            path.write_bytes(damaged)
            again = build_tokenizer(config, TEXTS, tmp_path)
            assert fingerprint(again) == fingerprint(tokenizer)
            assert encode(EXAMPLES, again, config, tmp_path) == first
    assert path.read_bytes() == whole


def test_a_cache_that_cannot_be_written_costs_time_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = RunConfig(model="tiny-bart")
    tokenizer = build_tokenizer(config, TEXTS, tmp_path / "there")
    first = encode(EXAMPLES, tokenizer, config, tmp_path / "there")

    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("dialsum.cache.write_bytes", full)
    again = build_tokenizer(config, TEXTS, tmp_path / "full")
    assert fingerprint(again) == fingerprint(tokenizer)
    assert encode(EXAMPLES, again, config, tmp_path / "full") == first
    assert [record.message.rsplit(": ", 1)[1] for record in caplog.records] == ["No space left on device"] * 2
