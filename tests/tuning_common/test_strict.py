"""Strict YAML names file and line, and reports every problem at once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from tuning_common.errors import RequestError
from tuning_common.strict import from_mapping, load_yaml, model, parse_yaml


@dataclass(frozen=True, kw_only=True)
class Metric:
    name: str
    goal: Literal["maximize", "minimize"] = "maximize"


@model
class Sweep:
    method: str
    metric: Metric
    rate: float = 0.1
    weights: tuple[float, float] = (0.5, 0.5)
    limit: int | None = None


GOOD = "method: grid\nmetric: {name: eval/loss, goal: minimize}\nrate: 1e-5\nweights: [1, 2.5]\n"


def test_a_good_file_becomes_a_dataclass() -> None:
    document = parse_yaml(GOOD, "a.yaml")
    sweep = from_mapping(Sweep, document.mapping(), located=document)
    assert sweep == Sweep(
        method="grid", metric=Metric(name="eval/loss", goal="minimize"), rate=1e-5, weights=(1.0, 2.5)
    )


def test_every_problem_is_reported_with_its_line() -> None:
    document = parse_yaml("metod: grid\nmetric:\n  name: 3\n  goal: up\nlimit: many\nweights: [1]\n", "a.yaml")
    with pytest.raises(RequestError) as caught:
        from_mapping(Sweep, document.mapping(), located=document)
    assert caught.value.message == "a.yaml: 6 problems"
    assert caught.value.problems == (
        "a.yaml:1: unknown key 'metod'; did you mean 'method'?",
        "a.yaml:1: missing key 'method'",
        "a.yaml:3: metric.name must be text, but is 3",
        "a.yaml:4: metric.goal must be one of 'maximize', 'minimize', but is 'up'",
        "a.yaml:5: limit must be a whole number or null, but is 'many'",
        "a.yaml:6: weights must be a list of 2 values, each a number, but is [1]",
    )


def test_true_is_no_number() -> None:
    with pytest.raises(RequestError, match="rate must be a number, but is True"):
        from_mapping(Sweep, {"method": "grid", "metric": {"name": "a"}, "rate": True})


def test_a_whole_number_beyond_every_float_is_no_number() -> None:
    with pytest.raises(RequestError, match="rate must be a finite number"):
        from_mapping(Sweep, {"method": "grid", "metric": {"name": "a"}, "rate": 10**400})


def test_a_value_that_fits_no_type_of_a_union_is_one_problem() -> None:
    @model
    class Share:
        part: Literal["auto"] | Annotated[float, Field(le=1)] = "auto"

    for value, problem in (
        ("full", "part must be one of 'auto' or a number at most 1, but is 'full'"),
        (2, "must be at most 1"),
    ):
        with pytest.raises(RequestError, match=problem) as caught:
            from_mapping(Share, {"part": value})
        assert len(caught.value.problems) == 1
    assert (Share(part=1).part, from_mapping(Share, {"part": "auto"}).part) == (1.0, "auto")


def test_a_password_in_an_address_is_not_shown() -> None:
    with pytest.raises(RequestError, match=r"metric must be a mapping, but is 'https://\.\.\.@host/db'"):
        from_mapping(Sweep, {"method": "grid", "metric": "https://minji:sec/ret@host/db"})


def test_half_a_character_is_refused_in_words() -> None:
    document = parse_yaml('method: "\\ud800"\nmetric: {name: a}\n', "a.yaml")
    with pytest.raises(RequestError, match=r"cannot be read: .*surrogates not allowed"):
        from_mapping(Sweep, document.mapping(), located=document)


def test_a_key_that_stands_twice_is_refused() -> None:
    with pytest.raises(RequestError, match=r"a.yaml:2: key 'a' is a duplicate"):
        parse_yaml("a: 1\na: 2\n", "a.yaml")


def test_a_tag_that_would_run_code_is_refused() -> None:
    with pytest.raises(RequestError, match="could not determine a constructor"):
        parse_yaml("a: !!python/object/apply:os.system ['true']\n", "a.yaml")


def test_broken_yaml_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "b.yaml"
    path.write_text("a: 1\nb: [1, 2\n")
    with pytest.raises(RequestError, match=r"b.yaml:3: expected ',' or '\]'"):
        load_yaml(path)


def test_an_absent_file_is_a_request_error(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no such file"):
        load_yaml(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("3", 3),
        ("-2.5", -2.5),
        (".5", 0.5),
        ("22:00", "22:00"),
        ("010", 10.0),
        ("true", True),
        ("1_000", "1_000"),
    ],
)
def test_numbers_are_those_of_yaml_1_2(text: str, value: object) -> None:
    data = parse_yaml(f"a: {text}\n", "a.yaml").mapping()
    assert data == {"a": value}
    assert type(data["a"]) is type(value)
