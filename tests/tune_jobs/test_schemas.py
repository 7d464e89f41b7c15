"""The JSON Schemas of our files are as shipped, and true for every file that the readers take."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from cluster.scheduling.quotas import load_team
from dialsum.config import FIELD_DESCRIPTIONS, RunConfig, load_run_config
from dialsum.translation import translate
from tune_jobs.__main__ import main
from tune_jobs.config.file_keys import SweepFile
from tune_jobs.config.file_schemas import FOLDER, Kind, schema_of, schema_text
from tune_jobs.config.sweep_file import load_sweep
from tuning_common.errors import RequestError
from tuning_common.strict import Located, load_yaml

ROOT = Path(__file__).resolve().parents[2]
RUN = schema_of("run")
KINDS: tuple[Kind, ...] = ("sweep", "run", "team")
READERS: dict[str, Callable[[Path], object]] = {"sweep": load_sweep, "run": load_run_config, "team": load_team}
SHIPPED = [
    *(("sweep", path) for path in sorted((ROOT / "tune_jobs" / "sweeps").glob("*.yaml"))),
    *(("run", path) for path in sorted((ROOT / "configs").glob("*.yaml"))),
    ("team", ROOT / "team.yaml"),
]
WANDB = (
    "bayes_min_max", "exponents", "nested_grid", "plain_lists", "random_distributions",
    "ranges_beside_training", "team_sweep",
)  # fmt: skip
OTHERS = [  # what other programs wrote, and our readers read
    *(("run", path) for path in sorted((ROOT / "tests" / "data" / "other_trainers").glob("*.yaml"))),
    *(("sweep", ROOT / "tests" / "golden" / "wandb_sweeps" / f"{name}.yaml") for name in WANDB),
    ("sweep", ROOT / "tests" / "golden" / "next_sweep.yaml"),
]
GRID = "method: grid\nparameters: {batch_size: {values: [4, 8]}}\n"
WRONG = [
    ("sweep", "metod: grid\nparameters: {batch_size: {values: [4, 8]}}\n"),
    ("sweep", "parameters: {batch_size: {values: [4, 8]}}\n"),
    ("sweep", "method: rndom\ncount: 3\nparameters: {batch_size: {values: [4, 8]}}\n"),
    ("sweep", "method: grid\nparameters: {batchsize: {values: [4, 8]}}\n"),
    ("sweep", "method: grid\nparameters: {batch_size: {values: [4, eight]}}\n"),
    ("sweep", "method: grid\nparameters: {batch_size: [0, 8]}\n"),
    ("sweep", "method: grid\nbatch_size: [4, 2.5]\n"),
    ("sweep", "method: grid\nparameters: {optimizer: {value: adam}}\n"),
    ("sweep", "method: grid\nparameters: {batch_size: {vals: [4, 8]}}\n"),
    ("sweep", "method: random\ncount: 4\nparameters: {learning_rate: {distribution: lognormal, min: 0, max: 1}}\n"),
    ("sweep", GRID + "count: 0\n"),
    ("sweep", GRID + "metric: {name: eval/loss, goal: down}\n"),
    ("sweep", GRID + "early_terminate: {type: ash}\n"),
    ("sweep", GRID + "early_terminate: {type: asha, eta: 1}\n"),
    ("sweep", GRID + "early_terminate: {type: median, eta: 3}\n"),
    ("sweep", GRID + "resources: {gpus: 2}\n"),
    ("sweep", GRID + "resources: {gpus_per_trial: 0}\n"),
    ("sweep", GRID + "tracking: {wandb: sometimes}\n"),
    ("sweep", GRID + "rules: {scale_learning_rate_from_batch: 1.5}\n"),
    ("sweep", GRID + "anomalies: {diverged: restart}\n"),
    ("sweep", GRID + "phases: [{name: wide, winners: none}]\n"),
    ("sweep", GRID + "phases: [{kind: wide}]\n"),
    ("run", "lerning_rate: 1e-4\n"),
    ("run", "learning_rate: 2\n"),
    ("run", "num_epochs: many\n"),
    ("run", "fsdp: yes please\n"),
    ("run", "rouge_weights: [1, 0]\n"),
    ("run", "optimizer: adam\n"),
    ("run", "tiny_hidden_size: 40\n"),
    ("team", "time_zone: Asia/Seoul\n"),
    ("team", "members: {minji: {quota_gpus: -1}}\n"),
    ("team", "members: {minji: {quota: 1}}\n"),
    ("team", "members: {minji: {quota_gpus: 1}}\nlend_idel: true\n"),
    ("team", "members: {}\nwindows: [{name: a, start: 22:00, end: 07:00, quota_gpus: {}, days: [monday]}]\n"),
]


def faults(kind: str, path: Path) -> list[str]:
    validator = Draft202012Validator(json.loads((FOLDER / f"{kind}.json").read_text(encoding="utf-8")))
    return [f"{path.name}: {fault.json_path}: {fault.message}" for fault in validator.iter_errors(load_yaml(path).data)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_of_the_package_is_what_the_models_give(kind: Kind, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", kind]) == 0
    printed = capsys.readouterr().out
    assert printed == schema_text(kind) + "\n"
    shipped = (FOLDER / f"{kind}.json").read_text(encoding="utf-8")
    assert printed == shipped, f"python -m tune_jobs schema {kind} > tune_jobs/schemas/{kind}.json"
    Draft202012Validator.check_schema(schema_of(kind))


@pytest.mark.parametrize(("kind", "path"), SHIPPED, ids=lambda one: getattr(one, "name", one))
def test_a_shipped_file_names_its_schema_and_fits_it(kind: str, path: Path) -> None:
    named = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# yaml-language-server: $schema=")
    assert (path.parent / named).resolve() == FOLDER / f"{kind}.json"
    assert faults(kind, path) == []


@pytest.mark.parametrize(("kind", "path"), OTHERS, ids=lambda one: getattr(one, "name", one))
def test_a_file_that_the_reader_takes_fits_the_schema(kind: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    READERS[kind](path)
    assert faults(kind, path) == []


@pytest.mark.parametrize(("kind", "text"), WRONG)
def test_a_wrong_file_is_refused_by_schema_and_reader(kind: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text, encoding="utf-8")
    assert faults(kind, path)
    with pytest.raises(RequestError):
        READERS[kind](path)


def test_every_key_is_described() -> None:
    for kind in KINDS:
        schema = schema_of(kind)
        for part in (schema, *schema.get("$defs", {}).values()):
            for name, field in part.get("properties", {}).items() if part.get("additionalProperties") is False else ():
                assert "description" in field or name in FIELD_DESCRIPTIONS, (kind, part.get("title"), name)


def test_the_pages_of_the_sweep_file_name_every_key_and_show_files_that_fit(tmp_path: Path) -> None:
    pages = [
        (ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("sweep_file.md", "sweep_keys.md", "sweeps.md")
    ]
    schema = schema_of("sweep")
    parts = {name: part for name, part in schema["$defs"].items() if name not in ("RunConfig", "Parameters")}
    for part in (SweepFile.__annotations__, *(part.get("properties", {}) for part in parts.values())):
        assert [key for key in part if not re.search(rf"\b{key}\b", "\n".join(pages))] == []
    shown = [block for page in pages for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    whole = [block for block in shown if re.search(r"^(method|phases):", block, re.MULTILINE)]
    assert len(whole) >= 3
    for number, block in enumerate(whole):
        path = tmp_path / f"block_{number}.yaml"
        path.write_text(block, encoding="utf-8")
        assert faults("sweep", path) == []


scalars = st.sampled_from(
    [None, True, "auto", "adamw", "adamw_torch", "linear", "", 0, 1, 2, 16, 40, 0.5, 1.5, -1, 10**10]
)
values = st.one_of(scalars, st.lists(scalars, max_size=3), st.dictionaries(st.sampled_from("ab"), scalars, max_size=1))
names = st.sampled_from([*FIELD_DESCRIPTIONS, "lr", "optim", "training", "fp16", "learning_rat"])


@settings(max_examples=300)
@given(st.dictionaries(names, values, max_size=3))
def test_an_editor_marks_nothing_in_a_configuration_that_a_run_takes(content: dict[str, object]) -> None:
    marked = list(Draft202012Validator(dict(RUN)).iter_errors(content))
    translation = translate(Located(data=content, lines={(): 1}, source="a.yaml"), tuple(FIELD_DESCRIPTIONS))
    try:
        RunConfig.from_dict(translation.values)
    except RequestError:
        return
    assert marked == [] or translation.problems
