"""python -m tune_jobs import: writes our files from those of other trainers."""

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from tuning_common import cli
from tuning_common.errors import Problems, RequestError
from tuning_common.files import write_text

if TYPE_CHECKING:
    from tune_jobs.config.sections import Tracking


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description = (
        "Translates a run configuration (Hugging Face's arguments, flat or in sections) and a W&B sweep for"
        " it, with a comment for each translation. The files of other trainers also run as they are."
    )
    parser.epilog = "example: python -m tune_jobs import config.yaml wandb_sweep.yaml --output imported"
    parser.add_argument("config", type=Path, metavar="CONFIG", help="a run configuration")
    parser.add_argument("sweep", type=Path, nargs="?", metavar="SWEEP", help="a sweep over it")
    parser.add_argument("--count", type=int, metavar="N", help="how many trials, where the sweep has none")
    parser.add_argument("--output", type=Path, default=Path("imported"), metavar="DIR", help="folder of the new files")
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Writes the files and prints their names.

    Raises:
        RequestError: When a file cannot be translated, with every problem, or a new file is there already.
    """
    from dialsum.config import FIELD_DESCRIPTIONS, read_run_config
    from dialsum.translation import as_file, translate
    from tuning_common.strict import load_yaml

    read_run_config(chosen.config)  # refuses what is wrong
    found = translate(load_yaml(chosen.config), tuple(FIELD_DESCRIPTIONS))
    target: Path = chosen.output / f"{chosen.config.stem}.yaml"
    texts = {target: as_file(found, str(chosen.config))}
    if chosen.sweep is not None:
        name = chosen.sweep.stem if chosen.sweep.stem != chosen.config.stem else f"{chosen.sweep.stem}_sweep"
        texts[chosen.output / f"{name}.yaml"] = _sweep_text(chosen, target)
    there = [str(path) for path in texts if path.exists()]
    if there:
        raise RequestError(f"{', '.join(there)} is there already; give another --output, or remove it")
    for path, text in texts.items():
        write_text(path, text)
        cli.emit(str(path))
    return 0


def _sweep_text(chosen: argparse.Namespace, config: Path) -> str:
    from tune_jobs.config.parameter_entries import read_entries
    from tune_jobs.config.sweep_file import load_sweep, top_parameters
    from tune_jobs.config.sweep_writer import sweep_text
    from tuning_common.strict import load_yaml

    sweep = load_sweep(chosen.sweep, chosen.count)
    document = load_yaml(chosen.sweep)
    if "phases" in document.mapping():
        raise RequestError(f"{chosen.sweep}: a file with phases has our names already")
    entries = read_entries(document, top_parameters(document.mapping()), Problems())
    reasons = {}
    for entry in entries.entries:
        theirs = ".".join(str(part) for part in entry.path if part != "parameters")
        if theirs != entry.name:
            reasons[entry.name] = theirs
    plain = dataclasses.replace(
        sweep,
        phases=(),
        base_files=dict(sweep.base_files) or {"": str(config)},
        tracking=_tracking(sweep.tracking, chosen.config),
    )
    head = [f"Translated from {chosen.sweep}.", *(text for text in sweep.notes if "read as ours" not in text)]
    return sweep_text(plain, head=head, reasons=reasons)


def _tracking(tracking: "Tracking", config: Path) -> "Tracking":
    """Returns the section with the configuration's project and entity, where the sweep names none."""
    from dialsum.translation import flatten
    from tuning_common.strict import load_yaml

    named = {setting.name: setting.value for setting in flatten(load_yaml(config).mapping())}
    project, entity = named.get("wandb.project"), named.get("wandb.entity")
    is_default = tracking.project == type(tracking)().project
    return dataclasses.replace(
        tracking,
        project=project if is_default and isinstance(project, str) and project else tracking.project,
        entity=entity if isinstance(entity, str) and entity and tracking.entity is None else tracking.entity,
    )
