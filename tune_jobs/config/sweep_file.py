"""Reads a sweep file in W&B's dialect with our own sections; reports all problems at once, with file and line."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from dialsum.config import COMPOSITE, RunConfig
from tune_jobs.config.anomalies import Anomalies
from tune_jobs.config.base_configs import base_files, read_bases, with_micro_batches
from tune_jobs.config.early_terminate import EarlyTerminate
from tune_jobs.config.early_terminate_file import read_early_terminate
from tune_jobs.config.file_keys import SweepFile
from tune_jobs.config.metric_file import metric_note, read_metric, with_weights
from tune_jobs.config.parameter_entries import is_parameter, read_entries
from tune_jobs.config.phase_file import read_phases
from tune_jobs.config.points import check_points
from tune_jobs.config.rules import Rules
from tune_jobs.config.sections import (
    READ_BY,
    Resources,
    SearchOptions,
    TeamSection,
    Tracking,
)
from tune_jobs.config.space_file import read_space
from tune_jobs.config.staging import DECODING_FIELDS, staged_by_need
from tune_jobs.config.sweep import Sweep
from tune_jobs.config.sweep_parts import (
    check_end,
    folder_name,
    name_problems,
    read_method,
    read_section,
)
from tuning_common.errors import Problems
from tuning_common.files import packaged
from tuning_common.strict import Located, load_yaml, nearest

_KEYS = tuple(SweepFile.__annotations__)
_REFUSED = MappingProxyType(  # keys of W&B that are refused, and why
    {
        "controller": "trials are chosen by this program, not by W&B's server or its local controller",
        "job": "W&B Launch is not used; `python -m tune_jobs submit` sends a sweep to the cluster",
        "image_uri": "trials run in the cluster's own environment (ray_cluster.yaml), not in an image",
        "scheduler": "trials are chosen by `method` (bayes is Optuna's TPE) and placed by `resources`",
        "metrics": "one metric decides; eval/rouge_combined_f1 already weighs ROUGE-1, ROUGE-2 and ROUGE-L",
        "apiVersion": "the keys of the file are its version",
        "kind": "every file here is a sweep",
    }
)
# Fields that may change during a training: a checkpoint fixes the model's shape and counts its steps in batches.
_CHANGED_BY_PBT = (
    "learning_rate", "weight_decay", "dropout", "label_smoothing", "max_grad_norm", "num_beams", "length_penalty",
    "no_repeat_ngram_size", "repetition_penalty",
)  # fmt: skip
_SHAPE_FIELDS = ("model", "tiny_hidden_size", "tiny_layers", "tiny_vocab_size")
GENERATION_FIELDS = (*DECODING_FIELDS, "generation_batch_size", "max_eval_samples", "dev_file")
_COMMAND_MACROS = (  # of wandb 0.31, sdk/launch/sweeps/utils.py, and names of interpreters
    "${env}", "${interpreter}", "${program}", "${args}", "${args_no_hyphens}", "${args_no_boolean_flags}",
    "${args_no_equals}", "${args_json}", "${args_json_file}", "${args_append_hydra}", "${args_override_hydra}",
    "/usr/bin/env", "python", "python3",
)  # fmt: skip


def load_sweep(path: Path, count: int | None = None) -> Sweep:
    """Reads a sweep file with its base configurations and the files of its phases.

    Args:
        path: The file; a ready one where the working folder has none of this name.
        count: Number of trials where the file has none, as `wandb agent --count` gives it.

    Raises:
        RequestError: With every problem of all files, each with file, line and remedy.
    """
    return read_sweep(load_yaml(packaged(path)), load_sweep, count)


def kept_text(sweep: Sweep) -> bytes:
    """Returns the file of a sweep for its results, with the count from the command line."""
    text = Path(sweep.source).read_bytes()
    if sweep.given_count is None:
        return text
    line = f"count: {sweep.given_count}"
    if text.lstrip().startswith(b"{"):
        head, _, tail = text.rpartition(b"}")
        return head + f", {line}}}".encode() + tail
    return text.rstrip(b"\n") + f"\n{line}  # --count\n".encode()


def read_sweep(document: Located, load: Callable[[Path], Sweep], count: int | None = None) -> Sweep:
    """Converts a document to a sweep.

    Args:
        document: The sweep file.
        load: Reads the sweep file of a phase.
        count: Number of trials where the file has none.

    Raises:
        RequestError: With every problem, in the order of the lines.
    """
    problems = Problems()
    raw = document.mapping()
    staged = "phases" in raw
    top = top_parameters(raw)
    _check_keys(raw, top, document, problems)
    entries = read_entries(document, top, problems)
    document = entries.located(document)
    metric, weights = read_metric(raw, document, problems)
    space = with_weights(read_space(entries), weights)
    given = None if staged or "count" in raw or "run_cap" in raw else count
    named = read_method(raw.get("method", "random" if staged else None), ("method",), document, problems)
    method = named or "random"
    notes = [*_notes(raw, document, problems), *entries.notes, *metric_note(raw, metric, weights, document)]
    bases = read_bases(raw.get("base_config"), space, document, problems, notes)
    sweep = Sweep(
        name=_name(raw, document, problems),
        source=document.source,
        description=_text(raw, "description", document, problems) or "",
        method=method,
        metric=metric,
        space=space,
        count=_count(raw, document, problems) or given,
        given_count=given,
        early_terminate=read_early_terminate(
            raw.get("early_terminate"), ("early_terminate",), method, document, problems
        ),
        base=bases.get("", RunConfig()),
        base_by_model={model: base for model, base in bases.items() if model},
        base_files=base_files(raw.get("base_config")),
        trained_model=_text(raw, "trained_model", document, problems),
        search=read_section(SearchOptions, "search", document, problems),
        resources=read_section(Resources, "resources", document, problems),
        tracking=_tracking(raw, document, problems),
        rules=with_micro_batches(read_section(Rules, "rules", document, problems), entries, space, bases),
        anomalies=read_section(Anomalies, "anomalies", document, problems),
        team=read_section(TeamSection, "team", document, problems),
        notes=tuple(notes),
    )
    if staged:
        sweep = dataclasses.replace(sweep, phases=read_phases(sweep, document, problems, load))
    elif named is not None:
        check_end(sweep, ("method",), document, problems)
    check_points(sweep, document, problems)
    _check_methods(sweep, raw, document, problems)
    if sweep.trained_model is not None:
        sweep = dataclasses.replace(sweep, early_terminate=EarlyTerminate(type="none"))
        _check_generation(sweep, raw, document, problems)
    Problems().extend(sorted(problems.texts, key=_line_of)).raise_if_any(document.source)
    return staged_by_need(sweep)


def top_parameters(raw: Mapping[str, object]) -> tuple[str, ...]:
    """Returns the keys at the top of a sweep file that are parameters or sections of parameters.

    >>> top_parameters({"method": "grid", "learning_rate": [1e-5], "training": {"fp16": True}})
    ('learning_rate', 'training')
    """
    return tuple(key for key, value in raw.items() if key not in (*_KEYS, *_REFUSED) and is_parameter(key, value))


def _check_keys(raw: Mapping[str, object], top: tuple[str, ...], document: Located, problems: Problems) -> None:
    for key in [key for key in raw if key not in top]:
        if key in _REFUSED:
            problems.add(f"{document.where(key)}: {key!r} of W&B has no meaning here: {_REFUSED[key]}")
        elif key not in _KEYS:
            hint = nearest(key, _KEYS) or f"; known: {', '.join(_KEYS)}"
            problems.add(f"{document.where(key)}: unknown key {key!r}{hint}")
    for key in ("count", "run_cap"):
        if key in raw and "phases" in raw:
            problems.add(f"{document.where(key)}: beside phases {key} has no meaning; give each phase its count")


def _name(raw: Mapping[str, object], document: Located, problems: Problems) -> str:
    """Returns the name, made valid for a folder: W&B accepts any text (see _notes)."""
    name = raw.get("name", Path(document.source).stem)
    if not isinstance(name, str) or not folder_name(name):
        problems.add(f"{document.where('name')}: name must be text with a letter or digit, but is {name!r}")
        return "sweep"
    return folder_name(name)


def _text(raw: Mapping[str, object], key: str, document: Located, problems: Problems) -> str | None:
    value = raw.get(key)
    if value is not None and not isinstance(value, str):
        problems.add(f"{document.where(key)}: {key} must be text, but is {value!r}")
        return None
    return value


def _count(raw: Mapping[str, object], document: Located, problems: Problems) -> int | None:
    given = [key for key in ("count", "run_cap") if key in raw]
    if len(given) == 2:
        problems.add(f"{document.where('run_cap')}: count and run_cap are one thing; give one of them")
    for key in given:
        value = raw[key]
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            problems.add(f"{document.where(key)}: {key} must be a whole number of at least 1, but is {value!r}")
            return None
        return value
    return None


def _tracking(raw: Mapping[str, object], document: Located, problems: Problems) -> Tracking:
    """Returns the section, with W&B's top-level `project` and `entity`."""
    tracking = read_section(Tracking, "tracking", document, problems)
    section = raw.get("tracking")
    for key in ("project", "entity"):
        if key in raw and isinstance(section, dict) and key in section:
            problems.add(f"{document.where(key)}: {key} is also in tracking; give it once")
    return dataclasses.replace(
        tracking,
        project=_text(raw, "project", document, problems) or tracking.project,
        entity=_text(raw, "entity", document, problems) or tracking.entity,
    )


def _notes(raw: Mapping[str, object], document: Located, problems: Problems) -> tuple[str, ...]:
    """Returns notes on settings that have another effect or none here.

    W&B would start `program`; here our trainer runs instead. A `command` with more arguments is a problem.
    """
    notes = []
    name = raw.get("name")
    if isinstance(name, str) and name_problems(name) and folder_name(name):
        notes.append(f"{document.where('name')}: name {name!r} becomes {folder_name(name)!r}, for files and folders")
    if _text(raw, "program", document, problems) is not None:
        notes.append(f"{document.where('program')}: program {raw['program']!r} is not run; python -m dialsum train is")
    command = raw.get("command", [])
    if not isinstance(command, list):
        problems.add(f"{document.where('command')}: command must be a list, but is {command!r}")
        return tuple(notes)
    extra = [str(part) for part in command if part not in _COMMAND_MACROS and not str(part).endswith(".py")]
    if extra:
        problems.add(
            f"{document.where('command')}: command is not run, so {' '.join(extra)!r} would be lost; "
            "set fields of the run in base_config or as `parameters: {field: {value: ...}}`"
        )
    elif command:
        notes.append(f"{document.where('command')}: command is not run; python -m dialsum train is")
    return tuple(notes)


def _check_methods(sweep: Sweep, raw: Mapping[str, object], document: Located, problems: Problems) -> None:
    """Collects options of unused methods, and parameters that a method cannot change."""
    methods = {phase.sweep.method for phase in sweep.phases} or {sweep.method}
    section = raw.get("search")
    for key in section if isinstance(section, dict) else ():
        users = READ_BY.get(str(key), tuple(methods))
        if not methods & set(users):
            problems.add(
                f"{document.where('search', str(key))}: search.{key} is only read by {' and '.join(users)}, "
                f"but method is {', '.join(sorted(methods))}"
            )
    for name in [one.name for one in sweep.space.searched if "pbt" in methods and one.name not in _CHANGED_BY_PBT]:
        why = f"in the middle of a training, when only {', '.join(_CHANGED_BY_PBT)} can change"
        why = "so their models must have one shape" if name in _SHAPE_FIELDS else why
        problems.add(
            f"{document.where('parameters', name)}: {name}: pbt copies weights between trials, {why}; fix it with "
            "`value`, or use `method: random`"
        )


def _check_generation(sweep: Sweep, raw: Mapping[str, object], document: Located, problems: Problems) -> None:
    """Collects settings that cannot differ between trials of one trained model."""
    for key, why in (
        ("phases", "there is one phase: the model is trained already"),
        ("early_terminate", "a trial has one evaluation, so none is stopped early"),
        ("base_config", "the trained model brings its own configuration"),
    ):
        if key in raw:
            problems.add(f"{document.where(key)}: {key} has no meaning beside trained_model: {why}")
    if sweep.resources.cards > 1:
        problems.add(
            f"{document.where('resources', 'gpus_per_trial')}: several GPUs train together, and nothing is trained"
            " beside trained_model; leave gpus_per_trial out"
        )
    if sweep.method in ("bohb", "pbt"):
        problems.add(f"{document.where('method')}: {sweep.method} needs training; take grid, random or bayes")
    if sweep.metric.name.endswith("/loss"):
        problems.add(
            f"{document.where('metric')}: generation has no influence on {sweep.metric.name}; take {COMPOSITE}"
        )
    for one in sweep.space.parameters:
        if one.name not in GENERATION_FIELDS:
            problems.add(
                f"{document.where('parameters', one.name)}: {one.name} is fixed in a trained model; "
                f"beside trained_model only {', '.join(GENERATION_FIELDS)} can be set"
            )


def _line_of(problem: str) -> tuple[str, int]:
    match = re.match(r"(.*?):(\d+): ", problem)
    return (match.group(1), int(match.group(2))) if match else ("", 0)
