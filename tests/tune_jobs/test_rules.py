"""Dependent parameters and the small language of user rules."""

import pytest

from dialsum.config import RunConfig
from tune_jobs.config.expressions import parse
from tune_jobs.config.rules import Rules, resolve
from tuning_common.errors import RequestError

FIELDS = ("learning_rate", "batch_size", "model", "encoder_max_len", "gradient_checkpointing")


def test_without_rules_the_sampled_values_are_run() -> None:
    trial = resolve(RunConfig(), {"learning_rate": 3e-4, "num_beams": 4}, Rules())
    assert (trial.resolved.learning_rate, trial.resolved.num_beams, trial.notes) == (3e-4, 4, ())
    assert trial.sampled == {"learning_rate": 3e-4, "num_beams": 4}


def test_the_learning_rate_grows_with_the_root_of_the_batch() -> None:
    trial = resolve(RunConfig(), {"learning_rate": 2e-5, "batch_size": 36}, Rules(scale_learning_rate_from_batch=16))
    assert trial.resolved.learning_rate == 3e-5
    assert trial.sampled["learning_rate"] == 2e-5
    assert trial.notes == ("learning_rate 2e-05 -> 3e-05: x sqrt(36 / 16)",)


@pytest.mark.parametrize(
    ("length", "batch", "before", "pieces"),
    [(512, 16, 1, 1), (513, 16, 1, 2), (1024, 16, 1, 2), (1030, 16, 1, 4), (1024, 16, 4, 8), (1024, 7, 1, 7)],
)
def test_long_dialogues_are_computed_in_more_pieces_of_the_same_batch(
    length: int, batch: int, before: int, pieces: int
) -> None:
    trial = resolve(
        RunConfig(gradient_accumulation_steps=before),
        {"encoder_max_len": length, "batch_size": batch},
        Rules(accumulate_above_tokens=512),
    )
    assert trial.resolved.gradient_accumulation_steps == pieces
    assert trial.resolved.batch_size == batch


@pytest.mark.parametrize("name", ["batch_size", "gradient_accumulation_steps"])
def test_nothing_is_divided_where_there_is_nothing_to_divide(name: str) -> None:
    sampled = {"batch_size": 8, "encoder_max_len": 1024, name: 0}
    with pytest.raises(RequestError, match=rf"1 problem\n  - {name} must be at least 1, but is 0$"):
        resolve(RunConfig(), sampled, Rules(accumulate_above_tokens=512))


def test_user_rules_see_what_earlier_ones_set_and_leave_a_note() -> None:
    rules = Rules(
        set={
            "learning_rate": "learning_rate * 10 if model in ('t5', 'mt5') else learning_rate",
            "batch_size": "32 / 4",
            "gradient_checkpointing": "batch_size < 16",
            "optimizer": "'adafactor' if model == 'mt5' else 'adamw'",
            "dropout": None,
        },
        scale_learning_rate_from_batch=32,
    )
    trial = resolve(RunConfig(dropout=0.2), {"model": "mt5", "learning_rate": 1e-4}, rules)
    config = trial.resolved
    assert (config.learning_rate, config.batch_size, type(config.batch_size)) == (5e-4, 8, int)
    assert (config.gradient_checkpointing, config.optimizer, config.dropout) == (True, "adafactor", None)
    assert trial.notes[0].startswith("learning_rate 0.0001 -> 0.001: rule learning_rate * 10")
    assert trial.notes[-1] == "learning_rate 0.001 -> 0.0005: x sqrt(8 / 32)"


def test_a_rule_that_makes_an_invalid_run_is_told_with_the_trial() -> None:
    with pytest.raises(RequestError) as caught:
        resolve(RunConfig(), {"num_beams": 4}, Rules(set={"num_beams": "num_beams - 4"}))
    assert str(caught.value) == ("trial {num_beams: 4}: 1 problem\n  - num_beams must be at least 1, but is 0")


def test_a_rule_that_cannot_be_computed_says_with_what() -> None:
    with pytest.raises(
        RequestError, match=r"rules.set.batch_size: 'batch_size / \(num_beams - 4\)' cannot be computed"
    ):
        resolve(RunConfig(), {"num_beams": 4}, Rules(set={"batch_size": "batch_size / (num_beams - 4)"}))


def test_a_rule_that_overwrites_is_told_from_one_that_adjusts() -> None:
    rules = Rules(set={"batch_size": "batch_size * 2", "num_beams": 4, "seed": "num_epochs"})
    assert [rules.overwrites(name) for name in ("batch_size", "num_beams", "seed", "num_epochs")] == [
        False,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("rules", "read"),
    [
        (Rules(), set()),
        (Rules(scale_learning_rate_from_batch=16), {"batch_size"}),
        (Rules(accumulate_above_tokens=512), {"encoder_max_len"}),
        (Rules(set={"seed": "num_epochs + 1", "num_beams": 4}), {"num_epochs"}),
    ],
)
def test_which_fields_rules_read(rules: Rules, read: set[str]) -> None:
    assert {name for name in RunConfig().to_dict() if rules.reads(name)} == read


def test_a_rule_names_fields_that_there_are() -> None:
    with pytest.raises(RequestError, match="2 problems") as caught:
        Rules(set={"num_beans": "batch_sise", "seed": "batch_sise", "num_beams": 4})
    for text in ("set.num_beans: no field", "set.seed: no field of a run configuration is called 'batch_sise'"):
        assert text in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8 if encoder_max_len > 512 else 16", 8),
        ("min(batch_size, 4) + max(1, 2) * 3", 10),
        ("ceil(encoder_max_len / 300)", 4),
        ("round(learning_rate * 1e5) % 3", 0),
        ("-batch_size ** 2 // 5", -13),
        ("sqrt(batch_size * 2)", 4.0),
        ("log2(encoder_max_len) - abs(-4)", 6.0),
        ("not gradient_checkpointing and batch_size in (4, 8)", True),
        ("gradient_checkpointing or 4 < batch_size <= 8", True),
        ("model not in ('t5', 'mt5') and model != 'kogpt2'", True),
        ("(1, 2.5, 'a')", (1, 2.5, "a")),
        ("None", None),
    ],
)
def test_the_language(text: str, value: object) -> None:
    fields = {
        "learning_rate": 3e-5,
        "batch_size": 8,
        "model": "kobart",
        "encoder_max_len": 1024,
        "gradient_checkpointing": False,
    }
    found = parse(text, FIELDS).value(fields)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "().__class__",
        "model[0]",
        "[x for x in (1, 2)]",
        "lambda: 1",
        "f'{model}'",
        "open('/etc/passwd')",
        "min(*(1, 2))",
        "round(1.5, ndigits=1)",
        "(batch_size := 4)",
        "batch_size | 1",
        "~batch_size",
        "b'x'",
        "1j",
        "model is None",
        "...",
        "batch_sise",
        "8 if",
        "",
        "1" + "+1" * 300,
        "(" * 150 + "1" + ")" * 150 + "-" * 100 + "1",
        "-" * 100 + "1",
    ],
)
def test_everything_else_is_refused_before_anything_runs(text: str) -> None:
    with pytest.raises(RequestError):
        parse(text, FIELDS)


@pytest.mark.parametrize(
    "text",
    ["9 ** 9 ** 9", "model * 10", "1 / 0", "sqrt(-1)", "model < 3", "1e308 * 10", "10 ** 64 ** 2", "min()", "3 in 4"],
)
def test_what_cannot_be_computed_is_an_error_and_takes_no_time(text: str) -> None:
    with pytest.raises(RequestError, match="cannot be computed"):
        parse(text, FIELDS).value({"model": "kobart"})
