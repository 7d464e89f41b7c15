"""Writes a plain sweep as an editable file that load_sweep can read."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence

from tune_jobs.config.early_terminate import default_stop
from tune_jobs.config.mlflow_server import MlflowServer
from tune_jobs.config.sweep import Sweep

_SECTIONS = ("search", "resources", "tracking", "rules", "anomalies", "team")


def sweep_text(sweep: Sweep, *, head: Sequence[str] = (), reasons: Mapping[str, str] | None = None) -> str:
    """Returns the text of a sweep file, without default values.

    Args:
        sweep: A plain sweep; its `source` and `notes` are not part of the text.
        head: Comment lines at the top.
        reasons: Comment above a parameter, one line or several: the reason for its bounds.

    >>> from tune_jobs.config.space import Range, Space
    >>> rate = Range(name="learning_rate", distribution="log_uniform_values", low=3e-5, high=1e-4)
    >>> sweep = Sweep(name="next", source="", method="bayes", count=20, space=Space(parameters=(rate,)))
    >>> print(sweep_text(sweep, reasons={"learning_rate": "the best 6 of 24 trials lie here"}), end="")
    name: next
    method: bayes
    count: 20
    metric: {name: eval/rouge_combined_f1, goal: maximize}
    parameters:
      # the best 6 of 24 trials lie here
      learning_rate: {distribution: log_uniform_values, min: 3e-05, max: 0.0001}
    """
    assert not sweep.phases, "a phase is written as a sweep of its own"
    lines = [f"# {line}".rstrip() for line in head]
    lines += [f"{key}: {_flow(value)}" for key, value in _top(sweep)]
    lines.append("parameters:")
    for name, spec in sweep.space.spec().items():
        lines += [f"  # {line}" for line in (reasons or {}).get(name, "").splitlines()]
        lines.append(f"  {name}: {_flow(spec)}")
    for key in _SECTIONS:
        section = _changed(getattr(sweep, key))
        if section:
            lines += [f"{key}:", *(line for name, value in section.items() for line in _entry(name, value))]
    return "\n".join(lines) + "\n"


def _entry(name: str, value: object) -> list[str]:
    """Returns one line, or for a list of mappings one line for each."""
    if isinstance(value, tuple) and value and all(isinstance(item, Mapping) for item in value):
        return [f"  {name}:", *(f"    - {_flow(item)}" for item in value)]
    return [f"  {name}: {_flow(value)}"]


def _top(sweep: Sweep) -> Iterator[tuple[str, object]]:
    yield "name", sweep.name
    if sweep.description:
        yield "description", sweep.description
    yield "method", sweep.method
    if sweep.count is not None:
        yield "count", sweep.count
    yield "metric", dataclasses.asdict(sweep.metric)
    files = dict(sweep.base_files)
    if files:
        yield "base_config", files[""] if set(files) == {""} else files
    if sweep.trained_model is not None:
        yield "trained_model", sweep.trained_model
    elif sweep.early_terminate != default_stop(sweep.method):
        yield "early_terminate", sweep.early_terminate.to_dict()


def _changed(section: object) -> dict[str, object]:
    """The fields of a section that differ from its defaults."""
    defaults = type(section)()
    return {name: value for name, value in vars(section).items() if value != getattr(defaults, name)}


def _flow(value: object) -> str:
    """Formats a value on one line: mappings and lists in YAML's flow style, plain text without quotes."""
    if isinstance(value, MlflowServer):
        value = {name: one for name, one in vars(value).items() if one is not None}
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_flow(str(key))}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    if isinstance(value, str):
        return value if _is_plain(value) else _quoted(value)
    return json.dumps(value)


def _quoted(text: str) -> str:
    """Returns a double-quoted YAML string with unprintable characters escaped, as YAML refuses some of them."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(one if one.isprintable() else f"\\U{ord(one):08x}" for one in escaped) + '"'


def _is_plain(text: str) -> bool:
    """Returns whether YAML reads the text unchanged without quotes."""
    words = ("true", "false", "yes", "no", "on", "off", "null", "y", "n")
    characters = text.replace("_", "").replace("-", "").replace("/", "").replace(".", "")
    return characters.isalnum() and characters.isascii() and text[0].isalpha() and text.lower() not in words
