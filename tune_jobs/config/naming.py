"""Names of trials: `{sweep}_{architecture}_lr{:.0e}_bs{}_{MMDD_HHMM}`."""

import re
from collections.abc import Collection, Mapping
from datetime import datetime

from dialsum.config import RunConfig
from dialsum.models import SPECS
from tune_jobs.config.parameters import show_value

_ABBREVIATIONS = {"learning_rate": "lr", "batch_size": "bs", "model": ""}


def architecture_of(model: str) -> str:
    """Returns a short name of a model: the family of a known model, else the last part of its id or folder.

    >>> architecture_of("kobart"), architecture_of("lcw99/t5-base-korean")
    ('bart', 't5-base-korean')
    """
    if model in SPECS:
        return SPECS[model].architecture
    return re.sub(r"[^\w.-]+", "-", model.partition("@")[0].rstrip("/").rsplit("/", 1)[-1]).strip("-.") or "model"


def trial_name(sweep: str, config: RunConfig, started: datetime, taken: Collection[str] = ()) -> str:
    """Names a trial by sweep, architecture, learning rate, batch size and start time.

    Args:
        sweep: The sweep's name.
        config: The resolved configuration.
        started: Start of the sweep (not of the trial): a resumed sweep must find its folders again.
        taken: Names of the sweep's earlier trials; the new name gets a number where it would repeat one.

    >>> trial_name("wide", RunConfig(model="kobart", learning_rate=3e-5, batch_size=16), datetime(2026, 11, 24, 9, 5))
    'wide_bart_lr3e-05_bs16_1124_0905'
    """
    name = (
        f"{sweep}_{architecture_of(config.model)}_lr{config.learning_rate:.0e}_bs{config.batch_size}"
        f"_{started:%m%d_%H%M}"
    )
    return _unique(name, taken)


def generation_name(sweep: str, config: RunConfig, started: datetime, taken: Collection[str] = ()) -> str:
    """Names a trial that only generates, by its decoding parameters; arguments as for trial_name.

    >>> config = RunConfig(num_beams=4, length_penalty=0.8, no_repeat_ngram_size=3)
    >>> generation_name("beams", config, datetime(2026, 11, 24, 9, 5))
    'beams_beams4_lp0.8_ngram3_1124_0905'
    """
    return _unique(
        f"{sweep}_beams{config.num_beams}_lp{config.length_penalty:g}_ngram{config.no_repeat_ngram_size}"
        f"_{started:%m%d_%H%M}",
        taken,
    )


def brief_settings(sampled: Mapping[str, object]) -> str:
    """Returns sampled values in one line; the names of the most frequent ones are abbreviated as in trial names.

    >>> brief_settings({"learning_rate": 3e-05, "batch_size": 8, "model": "kobart", "dropout": 0.1})
    'lr 3e-5, bs 8, kobart, dropout 0.1'
    """
    parts = (f"{_ABBREVIATIONS.get(name, name)} {show_value(value)}".strip() for name, value in sampled.items())
    return ", ".join(parts)


def _unique(name: str, taken: Collection[str]) -> str:
    unique, number = name, 1
    while unique in taken:
        number += 1
        unique = f"{name}_{number}"
    return unique
