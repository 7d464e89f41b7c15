"""A file from a stranger cannot run code: sweep, configuration, data, checkpoint, model folder, ledger, caches.

Each one carries a payload that would leave a mark; the mark must not appear, and a person is told what is wrong.
"""

import io
import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cluster.estimator.calibration import load_calibration
from cluster.estimator.template_file import part_from
from dialsum.config import RunConfig, load_run_config
from dialsum.data import load_examples
from dialsum.models import build_model
from dialsum.trainer import train
from tests.dialsum.test_trainer import write_data
from tests.dialsum.test_training_invariants import CutAt
from tests.tune_jobs.synthetic import wide_ledger, write
from tune_jobs.config.sweep_file import load_sweep
from tune_jobs.records.journal import Journal
from tune_jobs.report.build import build_report
from tuning_common.errors import RequestError
from tuning_common.strict import load_yaml

MARK = "the_payload_ran"


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.mark}",)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / MARK


def test_the_payload_does_run_where_nobody_guards(mark: Path) -> None:
    pickle.loads(pickle.dumps(Payload(mark)))  # noqa: S301  # so that the other tests can fail
    assert mark.exists()


@pytest.mark.parametrize("read", [load_yaml, load_sweep, load_run_config])
def test_yaml_tags_make_no_objects(tmp_path: Path, mark: Path, read: Callable[[Path], object]) -> None:
    path = tmp_path / "hostile.yaml"
    path.write_text(f"name: !!python/object/apply:os.system ['touch {mark}']\n", encoding="utf-8")
    with pytest.raises(RequestError, match=r"hostile\.yaml"):
        read(path)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["../../outside", "/etc/cron.d/job", "a/b", "$(touch x)", "-rf"])
def test_a_sweep_cannot_be_named_out_of_its_folder(tmp_path: Path, name: str) -> None:
    path = tmp_path / "sweep.yaml"
    text = {"name": name, "method": "grid", "parameters": {"seed": {"values": [1, 2]}}}
    path.write_text(json.dumps(text), encoding="utf-8")
    assert re.fullmatch(r"\w[\w.-]*", load_sweep(path).name)  # as people name sweeps for W&B, made a folder's name


@pytest.mark.parametrize(
    "expression", ["__import__('os').system('x')", "batch_size.__class__", "(lambda: 1)()", "[1][0]"]
)
def test_a_rule_is_arithmetic_and_nothing_else(tmp_path: Path, expression: str) -> None:
    path = tmp_path / "sweep.yaml"
    text = {"method": "grid", "parameters": {"seed": {"values": [1, 2]}}, "rules": {"set": {"batch_size": expression}}}
    path.write_text(json.dumps(text), encoding="utf-8")
    with pytest.raises(RequestError, match=r"set\.batch_size"):
        load_sweep(path)


def test_a_checkpoint_with_a_payload_is_refused(tmp_path: Path, mark: Path) -> None:
    config = RunConfig.from_dict(write_data(tmp_path))
    checkpoint, cache = tmp_path / "checkpoint", tmp_path / "cache"
    with pytest.raises(SystemExit):
        train(config, tmp_path / "run", reporter=CutAt(8, checkpoint), cache_dir=cache)
    read = ("optimizer.pt", "scheduler.pt", "rng_state.pth")
    for name in (*read, "training_args.bin", "pytorch_model.bin"):
        hostile = tmp_path / f"hostile-{name}"
        shutil.copytree(checkpoint, hostile)
        assert (hostile / name).exists() == (name != "pytorch_model.bin")
        torch.save(Payload(mark), hostile / name)
        if name in read:
            with pytest.raises(Exception, match=r"Weights only load failed"):
                train(config, tmp_path / f"again-{name}", resume_from=hostile, cache_dir=cache)
        else:  # nobody reads it
            train(config, tmp_path / f"again-{name}", resume_from=hostile, cache_dir=cache)
        assert not mark.exists(), name


def test_a_model_folder_runs_neither_its_pickles_nor_its_code(tmp_path: Path, mark: Path) -> None:
    values = write_data(tmp_path) | {"num_epochs": 1}
    best = train(RunConfig.from_dict(values), tmp_path / "run", cache_dir=tmp_path / "cache").best_model_dir
    folder = tmp_path / "model"
    shutil.copytree(best, folder)
    (folder / "evil.py").write_text(f"import os\nos.system('touch {mark}')\nclass Config: pass\n", encoding="utf-8")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    code = {"AutoConfig": "evil.Config", "AutoModelForSeq2SeqLM": "evil.Config"}
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": code}), encoding="utf-8")
    (folder / "model.safetensors").unlink()
    torch.save(Payload(mark), folder / "pytorch_model.bin")
    from dialsum.tokenizers import build_tokenizer

    run = RunConfig.from_dict(values | {"model": str(folder)})
    tokenizer = build_tokenizer(run, [], tmp_path / "cache")
    with pytest.raises(RequestError, match="safetensors"):
        build_model(run, tokenizer)
    assert not mark.exists()


def test_data_ledger_and_journal_are_only_read(tmp_path: Path, mark: Path) -> None:
    attack = f"<script>fetch('//x')</script>=cmd|' /C touch {mark}'!A0 $(touch {mark}) {{{{7*7}}}}"
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps({"fname": attack, "dialogue": attack, "summary": attack}) + "\n", encoding="utf-8")
    assert load_examples(data)[0].fname == attack

    folder = write(tmp_path / "sweep", wide_ledger(8))
    lines = folder.ledger.read_text(encoding="utf-8").replace("kobart", attack.replace('"', "'"))
    folder.ledger.write_text(lines, encoding="utf-8")
    page = build_report(folder.path).html.read_text(encoding="utf-8")
    assert "<script>fetch" not in page
    assert "&lt;script&gt;fetch" in page
    (tmp_path / "journal.jsonl").write_bytes(pickle.dumps(Payload(mark)))
    assert Journal(tmp_path / "journal.jsonl").trials == {}
    assert not mark.exists()


def test_caches_are_arrays_without_objects(tmp_path: Path, mark: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, events=np.array([Payload(mark)], dtype=object))
    assert part_from(buffer.getvalue()) is None  # it is traced again
    path = tmp_path / "calibration.jsonl"
    path.write_bytes(pickle.dumps(Payload(mark)))
    load_calibration(path)
    assert not mark.exists()
