"""Applies the rules of a sweep to a sampled configuration and notes every change."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from pydantic import field_validator

from dialsum.config import Count, RunConfig
from tune_jobs.config.expressions import Expression, parse
from tune_jobs.config.fields import FIELDS, takes_whole, to_value, unknown_field
from tune_jobs.config.space import Value, as_written
from tuning_common.errors import Problems, RequestError
from tuning_common.strict import model

RuleValue = str | int | float | bool | None


@model
class Rules:
    """Rules by which some parameters follow from others; all are off by default.

    Attributes:
        set: Field -> expression of other fields, in the order of the file; later expressions see earlier results.
        scale_learning_rate_from_batch: Reference batch size of the sampled learning rate; a batch size B trains with
            learning_rate * sqrt(B / this), which keeps the gradient noise of adaptive optimizers (Malladi et al.,
            On the SDEs and Scaling Rules for Adaptive Gradient Algorithms, NeurIPS 2022).
        accumulate_above_tokens: Longer dialogues use proportionally more accumulation steps with the same effective
            batch.
    """

    set: Mapping[str, RuleValue] = field(default_factory=dict)
    scale_learning_rate_from_batch: Count | None = None
    accumulate_above_tokens: Count | None = None

    @field_validator("set")
    @classmethod
    def _check_set(cls, value: Mapping[str, RuleValue]) -> Mapping[str, RuleValue]:
        problems = [f"set.{name}: {unknown_field(name)}" for name in value if name not in FIELDS]
        for name, text in value.items():
            try:
                if name in FIELDS and isinstance(text, str):
                    _parse(text)
            except RequestError as error:
                problems.append(f"set.{name}: {error.message}")
        if problems:
            raise ValueError(*problems)
        return value

    def reads(self, name: str) -> bool:
        """Returns whether any rule reads a field."""
        built_in = {"scale_learning_rate_from_batch": "batch_size", "accumulate_above_tokens": "encoder_max_len"}
        return any(name in expression.names for expression in self._expressions().values()) or any(
            getattr(self, rule) is not None and name == read for rule, read in built_in.items()
        )

    def overwrites(self, name: str) -> bool:
        """Returns whether a rule sets a field without reading its sampled value: sampling it has no effect.

        >>> Rules(set={"num_beams": "4"}).overwrites("num_beams")
        True
        """
        if name not in self.set:
            return False
        expression = self._expressions().get(name)
        return expression is None or name not in expression.names

    def _expressions(self) -> dict[str, Expression]:
        return {name: _parse(text) for name, text in self.set.items() if isinstance(text, str)}


@dataclass(frozen=True, kw_only=True)
class ResolvedTrial:
    """The sampled parameters of a trial and the configuration that it runs.

    Attributes:
        sampled: The parameters from the search.
        resolved: The complete run configuration.
        notes: The changes that the rules made, for people and the ledger.
    """

    sampled: Mapping[str, Value]
    resolved: RunConfig
    notes: tuple[str, ...] = ()


def resolve(base: RunConfig, sampled: Mapping[str, Value], rules: Rules) -> ResolvedTrial:
    """Merges sampled parameters into a base configuration and applies the rules.

    Order: the expressions of `set` as in the file, then the learning rate, then accumulation.

    Args:
        base: The configuration of everything that is not searched.
        sampled: Field -> value.
        rules: See Rules.

    Raises:
        RequestError: When a rule cannot be computed or the result is not a valid run configuration.

    >>> trial = resolve(RunConfig(learning_rate=1e-4), {"batch_size": 64}, Rules(scale_learning_rate_from_batch=16))
    >>> trial.resolved.learning_rate, trial.notes
    (0.0002, ('learning_rate 0.0001 -> 0.0002: x sqrt(64 / 16)',))
    """
    values = {name: to_value(value) for name, value in (base.to_dict() | dict(sampled)).items()}
    notes: list[str] = []
    problems = Problems()
    for name, text in rules.set.items():
        _change(values, name, _computed(name, text, values, problems), f"rule {text}", notes)
    if rules.scale_learning_rate_from_batch is not None:
        _scale_learning_rate(values, rules.scale_learning_rate_from_batch, notes)
    if rules.accumulate_above_tokens is not None:
        _accumulate(values, rules.accumulate_above_tokens, notes)
    where = f"trial {_shown(sampled)}"
    problems.raise_if_any(where)
    plain = {name: as_written(value) for name, value in values.items()}
    return ResolvedTrial(sampled=dict(sampled), resolved=RunConfig.from_dict(plain, where=where), notes=tuple(notes))


def _computed(name: str, text: RuleValue, values: Mapping[str, Value], problems: Problems) -> Value:
    if not isinstance(text, str):
        return text
    try:
        result = _parse(text).value(values)
    except RequestError as error:
        problems.add(f"rules.set.{name}: {error.message}")
        return values[name]
    return int(result) if isinstance(result, float) and result.is_integer() and takes_whole(name) else result


def _parse(text: str) -> Expression:
    return parse(text, list(FIELDS), unknown_field)


def _scale_learning_rate(values: dict[str, Value], reference: int, notes: list[str]) -> None:
    rate, batch = cast("float", values["learning_rate"]), cast("int", values["batch_size"])
    scaled = float(f"{rate * math.sqrt(batch / reference):.12g}")  # 0.0002, not 0.00019999999999999998
    _change(values, "learning_rate", scaled, f"x sqrt({batch} / {reference})", notes)


def _accumulate(values: dict[str, Value], above_tokens: int, notes: list[str]) -> None:
    length, batch = cast("int", values["encoder_max_len"]), cast("int", values["batch_size"])
    before = cast("int", values["gradient_accumulation_steps"])
    if length > above_tokens and min(batch, before) >= 1:  # RunConfig refuses others
        wanted = before * math.ceil(length / above_tokens)
        pieces = next((pieces for pieces in range(wanted, batch) if batch % pieces == 0), batch)
        reason = f"{length} tokens are more than {above_tokens}; the batch stays {batch}"
        _change(values, "gradient_accumulation_steps", pieces, reason, notes)


def _change(values: dict[str, Value], name: str, value: Value, reason: str, notes: list[str]) -> None:
    if value != values[name]:
        notes.append(f"{name} {_short(values[name])} -> {_short(value)}: {reason}")
        values[name] = value


def _shown(sampled: Mapping[str, Value]) -> str:
    return "{" + ", ".join(f"{name}: {_short(value)}" for name, value in sampled.items()) + "}"


def _short(value: Value) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
