"""Summarizes and scores the dev dialogues with a trained model and other generation settings, without training."""

import logging
import time
from pathlib import Path

from dialsum.callbacks import memory_metrics
from dialsum.config import RunConfig
from dialsum.data import load_examples
from dialsum.finished import load_finished, predict, score_metrics
from dialsum.metrics import RougeScorer
from dialsum.reporter import NullReporter, Reporter
from dialsum.run_folder import RunFolder, write_predictions
from tuning_common.files import write_text
from tuning_common.strict import dump_yaml

logger = logging.getLogger(__name__)


def rescore(
    config: RunConfig,
    output_dir: Path,
    *,
    trained: Path,
    cache_dir: Path,
    reporter: Reporter | None = None,
) -> dict[str, float]:
    """Writes and scores the summaries of the dev dialogues with a finished run's best model.

    Args:
        config: The finished run's configuration, with the generation settings to test.
        output_dir: Receives config.yaml, metrics.json, predictions.jsonl and training.log.
        trained: The finished run.
        cache_dir: Folder of encodings.
        reporter: Receives the one evaluation, without a checkpoint.

    Returns:
        eval/* as in a training (without the loss, which generation does not change), best/*, time/generation_s and
        memory/*.

    Raises:
        RequestError: When the run is not finished, or the dialogues cannot be read.
    """
    folder = RunFolder(output_dir)
    with folder.log():
        examples = load_examples(Path(config.dev_file), columns=config.columns)[: config.max_eval_samples]
        write_text(output_dir / "config.yaml", dump_yaml(config.to_dict()))
        run = load_finished(trained, cache_dir, {k: v for k, v in config.to_dict().items() if k != "model"})
        begun = time.perf_counter()
        texts = predict(run, examples)
        spent_s = time.perf_counter() - begun
        scorer = RougeScorer(config.language)
        scores = score_metrics(scorer.score(texts, [example.summaries for example in examples]), config)
        row = {f"eval/{name}": value for name, value in scores.items()}
        row |= {"time/generation_s": spent_s} | memory_metrics()
        logger.info("%d summaries in %.1f s: %s", len(texts), spent_s, {k: round(v, 4) for k, v in scores.items()})
        write_predictions(output_dir / "predictions.jsonl", examples, texts)
        folder.write_metrics([row], scorer.identity)
        numbers = row | {f"best/{name}": value for name, value in scores.items()}
        (reporter or NullReporter()).report(numbers, None)
    return numbers
