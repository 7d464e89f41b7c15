"""The wheel: what it holds, and that its commands work from an empty folder; locked versions; the Dockerfile."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("tuning_common", "dialsum", "cluster", "tune_jobs", "configs")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for folder in PACKAGES:
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for path in [path for path in ROOT.iterdir() if path.is_file()]:
        shutil.copyfile(path, source / path.name)
    pip("wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", str(out), str(source))
    (built,) = out.glob("*.whl")
    return built


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PIP_NO_INDEX": "1"})
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_wheel_holds_code_data_types_and_licence(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"tuning_common", "dialsum", "cluster", "tune_jobs"}
    held = ("tune_jobs/sweeps/sample.yaml", "dialsum/configs/tiny.yaml", "dialsum/sample_data/scenes/home.yaml",
            "cluster/kubernetes/raycluster.yaml", "cluster/slurm/tune.sbatch")  # fmt: skip
    schemas = {f"tune_jobs/schemas/{kind}.json" for kind in ("sweep", "run", "team")}
    templates = {name.relative_to(ROOT).as_posix() for name in ROOT.glob("cluster/estimator/templates/*.xz")}
    typed = {f"{top}/py.typed" for top in tops}
    assert names >= {
        *held,
        *schemas,
        *templates,
        *typed,
        "cluster/estimator/gpu_profiles.json",
        "tune_jobs/report/page.css",
    }
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_an_installed_wheel_plans_checks_and_packages_from_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    pip("install", "--no-deps", "--target", str(tmp_path / "site"), str(wheel))
    (tmp_path / "empty").mkdir()
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site"), "PYTHONSAFEPATH": "1"}

    def run(*command: str) -> str:
        done = subprocess.run(
            [str(tmp_path / "site" / "bin" / command[0]), *command[1:]],
            cwd=tmp_path / "empty", env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    sweep = "tune_jobs/sweeps/sample.yaml"
    assert "10 trials" in run("tune-jobs", "plan", sweep, "--cluster", "1x24GiB")
    assert "10 trials; its data files, tokenizers and models can be read" in run(
        "tune-jobs", "check", sweep, "--no-pipeline"
    )
    assert "--config" in run("dialsum", "train", "--help")
    assert "simulate" in run("dialsum-cluster", "--help")
    script = (
        "from pathlib import Path; from tune_jobs.config.sweep_file import load_sweep;"
        "from tune_jobs.jobs.package import files_of; from tune_jobs.jobs.sealed_key import package_root;"
        f"print(*(f.target.as_posix() for f in files_of(load_sweep(Path('{sweep}')), package_root(), Path.cwd())))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path / "empty", env=environment, capture_output=True, text=True
    )
    assert {"sample.yaml", "configs/tiny.yaml", "tune_jobs/__main__.py"} <= set(done.stdout.split()), done.stderr


def project() -> dict[str, list[str]]:
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"])


def requirements(name: str) -> list[Requirement]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line]


def test_the_lock_has_one_version_of_each_requirement_and_no_address() -> None:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert "://" not in text
    assert "--" not in text
    assert "+" not in text
    locked = {canonicalize_name(one.name): one for one in requirements("requirements.lock")}
    assert str(locked["torch"]) == "torch==2.13.0"
    ranges = [Requirement(one) for one in project()["dependencies"]]
    asked = [one for name in ("", "-dev", "-gpu") for one in requirements(f"requirements{name}.txt")]
    for one in [*asked, *ranges]:
        assert canonicalize_name(one.name) in locked, f"{one}: make lock"
        (pin,) = locked[canonicalize_name(one.name)].specifier
        assert pin.operator == "=="
        assert one.specifier.contains(pin.version), f"{one}: make lock"


def test_the_dockerfile_follows_the_rules_and_has_what_the_build_reads() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert f" {next(one for one in requirements('requirements.txt') if one.name == 'torch')}\n" in text
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = {line[1:].rstrip("/") for line in lines if line.startswith("!")}
    assert kept >= {*PACKAGES, "pyproject.toml", "setup.py", "README.md", "LICENSE", "requirements.lock"}
    assert all((ROOT / name).exists() for name in kept)


def test_every_pin_is_within_the_range_for_users() -> None:
    ranges = {one.name: one for one in map(Requirement, project()["dependencies"])}
    pins = requirements("requirements.txt")
    assert {pin.name for pin in pins} == set(ranges)
    for pin in pins:
        (specifier,) = pin.specifier
        assert ranges[pin.name].specifier.contains(specifier.version), pin
        assert ranges[pin.name].extras == pin.extras
