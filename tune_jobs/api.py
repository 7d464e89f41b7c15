"""The Python interface: plan and run sweeps from a program or a notebook."""

import argparse
import html
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.machines.loopback import prefer_loopback
from tune_jobs.commands import estimate_cli, plan_cli
from tune_jobs.commands.estimate_text import as_json
from tune_jobs.config.language import use_language
from tune_jobs.config.result_paths import with_output_folder
from tune_jobs.config.sweep import Sweep
from tune_jobs.config.sweep_file import load_sweep
from tune_jobs.config.sweep_parts import folder_name
from tune_jobs.records.ledger import SweepFolder, TrialRecord
from tuning_common.errors import RequestError
from tuning_common.files import write_text
from tuning_common.strict import dump_yaml, nearest

if TYPE_CHECKING:
    import pandas

    from tune_jobs.driver.sweep_end import Outcome

SweepSource = str | Path | Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class BestTrial:
    """The winner of a sweep.

    Attributes:
        name: Its experiment's name.
        score: Its value of the sweep's metric; over several seeds the mean.
        config: Its complete run configuration.
        model_folder: Its best model, for transformers' from_pretrained.
    """

    name: str
    score: float
    config: Mapping[str, object]
    model_folder: Path


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """What a sweep ended with.

    Attributes:
        folder: Its results.
        metric: What it is compared by.
        best: Its winner; None where no trial has a score.
        trials: All trials, as in the ledger.
        interrupted: Whether it was stopped before the end, so that `run(..., resume=True)` continues.
        simulated: Whether the cards were simulated ones.
    """

    folder: Path
    metric: str
    best: BestTrial | None
    trials: tuple[TrialRecord, ...]
    interrupted: bool
    simulated: bool

    @property
    def report(self) -> Path:
        """The report, a page for a browser."""
        return SweepFolder(self.folder).report_html

    @property
    def table(self) -> "pandas.DataFrame":
        """One row for each trial: its state, its score, its values, its cost."""
        import pandas

        rows = [
            {
                "trial": one.name,
                "status": one.status,
                self.metric: one.best_metrics.get(self.metric),
                **one.sampled,
                "minutes": one.wall_s / 60,
                "gpu_seconds": one.gpu_seconds,
            }
            for one in self.trials
        ]
        return pandas.DataFrame(rows)

    def _repr_html_(self) -> str:
        """Shows the winner and the table in a notebook."""
        best = "no trial has a score"
        if self.best is not None:
            best = f"best: <b>{html.escape(self.best.name)}</b>, {html.escape(self.metric)} {self.best.score:.3f}"
        cards = " (simulated cards)" if self.simulated else ""
        return f"<p>{best}{cards}<br>{html.escape(str(self.report))}</p>{self.table.to_html()}"


@dataclass(frozen=True, kw_only=True)
class SweepPlanned:
    """A plan: what would run, where, and for how long.

    Attributes:
        text: The plan for people.
        values: The plan for programs, as `plan --format json` prints it.
    """

    text: str
    values: Mapping[str, object]

    def __str__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        """Shows the plan in a notebook."""
        return f"<pre>{html.escape(self.text)}</pre>"


def run(
    sweep: SweepSource,
    *,
    count: int | None = None,
    output: str | Path | None = None,
    resume: bool = False,
    simulate: str | None = None,
    cpu_only: bool = False,
    address: str | None = None,
    member: str | None = None,
) -> SweepResult:
    """Runs a sweep; see `python -m tune_jobs run --help`.

    In the main thread a Ctrl-C (a notebook's stop button) lets trials save, and the result is what there is.

    Args:
        sweep: A sweep file, or its content; `base_config` may then be the content of a run configuration too.
        count: Number of trials, where the sweep has none.
        output: Folder of results.
        resume: Continue an earlier run.
        simulate: Simulated cards, for example "1x24GiB"; on a machine without GPUs they are simulated anyway.
        cpu_only: No cards at all.
        address: A running Ray cluster, "IP:PORT" or "auto"; an embedded Ray where None.
        member: Whose quota is used.

    Raises:
        RequestError: When the file, the data or the cluster cannot be used, with every problem.
    """
    with _cluster(address):
        from tune_jobs.driver.phases import run_staged
        from tune_jobs.driver.run_sweep import RunOptions, run_sweep
        from tune_jobs.driver.view import LogView
        from tune_jobs.search.inputs import prepare_inputs
        from tune_jobs.search.text_lengths import cache_of, find_cut_texts

        options = RunOptions(resume=resume, simulate=simulate, cpu_only=cpu_only, command="tune_jobs.run(...)")
        folder = None if output is None else Path(output)
        read = with_output_folder(_read(sweep, count).with_member(member), folder, os.environ, Path.home())
        view = LogView(sys.stderr)
        for text in read.notes:
            view.event(f"note: {text}")
        if read.trained_model is None:
            inputs = prepare_inputs(read)
            cut_texts = find_cut_texts(inputs.of_phases(), cache_of(read), read.source)
            options = replace(options, inputs=inputs, cut_texts=cut_texts)
            for text in cut_texts:
                view.event(f"warning: {text}")
        with use_language(read.tracking.language):
            if read.phases:
                return _result(run_staged(read, options, view))
            return _result(run_sweep(read, options, view))


def plan(sweep: SweepSource, **options: object) -> SweepPlanned:
    """Plans a sweep without training; options are those of `python -m tune_jobs plan`, for example cluster="2x24GiB".

    Raises:
        RequestError: When the file or the cluster cannot be used, an option is unknown, or no trial can run.
    """
    prefer_loopback()  # it imports Ray, and an embedded sweep may follow
    chosen = _arguments("plan", plan_cli.add_arguments, [str(_file(sweep))], options)
    described = plan_cli.describe(chosen)
    if described.refused:
        raise RequestError(described.refused)
    return SweepPlanned(text=described.text, values=described.values)


def estimate(model: str, **options: object) -> dict[str, object]:
    """Predicts the GPU memory of a run, without a GPU; options are those of `python -m tune_jobs estimate`.

    Returns:
        What `estimate --format json` prints: `device_bytes`, `upper_bytes`, `gpu_share`, `terms` and more.

    Raises:
        RequestError: With everything that is wrong with the request.
    """
    chosen = _arguments("estimate", estimate_cli.add_arguments, ["--model", model], options)
    return as_json(*estimate_cli.estimated(chosen))


def _arguments(
    command: str, add: Callable[[argparse.ArgumentParser], None], given: list[str], options: Mapping[str, object]
) -> argparse.Namespace:
    """Returns a command's arguments with options by name; those that are not given have the command's defaults."""
    parser = argparse.ArgumentParser()
    add(parser)
    chosen = parser.parse_args(given)
    for name, value in options.items():
        if not hasattr(chosen, name):
            known = [one for one in vars(chosen) if one not in ("run", "format")]
            hint = nearest(name, known) or f"; known: {', '.join(known)}"
            raise RequestError(f"{command} has no option {name!r}{hint}")
        is_path = isinstance(value, str) and isinstance(getattr(chosen, name), Path)
        setattr(chosen, name, Path(str(value)) if is_path else value)
    return chosen


def _read(sweep: SweepSource, count: int | None) -> Sweep:
    return load_sweep(_file(sweep), count)


def _file(sweep: SweepSource) -> Path:
    """Returns the sweep's file; content is written below the output folder, where --resume finds it again."""
    if not isinstance(sweep, Mapping):
        return Path(sweep)
    try:
        content = json.loads(json.dumps(dict(sweep)))
    except (TypeError, ValueError) as error:
        raise RequestError(f"a sweep holds plain values only (numbers, text, lists, dicts): {error}") from None
    name = folder_name(str(content.setdefault("name", "sweep"))) or "sweep"
    tracking = content.get("tracking")
    output = tracking.get("output_dir", "outputs") if isinstance(tracking, dict) else "outputs"
    folder = Path(str(output)) / "sweeps"
    base = content.get("base_config")
    if isinstance(base, dict) and not all(isinstance(one, str) and one.endswith(".yaml") for one in base.values()):
        write_text(folder / f"{name}_base.yaml", dump_yaml(base))
        content["base_config"] = str(folder / f"{name}_base.yaml")
    write_text(folder / f"{name}.yaml", dump_yaml(content))
    return folder / f"{name}.yaml"


@contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    """Names a running cluster for a while, or keeps an embedded Ray on the loopback; Ray must be imported inside."""
    earlier = os.environ.get("RAY_ADDRESS")
    if address is not None:
        os.environ["RAY_ADDRESS"] = address
    prefer_loopback()
    try:
        yield
    finally:
        if address is not None and earlier is None:
            del os.environ["RAY_ADDRESS"]
        elif address is not None and earlier is not None:
            os.environ["RAY_ADDRESS"] = earlier


def _result(outcome: "Outcome") -> SweepResult:
    ledger, best = outcome.folder.load(), outcome.best
    winner = None
    if best is not None and outcome.score is not None:
        model = Path(best.model_folder)
        winner = BestTrial(name=best.name, score=outcome.score, config=best.as_run, model_folder=model)
    return SweepResult(
        folder=outcome.folder.path,
        metric=outcome.metric,
        best=winner,
        trials=tuple(ledger.trials),
        interrupted=outcome.interrupted,
        simulated=any(one.simulated for one in ledger.trials),
    )
