"""Names of trials: `{sweep}_{architecture}_lr{:.0e}_bs{}_{MMDD_HHMM}`."""

import re
from collections.abc import Collection
from datetime import datetime

from dialsum.config import RunConfig
from dialsum.models import SPECS


def architecture_of(model: str) -> str:
    """Returns a short word for a model: the family's of a named one, else the last part of its id or folder.

    >>> architecture_of("kobart"), architecture_of("lcw99/t5-base-korean")
    ('bart', 't5-base-korean')
    """
    if model in SPECS:
        return SPECS[model].architecture
    return re.sub(r"[^\w.-]+", "-", model.rstrip("/").rsplit("/", 1)[-1]).strip("-.") or "model"


def trial_name(sweep: str, config: RunConfig, started: datetime, taken: Collection[str] = ()) -> str:
    """Names a trial after what people look for first.

    Args:
        sweep: The sweep's name.
        config: The resolved configuration.
        started: When the sweep (not the trial) started, so that a resumed sweep finds its folders again.
        taken: Names of the sweep's earlier trials; two trials may agree in everything that the name shows.

    >>> trial_name("wide", RunConfig(model="kobart", learning_rate=3e-5, batch_size=16), datetime(2026, 11, 24, 9, 5))
    'wide_bart_lr3e-05_bs16_1124_0905'
    """
    name = (
        f"{sweep}_{architecture_of(config.model)}_lr{config.learning_rate:.0e}_bs{config.batch_size}"
        f"_{started:%m%d_%H%M}"
    )
    unique, number = name, 1
    while unique in taken:
        number += 1
        unique = f"{name}_{number}"
    return unique
