"""python -m dialsum rouge: scores a file of summaries against one or several files of references."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

from common import cli
from common.errors import Problems, RequestError

_TEXT_KEYS = ("prediction", "summary", "reference", "text")  # where a JSON line keeps its text, in this order


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to `python -m dialsum`."""
    parser = commands.add_parser(
        "rouge",
        help="score summaries against references",
        description="ROUGE F1, 0 to 100: Kiwi morphemes for Korean, Porter stems for English; references are averaged.",
        epilog="example: python -m dialsum rouge --predictions p.txt --references r1.txt --language ko",
    )
    parser.add_argument("--predictions", type=Path, required=True, help="one text a line, or JSON lines")
    parser.add_argument(
        "--references",
        type=Path,
        required=True,
        action="append",
        help="one line a prediction; repeatable",
    )
    parser.add_argument("--language", choices=("ko", "en"), required=True)
    parser.add_argument("--format", choices=("text", "json"), default="text", help="for a person or for a program")
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Scores and prints.

    Raises:
        RequestError: When a file cannot be read or the files differ in length.
    """
    predictions = read_texts(chosen.predictions)
    references = [read_texts(path) for path in chosen.references]
    problems = Problems()
    for path, texts in zip(chosen.references, references, strict=True):
        if len(texts) != len(predictions):
            problems.add(
                f"{path} has {len(texts)} texts, {chosen.predictions} has {len(predictions)}; each needs its pair"
            )
    problems.raise_if_any("rouge")
    from dialsum.metrics import RougeScorer

    scores = RougeScorer(chosen.language).score(predictions, [list(group) for group in zip(*references, strict=True)])
    numbers = scores.to_dict()
    if chosen.format == "json":
        cli.emit_json(numbers)
    else:
        rows = [[name, f"{value:.2f}"] for name, value in numbers.items() if isinstance(value, float) and "f1" in name]
        cli.emit(cli.table(["score", "value"], rows) + f"\n{scores.count} summaries")
    return 0


def read_texts(path: Path) -> list[str]:
    """Reads one text a line; a line that is a JSON object gives its prediction, summary, reference or text.

    Args:
        path: UTF-8 text. A blank line is an empty summary, except at the end of the file.

    Raises:
        RequestError: When the file is absent, no UTF-8, empty, or mixes JSON lines with others.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise RequestError(f"{path}: no such file (working folder: {Path.cwd()})") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: cannot be read: {error}") from None
    if not lines:
        raise RequestError(f"{path}: is empty; write one text a line")
    if not lines[0].lstrip().startswith("{"):
        return lines
    problems = Problems()
    texts = [_json_text(line, f"{path}:{number}", problems) for number, line in enumerate(lines, start=1)]
    problems.raise_if_any(str(path))
    return texts


def _json_text(line: str, where: str, problems: Problems) -> str:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        problems.add(f"{where}: not a JSON object: {error.msg}")
        return ""
    found = [record[key] for key in _TEXT_KEYS if key in record] if isinstance(record, Mapping) else []
    if not found or not isinstance(found[0], str):
        problems.add(f"{where}: holds no text under {', '.join(_TEXT_KEYS)}")
        return ""
    return found[0]
