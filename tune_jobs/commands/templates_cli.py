"""python -m tune_jobs templates: lists the shipped memory templates, checks them against new traces, or makes them."""

import argparse
from importlib.metadata import version
from pathlib import Path

from cluster.estimator.template_archive import archived_parts
from cluster.estimator.template_keys import installed_version
from cluster.estimator.template_store import SHIPPED
from tune_jobs.placing.template_shipping import SHIPPED_MODELS, check_archive, find_archive, make_archive
from tuning_common import cli
from tuning_common.errors import Problems, RequestError
from tuning_common.strict import nearest
from tuning_common.units import counted, format_bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description = (
        "Estimates of the named models are answered from templates that are shipped for one version of"
        " torch and transformers. --check traces them again and lists the differences; --make writes"
        " new ones, which takes some minutes for each model."
    )
    parser.epilog = "example: python -m tune_jobs templates --check --every 10 kobart kogpt2"
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(SHIPPED_MODELS)}; all when none")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="trace again and compare; exit code 1 if it differs")
    what.add_argument("--make", action="store_true", help="trace and write")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="check each N-th part only")
    parser.add_argument("--folder", type=Path, default=SHIPPED, metavar="FOLDER", help="folder of the archives")
    cli.add_format(parser)
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Lists, checks or makes templates.

    Raises:
        RequestError: When a model is not shipped.
        WorkError: When a trace fails.
    """
    names = _names(chosen)
    if chosen.make:
        for name in names:
            path = make_archive(name, folder=chosen.folder, note=cli.note)
            cli.note(f"{path}: {format_bytes(path.stat().st_size)}")
    if chosen.check:
        return _check(chosen, names)
    _list(chosen, names)
    return 0


def _names(chosen: argparse.Namespace) -> list[str]:
    problems = Problems()
    for name in chosen.models:
        if name not in SHIPPED_MODELS:
            known = nearest(name, list(SHIPPED_MODELS)) or f"; shipped are {', '.join(SHIPPED_MODELS)}"
            problems.add(f"{name!r} is not shipped{known}")
    if chosen.every < 1:
        problems.add(f"--every must be at least 1, but is {chosen.every}")
    problems.raise_if_any("templates")
    return chosen.models or list(SHIPPED_MODELS)


def _check(chosen: argparse.Namespace, names: list[str]) -> int:
    found: dict[str, list[str]] = {}
    for name in names:
        path = find_archive(name, chosen.folder)
        if path is None:
            raise RequestError(f"no archive of {name} in {chosen.folder}", [f"make it: templates --make {name}"])
        found[name] = check_archive(path, name, every=chosen.every, note=cli.note)
    lines = [
        line
        for name, texts in found.items()
        for line in (f"{name}: {counted(len(texts), 'difference')}", *(f"  {text}" for text in texts))
    ]
    values = {"torch": version("torch"), "transformers": version("transformers"), "differences": found}
    cli.answer(chosen.format, values, "\n".join(lines))
    return 1 if any(found.values()) else 0


def _list(chosen: argparse.Namespace, names: list[str]) -> None:
    here = (installed_version("torch"), installed_version("transformers"))
    rows = []
    for name in names:
        path = find_archive(name, chosen.folder)
        parts = archived_parts(path) if path is not None else []
        made_with = sorted({(part.key.torch, part.key.transformers) for part in parts})
        rows.append(
            {
                "model": name,
                "parts": len(parts),
                "size_bytes": path.stat().st_size if path is not None else 0,
                "parameters": parts[0].model_parameters if parts else 0,
                "made_with": [f"torch {torch}, transformers {library}" for torch, library in made_with],
                "used_here": made_with == [here],
            }
        )
    if chosen.format == "json":
        cli.emit_json(rows)
        return
    header = ("model", "parameters", "parts", "size", "made with", "used here")
    lines = [
        (
            row["model"], f"{row['parameters']:,}", row["parts"], format_bytes(int(str(row["size_bytes"]))),
            "; ".join(map(str, row["made_with"] if isinstance(row["made_with"], list) else [])),
            "yes" if row["used_here"] else "no: traced where asked for",
        )
        for row in rows
    ]  # fmt: skip
    cli.emit(cli.table(header, lines))
