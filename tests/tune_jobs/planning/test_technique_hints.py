"""Hints of a plan on techniques that do not pay in it, and the page from which their figures are."""

import re
from pathlib import Path

from cluster.machines.hardware import Inventory, parse_simulated
from cluster.scheduling.alternatives import Need, find_alternatives
from dialsum.config import RunConfig
from tune_jobs.config.space import Categorical, Constant, Space
from tune_jobs.config.sweep import Sweep
from tune_jobs.placing.placer import Option
from tune_jobs.placing.throughput import Speed
from tune_jobs.planning.plan import make_plan
from tune_jobs.planning.technique_hints import COMPILE_S, technique_hints
from tune_jobs.records.trial_spec import Bundle, Placement, RunShape
from tune_jobs.search.inputs import DataSizes

PAGE = Path(__file__).parents[3] / "benchmarks/techniques.md"
CARDS = parse_simulated("1x24GiB")
GIB = 2**30


def hints(
    cards: Inventory = CARDS, *, described: bool = True, saved_gib: int = 0, train_s: float = 1.0, **values: object
) -> list[str]:
    """Plans two trials of 8 GiB each; gradient checkpointing saves some of them."""
    speed = Speed(train_s=train_s, evaluate_s=1.0, start_s=1.0, source="a test")

    def options(name: str, config: RunConfig) -> tuple[Option, ...]:
        upper_bytes = (8 - saved_gib * config.gradient_checkpointing) * GIB
        shape = RunShape(micro_batch=config.batch_size, accumulation=1, gradient_checkpointing=False)
        return tuple(
            Option(alternative=one, placement=Placement(bundle=Bundle(cpus=1, gpus=one.gpus), shape=shape), speed=speed)
            for one in find_alternatives((Need(upper_bytes=upper_bytes, cpus=1),), cards)
        )

    constants = tuple(Constant(name=name, value=value) for name, value in values.items())
    space = Space(parameters=(Categorical(name="seed", options=(1, 2)), *constants))
    base = RunConfig()
    sizes = DataSizes(of={base.train_file: 800, base.dev_file: 100})
    sweep = Sweep(name="a", source="a", method="grid", space=space)
    return technique_hints(make_plan(sweep, cards, described=described, options=options, sizes=sizes))


def test_checkpointing_is_named_only_where_it_gives_no_smaller_share() -> None:
    assert hints() == []
    (hint,) = hints(gradient_checkpointing=True)
    assert hint.startswith("gradient_checkpointing: 2 trials would get the same shares without it")
    assert hints(saved_gib=6, gradient_checkpointing=True) == []


def test_compilation_is_named_on_a_cpu_and_where_trials_are_too_short_for_it() -> None:
    steps = {"max_steps": 100, "batch_size": 8}
    long_s, short_s = COMPILE_S / 800, COMPILE_S / 801
    assert hints(train_s=short_s, **steps) == []
    assert hints(train_s=long_s, torch_compile=True, **steps) == []
    (short,) = hints(train_s=short_s, torch_compile=True, **steps)
    assert short.startswith("torch_compile: 2 trials train for fewer seconds than compilation took")
    (on_cpu,) = hints(described=False, train_s=long_s, torch_compile=True, **steps)
    assert on_cpu.startswith("torch_compile: on a CPU")


def test_figures_are_those_of_the_page() -> None:
    page = PAGE.read_text(encoding="utf-8")
    (line,) = re.findall(r"\| `gradient_checkpointing: true` \|(.*)", page)
    speeds = [float(cell.split()[0]) for cell in line.split("|")[:3] if "missing" not in cell]
    assert max(speeds) < 1
    rows = [row.split("|")[2:] for row in page.partition("## When torch.compile pays back")[2].splitlines()]
    measured = [row for row in rows if len(row) > 4 and row[1].strip().endswith(" s")]
    assert {row[2].strip() for row in measured} == {"never"}
    assert min(int(row[3].split()[0]) for row in measured) == COMPILE_S
