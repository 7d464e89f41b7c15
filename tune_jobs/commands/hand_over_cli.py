"""python -m tune_jobs hand-over: puts a model with its card and its summaries into one folder."""

import argparse
import os
from dataclasses import asdict
from pathlib import Path

from tuning_common import cli
from tuning_common.errors import RequestError
from tuning_common.units import counted, format_bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description = (
        "Copies the best model of an experiment, or of a sweep's winner, into a folder that transformers"
        " loads without this project, with a model card, predictions.jsonl and a submission CSV."
    )
    parser.epilog = "example: python -m tune_jobs hand-over outputs/sweep_results/sample --data test.csv"
    parser.add_argument("names", nargs="+", metavar="FOLDER [TRIAL]", help="an experiment; or a sweep and its trial")
    parser.add_argument("--data", type=Path, help="dialogues for submission.csv; the run's own test file if absent")
    parser.add_argument("--output", type=Path, help="a folder; OUTPUT/hand_over/NAME if absent")
    parser.add_argument(
        "--push", metavar="REPO", help="upload the model with its card to the Hugging Face hub: OWNER/NAME"
    )
    parser.add_argument("--public", action="store_true", help="with --push: everybody may see it; private otherwise")
    parser.add_argument(
        "--merge", action="store_true", help="merge an adapter into its base: one model that needs no other"
    )
    cli.add_format(parser)
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Hands the model over and prints its paths.

    Raises:
        RequestError: When the arguments name no experiment with a model, the output folder is not empty, or the hub
            cannot be used.
        WorkError: When the upload fails.
    """
    from tune_jobs.after.hand_over import hand_over
    from tune_jobs.after.push import files_of, hub_of, push
    from tune_jobs.analysis.experiments import find_winner_or_one, output_of
    from tune_jobs.config.result_paths import shared_folders_of

    if chosen.public and chosen.push is None:
        raise RequestError("--public is for --push REPO; add that, or leave it out")
    hub = hub_of(chosen.push) if chosen.push is not None else None  # refuses before anything is written
    experiment = find_winner_or_one(chosen.names)
    output = chosen.output or output_of(experiment) / "hand_over" / experiment.name
    cache_dir = shared_folders_of(experiment.folder.parent.parent, os.environ, Path.home()).cache_dir
    done = hand_over(experiment, output, chosen.data, cache_dir, merge=chosen.merge)
    pushed = None
    if hub is not None:
        cli.note(f"uploads to {hub.endpoint}, {chosen.push}:")
        for name, size_bytes in files_of(done.model).items():
            cli.note(f"  {name}  {format_bytes(size_bytes)}")
        pushed = push(hub, done.model, chosen.push, public=chosen.public)
    if chosen.format == "json":
        cli.emit_json(
            {
                "experiment": str(experiment.folder),
                "folder": str(done.folder),
                "model": str(done.model),
                "card": str(done.folder / "README.md"),
                "predictions": None if done.predictions is None else str(done.predictions),
                "submission": None if done.submission is None else str(done.submission),
                "summaries": done.summaries,
                "pushed": None if pushed is None else {**asdict(pushed), "files": files_of(done.model)},
            }
        )
        return 0
    cli.emit(f"model:       {done.model}\ncard:        {done.folder / 'README.md'}")
    if done.predictions is not None:
        cli.emit(f"predictions: {done.predictions}")
    if done.submission is not None:
        cli.emit(f"submission:  {done.submission} ({counted(done.summaries, 'summary', 'summaries')})")
    else:
        cli.note("no submission.csv: the run had no test_file; --data FILE writes one")
    if pushed is not None:
        cli.emit(f"hub:         {pushed.url} ({'private' if pushed.private else 'public'})")
    return 0
