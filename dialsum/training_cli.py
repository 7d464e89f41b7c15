"""The commands train, evaluate and generate of `python -m dialsum`."""

import argparse
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from dialsum.aliases import other_names
from dialsum.config import FIELD_DESCRIPTIONS, RunConfig, read_run_config
from dialsum.reporter import NullReporter
from tuning_common import cli
from tuning_common.errors import Problems, RequestError
from tuning_common.faults import describe
from tuning_common.files import write_text
from tuning_common.schemas import json_schema
from tuning_common.strict import dump_yaml, parse_yaml
from tuning_common.units import counted

CACHE_DIR = Path(".cache/dialsum")


def add_parsers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the commands to `python -m dialsum`."""
    _add_train(commands)
    _add_evaluate(commands)
    _add_generate(commands)


def _add_train(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "train",
        help="train one summarizer",
        description="Trains one summarizer and keeps its best model; on several GPUs under torchrun, which share each"
        " batch:\n  torchrun --nproc-per-node 2 -m dialsum train ...",
        epilog="example: python -m dialsum train --config configs/tiny.yaml --output outputs/one_run\n\n" + _fields(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, required=True, help="a run configuration, for example configs/tiny.yaml")
    parser.add_argument("--output", type=Path, required=True, help="folder for the model and the numbers")
    earlier = parser.add_mutually_exclusive_group()
    earlier.add_argument("--resume", action="store_true", help="go on from the last checkpoint in the output folder")
    earlier.add_argument("--overwrite", action="store_true", help="replace a run that is in the output folder already")
    _add_common(parser)
    parser.set_defaults(run=_train)


def _fields() -> str:
    """Lists the fields of a configuration: default, meaning, what is allowed, names in other trainers."""
    lines = ["fields of a configuration, with their defaults (names of other trainers are read too):"]
    schema = json_schema(RunConfig)
    for name, field in schema["properties"].items():
        default = "null" if field["default"] is None else dump_yaml([field["default"]], flow=True).strip()[1:-1]
        others = ", ".join(other_names(name))
        also = f" Also: {others}." if others else ""
        lines.append(f"  {name + ': ' + default:41} {FIELD_DESCRIPTIONS[name]} ({describe(field, schema)}){also}")
    return "\n".join(lines)


def _train(chosen: argparse.Namespace) -> int:
    config, notes = read_run_config(chosen.config, _changes(chosen.set))
    for text in notes:
        cli.note(f"note: {text}")
    start = _last_checkpoint(chosen.output) if chosen.resume else None
    if not chosen.resume and not chosen.overwrite and any(chosen.output.glob("models/*")):
        raise RequestError(
            f"{chosen.output} holds a run already", ["give another --output, or --overwrite, or --resume to go on"]
        )
    _check_quickly(config)
    from dialsum.trainer import train

    is_first = os.environ.get("RANK", "0") == "0"  # one of the processes under torchrun
    reporter = _Progress() if chosen.format == "text" and is_first else None
    result = train(config, chosen.output, reporter=reporter, resume_from=start, cache_dir=CACHE_DIR)
    if not is_first:
        return 0
    numbers = {**result.metrics, **result.best_metrics, **result.test_metrics}
    cli.answer(
        chosen.format,
        {"metrics": numbers, "best_model_dir": str(result.best_model_dir)},
        f"best: {_scores(result.best_metrics, 'best/')}\nmodel: {result.best_model_dir}",
    )
    return 0


def _check_quickly(config: RunConfig) -> None:
    """Refuses an unknown model or a faulty file before the slow import of torch and transformers."""
    from dialsum.data import load_examples
    from dialsum.models import SPECS, resolve

    problems = Problems()
    if config.model not in SPECS and "/" not in config.model:
        problems.collect(partial(resolve, config.model))
    for name in (config.train_file, config.dev_file):
        problems.collect(partial(load_examples, Path(name), columns=config.columns))
    if config.test_file:
        path = Path(config.test_file)
        problems.collect(partial(load_examples, path, require_summary=False, columns=config.columns))
    problems.raise_if_any("nothing was trained")


class _Progress(NullReporter):
    """Prints one line per evaluation."""

    def report(self, metrics: Mapping[str, float], checkpoint: Path | None) -> None:
        """Prints the evaluation."""
        cli.emit(f"epoch {metrics['train/epoch']:5.2f}   loss {metrics['eval/loss']:.3f}   {_scores(metrics, 'eval/')}")


def _add_evaluate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "evaluate",
        help="score a finished run's best model on a data file",
        epilog="example: python -m dialsum evaluate --run outputs/one_run --data dev.jsonl --set num_beams=4",
    )
    parser.add_argument("--run", dest="folder", type=Path, required=True, help="folder of a finished run")
    parser.add_argument("--data", type=Path, required=True, help="dialogues with summaries")
    _add_common(parser)
    parser.set_defaults(run=_evaluate)


def _evaluate(chosen: argparse.Namespace) -> int:
    from dialsum.data import load_examples

    examples = load_examples(chosen.data, columns=_columns(chosen))
    from dialsum.finished import load_finished, predict, score

    run = load_finished(chosen.folder, CACHE_DIR, _changes(chosen.set))
    scores = score(run, examples, predict(run, examples))
    numbers = scores.to_dict(run.config.rouge_weights, run.config.summary_length_floor_chars)
    rows = [[name, round(value, 2)] for name, value in numbers.items() if isinstance(value, float) and "f1" in name]
    cli.answer(chosen.format, numbers, cli.table(["score", "value"], rows))
    return 0


def _add_generate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "generate",
        help="summarize dialogues with a finished run's best model",
        epilog="example: python -m dialsum generate --run outputs/one_run --data test.csv --output submission.csv",
    )
    parser.add_argument("--run", dest="folder", type=Path, required=True, help="folder of a finished run")
    parser.add_argument("--data", type=Path, required=True, help="dialogues, with summaries or without")
    parser.add_argument("--output", type=Path, required=True, help="FILE.jsonl, or FILE.csv for a submission")
    _add_common(parser)
    parser.set_defaults(run=_generate)


def _generate(chosen: argparse.Namespace) -> int:
    if chosen.output.suffix not in (".jsonl", ".csv"):
        raise RequestError(f"--output {chosen.output} must end in .jsonl or .csv")
    from dialsum.data import load_examples

    examples = load_examples(chosen.data, require_summary=False, columns=_columns(chosen))
    from dialsum.finished import load_finished, predict, submission
    from dialsum.run_folder import write_predictions

    run = load_finished(chosen.folder, CACHE_DIR, _changes(chosen.set))
    texts = predict(run, examples)
    if chosen.output.suffix == ".jsonl":
        write_predictions(chosen.output, examples, texts)
    else:
        write_text(chosen.output, submission([example.fname for example in examples], texts))
    summary = {"output": str(chosen.output), "count": len(texts)}
    cli.answer(chosen.format, summary, f"{counted(len(texts), 'summary', 'summaries')}: {chosen.output}")
    return 0


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="replace one value of the configuration; repeatable",
    )
    cli.add_format(parser)


def _columns(chosen: argparse.Namespace) -> tuple[str, ...]:
    """Returns the names of columns that the run was given; none where there is no run, which is refused later."""
    path = chosen.folder / "config.yaml"
    return read_run_config(path, _changes(chosen.set))[0].columns if path.exists() else ()


def _changes(settings: Sequence[str]) -> dict[str, object]:
    """Parses KEY=VALUE settings; values are YAML."""
    wrong = [setting for setting in settings if "=" not in setting]
    if wrong:
        raise RequestError("--set takes KEY=VALUE", [f"{setting!r} has no '='" for setting in wrong])
    return {key: parse_yaml(value, f"--set {key}").data for key, value in (text.split("=", 1) for text in settings)}


def _last_checkpoint(output: Path) -> Path:
    found = sorted(output.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    if not found:
        raise RequestError(
            f"--resume: there is no checkpoint in {output}; leave --resume out to start from the beginning"
        )
    return found[-1]


def _scores(metrics: Mapping[str, float], prefix: str) -> str:
    names = (("combined", "rouge_combined_f1"), ("R1", "rouge1_f1"), ("R2", "rouge2_f1"), ("RL", "rougeL_f1"))
    return "   ".join(f"{label} {metrics[prefix + name]:.2f}" for label, name in names)
