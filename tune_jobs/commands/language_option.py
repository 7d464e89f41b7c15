"""The option --language of commands that show results."""

import argparse
from pathlib import Path

from tune_jobs.config.language import LANGUAGES, Language


def add_language(parser: argparse.ArgumentParser, default: str = "en") -> None:
    """Adds the option; `default` is what its help names."""
    parser.add_argument(
        "--language", choices=LANGUAGES, help=f"of what is shown: English or Korean; default: {default}"
    )


def language_for(chosen: Language | None, folder: Path) -> Language:
    """Returns the chosen language, else that of a sweep's folder."""
    from tune_jobs.records.ledger import SweepFolder

    if chosen is not None:
        return chosen
    sweep = SweepFolder(folder).load().sweep
    return "en" if sweep is None else sweep.language
