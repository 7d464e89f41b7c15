"""Shipped templates: there for every named model, of the installed versions, and what a trace still sees."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from cluster.estimator.template_archive import archived_parts, write_archive
from cluster.estimator.template_difference import differences
from cluster.estimator.template_file import Part
from cluster.estimator.template_keys import installed_version
from tune_jobs.__main__ import main
from tune_jobs.placing.template_shipping import SHIPPED_MODELS, find_archive, shipped_facts, shipped_jobs
from tuning_common import cli

REMEDY = "make them again: python -m tune_jobs templates --make"
MOST_BYTES = 3 * 2**20  # of all archives together


def parts_of(archive: str) -> list[Part]:
    path = find_archive(archive)
    assert path is not None, REMEDY
    return archived_parts(path)


@pytest.mark.parametrize("archive", sorted(SHIPPED_MODELS))
def test_every_part_is_shipped_for_the_installed_versions(archive: str) -> None:
    shipped = {part.key for part in parts_of(archive)}
    assert shipped == {job.key for job in shipped_jobs(shipped_facts(archive))}, REMEDY
    versions = (installed_version("torch"), installed_version("transformers"))
    assert {(key.torch, key.transformers) for key in shipped} == {versions}, REMEDY


def test_archives_are_small() -> None:
    paths = [path for path in map(find_archive, SHIPPED_MODELS) if path is not None]
    assert sum(path.stat().st_size for path in paths) < MOST_BYTES


# One of each kind of part, one of each family: a new torch or transformers that changes any of these changes the model
# code or kernels that all parts of the family share. `templates --check` traces every part.
CHECKED = [
    ("kobart", "step", {"precision": "half", "kernels": "cudnn", "layers": "kept", "smoothing": "plain"}),
    ("kobart", "optimizer", {"optimizer": "adafactor"}),
    ("kobart", "optimizer", {"optimizer": "adamw"}),
    ("kobart", "optimizer", {"optimizer": "adamw_8bit"}),
    ("kogpt2", "step", {"precision": "half", "kernels": "flash", "layers": "recomputed", "smoothing": "smoothed"}),
    ("kogpt2", "evaluation", {"precision": "half", "attention": "sdpa", "ngrams": "ngrams"}),
    ("t5-small", "step", {"precision": "fp32", "attention": "eager", "layers": "kept"}),
    ("mt5-untied", "step", {"precision": "half", "kernels": "flash", "dropout": "nodropout", "layers": "kept"}),
    ("mt5-untied", "evaluation", {"precision": "fp32", "attention": "sdpa", "ngrams": "free"}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("archive", "part", "options"), CHECKED)
def test_a_trace_sees_what_the_shipped_template_says(archive: str, part: str, options: dict[str, str]) -> None:
    wanted = options.items()
    jobs = shipped_jobs(shipped_facts(archive))
    job = next(job for job in jobs if job.key.part == part and wanted <= dict(job.key.options).items())
    shipped = next(
        (found for found in parts_of(archive) if (found.key.part, found.key.options) == (part, job.key.options)), None
    )
    assert shipped is not None, REMEDY
    found = differences(shipped, job.trace())
    assert found == [], f"this version of torch or transformers holds memory otherwise; look why, then {REMEDY}"


def test_the_list_says_what_is_used_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(main, ["templates", "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["model"] for row in rows] == list(SHIPPED_MODELS)
    assert all(row["used_here"] for row in rows)
    sizes = {row["model"]: row["parameters"] for row in rows}
    assert (sizes["kobart"], sizes["mt5-untied"], sizes["mt5-base-untied"]) == (123_859_968, 300_176_768, 582_401_280)


def test_a_difference_is_told_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shipped = parts_of("kobart")
    first = shipped_jobs(shipped_facts("kobart"))[0].key
    other = [
        dataclasses.replace(part, operations=part.operations + 1) if part.key == first else part for part in shipped
    ]
    write_archive(tmp_path, "kobart", other[:-1])
    command = ["templates", "kobart", "--check", "--every", "1000", "--folder", str(tmp_path)]
    assert cli.run(main, command) == 1
    said = capsys.readouterr().out
    assert said.startswith("kobart: 2 differences\n")
    assert "optimizer adamw_fused: operations: 1 before, 0 now" in said
    assert "not in kobart-" in said
    archive = find_archive("kobart")
    assert archive is not None
    shutil.copy(archive, tmp_path)
    assert cli.run(main, command) == 0


def test_wrong_names_are_refused_together(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(main, ["templates", "kobrt", "--every", "0"]) == 2
    said = capsys.readouterr().err
    assert "'kobrt' is not shipped; did you mean 'kobart'?" in said
    assert "--every must be at least 1" in said


def test_a_missing_archive_says_how_to_make_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(main, ["templates", "kobart", "--check", "--folder", str(tmp_path)]) == 2
    assert "templates --make kobart" in capsys.readouterr().err
