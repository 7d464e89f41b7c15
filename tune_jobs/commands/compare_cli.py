"""python -m tune_jobs compare: compares experiments and tests whether their difference is significant."""

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from tune_jobs.commands.language_option import add_language
from tune_jobs.config.language import tr, use_language
from tuning_common import cli

if TYPE_CHECKING:
    from tune_jobs.analysis.comparison import Comparison

_SHOWN = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description = (
        "Compares experiments with the first of them: ROUGE, settings that differ, paired bootstrap over"
        " the same dialogues, summaries side by side; in the terminal and as one HTML page."
    )
    parser.epilog = "example: python -m tune_jobs compare outputs/sweep_results/sample 4 2"
    parser.add_argument(
        "names",
        nargs="+",
        metavar="FOLDER|TRIAL",
        help="outputs/experiments/NAME; or outputs/sweep_results/NAME with trials of it (none: its two best)",
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="the page; OUTPUT/comparisons/A_B.html if absent")
    parser.add_argument("--rescore", action="store_true", help="score all summaries again with the installed scorer")
    parser.add_argument("--examples", type=int, default=_SHOWN, metavar="N", help="dialogues to show; 3 if absent")
    add_language(parser)
    cli.add_format(parser)
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Compares, writes the page, and prints.

    Raises:
        RequestError: When a name is unknown, or scores cannot be compared.
    """
    with use_language(chosen.language or "en"):
        return _compare(chosen)


def _compare(chosen: argparse.Namespace) -> int:
    from tune_jobs.analysis.comparison import compare
    from tune_jobs.analysis.experiments import find_experiments, output_of
    from tune_jobs.report.compare_page import build_compare_page
    from tuning_common.files import write_text

    experiments = find_experiments(chosen.names)
    comparison = compare(experiments, rescore=chosen.rescore)
    page = chosen.html or page_for(output_of(experiments[0]), [side.name for side in comparison.sides])
    write_text(page, build_compare_page(comparison))
    cli.answer(chosen.format, _summary(comparison, page, chosen.examples), _text(comparison, page, chosen.examples))
    return 0


def page_for(output: Path, names: list[str]) -> Path:
    """Returns the default path of a comparison's page.

    >>> page_for(Path("outputs"), ["a", "b", "c"]).as_posix()
    'outputs/comparisons/a_b_and_1_more.html'
    """
    more = f"_and_{len(names) - 2}_more" if len(names) > 2 else ""
    shown = "_".join(re.sub(r"[^\w.-]", "_", name)[:80] for name in names[:2])
    return output / "comparisons" / f"{shown}{more}.html"


def _text(comparison: "Comparison", page: Path, examples: int) -> str:
    from tune_jobs.analysis.comparison import COMBINED, largest_differences
    from tune_jobs.report.compare_page import difference_rows, headline, notes, score_rows, setting_rows

    width = cli.terminal_columns()
    expendable = (9, 8, 3, 2, 1)  # the time, evaluations, ROUGE-L, -2, -1
    parts = [headline(comparison), cli.narrow_table(*score_rows(comparison), width, expendable)]
    if comparison.summaries:
        parts.append(cli.table(*difference_rows(comparison)))
    header, rows = setting_rows(comparison)
    parts.append(cli.table(header, rows) if rows else tr("No setting differs."))
    for one in largest_differences(comparison, examples) if examples > 0 else ():
        lines = [f"{one.fname}", *(f"  {tr('people')}  {text}" for text in one.references)]
        lines += [
            f"  {side.letter} {scores[COMBINED]:5.1f} {text or tr('(nothing)')}"
            for side, text, scores in zip(comparison.sides, one.predictions, one.scores, strict=True)
        ]
        parts.append("\n".join(cli.shortened(line, 2 * width) for line in lines))  # the page has all of a long one
    return "\n\n".join([*parts, "\n".join(notes(comparison)), str(page)])


def _summary(comparison: "Comparison", page: Path, examples: int) -> dict[str, object]:
    from dataclasses import asdict

    from tune_jobs.analysis.comparison import largest_differences

    return {
        "experiments": [
            {
                "letter": side.letter,
                "name": side.name,
                "folder": str(side.experiment.folder),
                "scores": dict(side.scores),
                "differences": {name: asdict(gap) for name, gap in side.differences.items()},
                "certainty": None if side is comparison.sides[0] else side.certainty,
                "evaluations": len(side.numbers.history),
            }
            for side in comparison.sides
        ],
        "best": comparison.best.name,
        "dialogues": len(comparison.summaries),
        "settings": {name: list(values) for name, values in comparison.settings},
        "noise": asdict(comparison.noise),
        "scorer": dict(comparison.scorer),
        "remarks": list(comparison.remarks),
        "examples": [asdict(one) for one in largest_differences(comparison, max(examples, 0))],
        "html": str(page),
    }
