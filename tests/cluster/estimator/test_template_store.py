"""Templates are shipped, cached or traced; what cannot be trusted is made again."""

import dataclasses
import lzma
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cluster.estimator import template_store
from cluster.estimator.template import Template, TemplateKey
from cluster.estimator.template_archive import write_archive
from cluster.estimator.template_build import build_part
from cluster.estimator.template_file import Part, read_part, write_part
from cluster.estimator.template_keys import PART_NAMES, ExactSizes, PartKey, model_hash, part_key
from cluster.estimator.template_store import find_template, has_template
from cluster.estimator.workload import Recipe
from tests.cluster.estimator.tiny_models import BART
from tuning_common.errors import RequestError, WorkError

RECIPE = Recipe(factory="dialsum.workload:summarizer_workload", settings={"model_config": dict(BART)})
KEY = TemplateKey(
    model=model_hash(BART, untied=False), precision="fp32", optimizer="adamw_fused", attention="sdpa",
    gradient_checkpointing=False, dropout=True, label_smoothing=False, accumulation=False, kernels="efficient",
    torch="2.13.0", transformers="5.23.0",
)  # fmt: skip
SIZES = ExactSizes(
    micro_batch=4, loss_batch=8, generation_batch=8, encoder_len=64, decoder_len=16, prompt_len=64, beams=1
)


@pytest.fixture(scope="module")
def parts() -> dict[str, Part]:
    workload = RECIPE.make()
    return {name: build_part(workload, part_key(KEY, name), family="efficient") for name in PART_NAMES}


@pytest.fixture
def cache(tmp_path: Path, parts: dict[str, Part]) -> Path:
    for part in parts.values():
        write_part(tmp_path, part)
    template_store._remembered.cache_clear()
    return tmp_path


def find(cache: Path, key: TemplateKey = KEY) -> Template:
    return find_template(key, SIZES, RECIPE, cache=cache, shipped=cache / "none", note=pytest.fail)


def test_a_file_gives_back_what_was_written(cache: Path, parts: dict[str, Part]) -> None:
    for part in parts.values():
        read = read_part(cache, part.key)
        assert read is not None
        for name, tape in part.tapes.items():
            again = read.tapes[name]
            values = [
                (field.name, getattr(tape, field.name), getattr(again, field.name))
                for field in dataclasses.fields(tape)
            ]
            assert all(np.array_equal(before, after) for field, before, after in values if field != "operations")
            for before, after in zip(tape.operations, again.operations, strict=True):
                for field in dataclasses.fields(before):
                    assert np.array_equal(getattr(before, field.name), getattr(after, field.name)), field.name
        assert read.weight_bytes.tolist() == part.weight_bytes.tolist()
        assert (read.model_parameters, read.operations) == (part.model_parameters, part.operations)


def test_files_are_the_same_bytes_every_time(tmp_path: Path, parts: dict[str, Part]) -> None:
    first, second = (write_part(tmp_path / name, parts["step"]).read_bytes() for name in ("a", "b"))
    assert first == second
    assert len(first) < 16_000


def test_what_is_at_hand_is_not_traced_again(cache: Path) -> None:
    template = find(cache)
    assert template.source == str(cache)
    assert has_template(KEY, SIZES, cache=cache, shipped=cache / "none")
    assert template.allocated_bytes(4, 100, 20) > 16 * template.model_parameters
    more = dataclasses.replace(KEY, accumulation=True)
    assert find(cache, more).allocated_bytes(4, 100, 20) > template.allocated_bytes(4, 100, 20)


def test_shipped_archives_come_first(cache: Path, parts: dict[str, Part], tmp_path: Path) -> None:
    shipped = tmp_path / "shipped"
    archive = write_archive(shipped, "tiny", parts.values())
    assert archive.name == f"tiny-{KEY.model[:12]}.tar.xz"
    assert archive.read_bytes() == write_archive(tmp_path / "again", "tiny", parts.values()).read_bytes()
    template = find_template(KEY, SIZES, RECIPE, cache=cache, shipped=shipped, note=pytest.fail)
    assert template.source == "shipped"
    assert template.allocated_bytes(4, 100, 20) == find(cache).allocated_bytes(4, 100, 20)
    assert not has_template(dataclasses.replace(KEY, optimizer="sgd"), SIZES, cache=cache / "none", shipped=shipped)


@pytest.mark.parametrize("how", ["torn", "empty", "text", "changed part"])
def test_a_shipped_archive_that_cannot_be_trusted_is_not_used(
    cache: Path, parts: dict[str, Part], tmp_path: Path, how: str
) -> None:
    path = write_archive(tmp_path / "shipped", "tiny", parts.values())
    content = path.read_bytes()
    if how == "changed part":
        raw = bytearray(lzma.decompress(content))
        place = raw.index(parts["step"].weight_bytes.tobytes())
        raw[place] ^= 1
        path.write_bytes(lzma.compress(bytes(raw)))
    else:
        path.write_bytes({"torn": content[: len(content) // 2], "empty": b"", "text": b"no archive"}[how])
    found = find_template(KEY, SIZES, RECIPE, cache=cache, shipped=path.parent, note=pytest.fail)
    assert str(cache) in found.source


@pytest.mark.parametrize("other", [{"torch": "2.14.0"}, {"optimizer": "sgd"}, {"label_smoothing": True}])
def test_other_jobs_have_other_files(cache: Path, other: dict[str, object]) -> None:
    assert not has_template(dataclasses.replace(KEY, **other), SIZES, cache=cache, shipped=cache / "none")  # type: ignore[arg-type]


def corrupt(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "torn":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("not a template")
    elif how == "another":
        path.write_bytes(next(f for f in path.parent.glob("evaluation-*")).read_bytes())
    else:
        with np.load(path) as stored:
            arrays = dict(stored)
        arrays["weight_bytes"] = arrays["weight_bytes"] // 2  # a smaller model, with the old hash
        np.savez_compressed(path, **arrays)


@pytest.mark.parametrize("how", ["torn", "empty", "text", "another", "changed"])
def test_a_file_that_cannot_be_trusted_is_made_again(
    cache: Path, parts: dict[str, Part], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = find(cache).allocated_bytes(4, 100, 20)
    path = cache / parts["step"].key.file_name
    corrupt(path, how)
    template_store._remembered.cache_clear()
    assert not has_template(KEY, SIZES, cache=cache, shipped=cache / "none")
    asked: list[PartKey] = []

    def build(recipe: Recipe, keys: list[PartKey], *, family: str, folder: Path) -> None:
        asked.extend(keys)
        for key in keys:
            write_part(folder, parts[key.part])

    monkeypatch.setattr(template_store, "build_in_subprocess", build)
    notes: list[str] = []
    template = find_template(KEY, SIZES, RECIPE, cache=cache, shipped=cache / "none", note=notes.append)
    assert asked == [parts["step"].key]
    assert notes == ["no template at hand: tracing step (some seconds, once)"]
    assert template.allocated_bytes(4, 100, 20) == expected
    assert "traced now" in template.source


def test_a_trace_under_another_torch_is_noted(
    cache: Path, parts: dict[str, Part], monkeypatch: pytest.MonkeyPatch
) -> None:
    corrupt(cache / parts["step"].key.file_name, "empty")
    template_store._remembered.cache_clear()
    monkeypatch.setattr(template_store, "IMITATED_TORCH", "2.12")
    monkeypatch.setattr(
        template_store,
        "build_in_subprocess",
        lambda recipe, keys, *, family, folder: [write_part(folder, parts[key.part]) for key in keys],
    )
    notes: list[str] = []
    find_template(KEY, SIZES, RECIPE, cache=cache, shipped=cache / "none", note=notes.append)
    assert notes[1:] == ["CUDA's choices are imitated as in torch 2.12; with torch 2.13.0 they may differ"]


def test_a_cold_template_is_traced_in_another_process(tmp_path: Path, parts: dict[str, Part]) -> None:
    template = find_template(KEY, SIZES, RECIPE, cache=tmp_path, shipped=tmp_path / "none")
    assert template.source == "traced now"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(part.key.file_name for part in parts.values())
    for part in parts.values():
        fresh = read_part(tmp_path, part.key)
        assert fresh is not None
        for name, tape in part.tapes.items():
            assert fresh.tapes[name].events.tolist() == tape.events.tolist()
            assert fresh.tapes[name].block_coefficient.tolist() == tape.block_coefficient.tolist()


def test_a_wrong_request_is_told_as_one(tmp_path: Path) -> None:
    recipe = Recipe(factory=RECIPE.factory, settings={"model_config": {"model_type": "no such model"}})
    with pytest.raises(RequestError, match="no such model"):
        find_template(KEY, SIZES, recipe, cache=tmp_path, shipped=tmp_path)


def test_a_trace_that_fails_says_why(tmp_path: Path) -> None:
    recipe = Recipe(factory=RECIPE.factory, settings={"model_config": dict(BART), "no_such_setting": 1})
    with pytest.raises(WorkError, match="no_such_setting"):
        find_template(KEY, SIZES, recipe, cache=tmp_path, shipped=tmp_path)


def test_a_query_imports_no_torch(cache: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from cluster.estimator.template_store import find_template;"
        "from cluster.estimator.template import TemplateKey; from cluster.estimator.workload import Recipe;"
        "from cluster.estimator.template_keys import ExactSizes;"
        f"key = TemplateKey(**{vars(KEY)!r}); folder = Path({str(cache)!r});"
        f"sizes = ExactSizes(**{dataclasses.asdict(SIZES)!r});"
        "template = find_template(key, sizes, Recipe(factory='none:none'), cache=folder, shipped=folder);"
        "assert template.allocated_bytes(8, 512, 128) > 0;"
        "heavy = {'torch', 'transformers', 'ray'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_model_that_is_uneven_gets_parts_of_its_exact_sizes(
    tmp_path: Path, parts: dict[str, Part], monkeypatch: pytest.MonkeyPatch
) -> None:
    traced: list[PartKey] = []

    def build(recipe: Recipe, keys: list[PartKey], *, family: str, folder: Path) -> None:
        for key in keys:
            traced.append(key)
            if key.part == "optimizer" or "sizes" in dict(key.options):
                write_part(folder, dataclasses.replace(parts[key.part], key=key))
            else:
                (folder / key.uneven_name).write_text("it runs differently for different lengths\n")

    monkeypatch.setattr(template_store, "build_in_subprocess", build)
    template_store._remembered.cache_clear()
    found = find_template(KEY, SIZES, RECIPE, cache=tmp_path, shipped=tmp_path / "none")
    assert found.key.sizes == "4x64x16-8x64x16x8x64x1"
    assert [dict(key.options).get("sizes") for key in traced] == [None, None, None, "4x64x16", "8x64x16x8x64x1"]
    assert has_template(KEY, SIZES, cache=tmp_path, shipped=tmp_path / "none")
    longer = dataclasses.replace(SIZES, encoder_len=128)
    assert not has_template(KEY, longer, cache=tmp_path, shipped=tmp_path / "none")
    assert find_template(KEY, longer, RECIPE, cache=tmp_path, shipped=tmp_path / "none").key.sizes != found.key.sizes
    assert len(traced) == 7  # the general parts are not tried again


def test_a_window_names_parts_of_its_own() -> None:
    key = dataclasses.replace(KEY, window="beyond512-within512")
    assert dict(part_key(key, "step").options)["window"] == "beyond512"
    assert dict(part_key(key, "evaluation").options)["window"] == "beyond512-within512"
    assert part_key(key, "optimizer") == part_key(KEY, "optimizer")
