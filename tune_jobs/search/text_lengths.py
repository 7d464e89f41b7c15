"""Loads the tokenizers of a sweep before it runs and counts the dialogues and summaries that its trials cut."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from dialsum.config import RunConfig
from tune_jobs.config.result_paths import own_shared_folders
from tune_jobs.config.sweep import Sweep
from tuning_common.errors import Problems, RequestError

_UNCUT = {"encoder_max_len": 10**6, "decoder_max_len": 10**6, "generation_max_len": None, "generation_min_len": 0}
_TEXTS = ("model", "tiny_vocab_size", "train_file", "dev_file", "max_train_samples", "max_eval_samples", "columns")
_SHOWN_LENGTHS = 3


def cache_of(sweep: Sweep) -> Path:
    """Returns the folder of tokenizers and encodings, shared with the trials."""
    return own_shared_folders(Path(sweep.tracking.output_dir)).cache_dir


def find_cut_texts(configs: Iterable[RunConfig], cache_dir: Path, source: str) -> tuple[str, ...]:
    """Loads every tokenizer, looks for the weights of every model, and counts what is longer than the trials read.

    Args:
        configs: Of trials that train.
        cache_dir: Tokenizers and encodings, shared with the trials.
        source: The sweep file, for messages.

    Returns:
        A sentence for each file and model with texts that are cut.

    Raises:
        RequestError: With every model whose tokenizer or weights are absent.
    """
    groups: defaultdict[tuple[object, ...], list[RunConfig]] = defaultdict(list)
    for config in configs:
        key = tuple(getattr(config, name) for name in (*_TEXTS, "use_topic", "language", "prompt", "adapter_type"))
        groups[key].append(config)
    problems = Problems()
    found: dict[str, None] = {}

    def count(group: Sequence[RunConfig]) -> None:
        found.update(dict.fromkeys(_cut_texts(group, cache_dir)))

    for group in groups.values():
        problems.collect(partial(count, group))
    problems.raise_if_any(source)
    return tuple(found)


def cut_texts_of_plan(configs: Iterable[RunConfig], cache_dir: Path, source: str) -> tuple[str, ...]:
    """Returns find_cut_texts for a plan, which also describes sweeps whose models are not at hand."""
    try:
        return find_cut_texts(configs, cache_dir, source)
    except RequestError as error:
        return (f"dialogues that are cut are not counted: {error.problems[0] if error.problems else error.message}",)


def _cut_texts(group: Sequence[RunConfig], cache_dir: Path) -> Iterator[str]:
    from dialsum.data import load_examples
    from dialsum.encoding import encode
    from dialsum.models import check_weights
    from dialsum.tokenizers import build_tokenizer

    config = group[0].with_changes(_UNCUT)
    check_weights(config.model)
    train = load_examples(Path(config.train_file), columns=config.columns)[: config.max_train_samples]
    dev = load_examples(Path(config.dev_file), columns=config.columns)[: config.max_eval_samples]
    tokenizer = build_tokenizer(config, [text for one in train for text in (one.dialogue, *one.summaries)], cache_dir)
    shortest = min(group, key=lambda one: one.encoder_max_len)
    encode(dev[:1], tokenizer, shortest, cache_dir)  # refuses a prompt that leaves no token to the dialogue
    for file, examples in ((config.train_file, train), (config.dev_file, dev)):
        encoding = encode(examples, tokenizer, config, cache_dir)
        counts = (
            ("dialogues", encoding.sources, sorted({one.encoder_max_len for one in group})),
            ("summaries", encoding.targets, sorted({one.decoder_max_len for one in group})),
        )
        for what, texts, limits in counts:
            cut = [(sum(len(ids) > limit for ids in texts), limit) for limit in limits]
            shown = [f"{count} of {len(texts)} {what} cut at {limit} tokens" for count, limit in cut if count]
            if shown:
                yield f"{file}: {', '.join(shown[:_SHOWN_LENGTHS])} ({config.model})"
