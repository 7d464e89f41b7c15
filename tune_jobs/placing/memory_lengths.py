"""The lengths of a run's training data in tokens, for estimates of batches as they come. Loads the run's tokenizer."""

from pathlib import Path

from dialsum.config import RunConfig

CACHE = Path(".cache/dialsum")


def lengths_of(config: RunConfig) -> tuple[tuple[int, int], ...]:
    """Counts the tokens of each dialogue and its summary, cut as the trainer cuts them.

    Args:
        config: Gives the data, the tokenizer and the longest lengths.

    Raises:
        RequestError: When the file or the tokenizer cannot be used.
    """
    from dialsum.data import load_examples
    from dialsum.encoding import encode
    from dialsum.tokenizers import build_tokenizer

    examples = load_examples(Path(config.train_file), columns=config.columns)[: config.max_train_samples]
    texts = [text for example in examples for text in (example.dialogue, *example.summaries)]
    encoding = encode(examples, build_tokenizer(config, texts, CACHE), config, CACHE)
    return tuple((len(source), len(target)) for source, target in zip(encoding.sources, encoding.targets, strict=True))
