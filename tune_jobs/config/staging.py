"""Stages a plain sweep whose parameters do not all need trainings of their own: seeds, and settings of the decoding."""

import dataclasses

from tune_jobs.config.early_terminate import EarlyTerminate
from tune_jobs.config.rules import Rules
from tune_jobs.config.space import Categorical, Constant, Parameter, Range, Space
from tune_jobs.config.sweep import Phase, Sweep

DECODING_FIELDS = (
    "num_beams", "length_penalty", "no_repeat_ngram_size", "repetition_penalty", "do_sample", "temperature", "top_k",
    "top_p", "generation_min_len", "generation_max_len", "remove_tokens",
)  # fmt: skip
WINNERS = 2
_MOST_SEEDS, _MOST_DECODINGS = 5, 24


def staged_by_need(sweep: Sweep) -> Sweep:
    """Returns a plain sweep in phases, where its parameters ask for them.

    A searched seed is no hyperparameter: the best configurations are trained again with several seeds (a grid trains
    every configuration with every seed, as it is written). Searched settings of the decoding are tried with the best
    trained model, as another decoding needs no other training.
    """
    if sweep.phases or sweep.trained_model is not None or sweep.method == "pbt" or sweep.search.points:
        return sweep
    searched = sweep.space.searched
    seeds = () if sweep.method == "grid" else _seeds(searched)
    decoding = tuple(one for one in searched if one.name in DECODING_FIELDS)
    trained = [one for one in searched if one not in decoding and one.name != "seed"]
    if not trained or sweep.metric.name.endswith("/loss"):  # decoding does not change the loss
        decoding = ()
    if not trained or not (seeds or decoding):
        return sweep
    kept = tuple(one for one in sweep.space.parameters if one not in decoding and not (seeds and one.name == "seed"))
    fixed = (Constant(name="seed", value=seeds[0]),) if seeds else ()
    wide = _phase_sweep(sweep, "wide", Space(parameters=kept + fixed))
    phases = [Phase(name="wide", kind="wide", sweep=wide)]
    notes = [*sweep.notes]
    if seeds:
        confirm = dataclasses.replace(
            _phase_sweep(sweep, "confirm", Space(parameters=kept)),
            method="grid",
            count=WINNERS * len(seeds),
            early_terminate=EarlyTerminate(type="none"),
        )
        phases.append(Phase(name="confirm", kind="confirm", sweep=confirm, winners=WINNERS, seeds=seeds))
        notes.append(
            f"{sweep.source}: the seed is no hyperparameter: trials train with seed {seeds[0]}, and the best {WINNERS}"
            f" again with seeds {', '.join(map(str, seeds))}"
        )
    if decoding:
        phases.append(Phase(name="generation", kind="generation", sweep=_generation(sweep, decoding)))
        notes.append(
            f"{sweep.source}: {', '.join(one.name for one in decoding)} need no training: they are tried with the best"
            " trained model, in a phase of their own"
        )
    return dataclasses.replace(sweep, phases=tuple(phases), notes=tuple(notes))


def _phase_sweep(sweep: Sweep, name: str, space: Space) -> Sweep:
    return dataclasses.replace(sweep, name=f"{sweep.name}_{name}", space=space, notes=())


def _generation(sweep: Sweep, decoding: tuple[Parameter, ...]) -> Sweep:
    space = Space(parameters=decoding)
    most = sweep.count or _MOST_DECODINGS
    whole = space.size is not None and space.size <= most
    return dataclasses.replace(
        _phase_sweep(sweep, "generation", space),
        method="grid" if whole else "random",
        count=None if whole else most,
        early_terminate=EarlyTerminate(type="none"),
        rules=Rules(),
        search=sweep.search.read_by("random"),
        base=next(iter(sweep.base_by_model.values()), sweep.base),
        base_by_model={},
        base_files={},
        trained_model="the best model of the phase before",
    )


def _seeds(searched: tuple[Parameter, ...]) -> tuple[int, ...]:
    """Returns the seeds of the repetitions: the listed ones, or the first of a range."""
    for one in searched:
        if one.name == "seed" and isinstance(one, Categorical):
            return tuple(value for value in one.options if isinstance(value, int))[:_MOST_SEEDS]
        if one.name == "seed" and isinstance(one, Range):
            return tuple(int(one.low) + step for step in range(3) if one.low + step <= one.high)
    return ()
