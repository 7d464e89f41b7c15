"""Imports follow the arrows (common <- dialsum, cluster <- tune_jobs) and heavy packages have one door."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("common", "dialsum", "cluster", "tune_jobs")
ALLOWED = {
    "common": {"common"},
    "dialsum": {"common", "dialsum"},
    "cluster": {"common", "cluster"},
    "tune_jobs": set(PACKAGES),
}
FORBIDDEN_HEAVY = {
    "common": {"torch", "transformers", "ray", "wandb", "numpy"},
    "dialsum": {"ray", "wandb", "pynvml"},
    "cluster": {"transformers", "wandb"},
    "tune_jobs": {"pynvml"},
}
DOORS = {  # heavy package -> the only modules that may import it
    "pynvml": {"cluster/machines/nvml.py"},
    "ray.job_submission": {"cluster/machines/jobs.py"},
    "cryptography": {"tune_jobs/jobs/sealed_key.py"},
    "ray.tune": {"tune_jobs/driver/tuner.py"},
    "ray.util.metrics": {"cluster/machines/metrics.py"},
    "scipy": {"cluster/scheduling/linear_program.py"},
    "wandb": {"tune_jobs/tracking/wandb_door.py", "tune_jobs/tracking/wandb_runs.py"},  # one writes, one reads
    "wandb_workspaces": {"tune_jobs/tracking/wandb_report.py"},
    "yaml": {"common/strict.py"},
}


def modules() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imported_names(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write absolute imports, so that arrows can be read"
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_packages_import_only_along_the_arrows() -> None:
    wrong = []
    for path in modules():
        package = path.relative_to(ROOT).parts[0]
        tops = {name.split(".")[0] for name in imported_names(path)}
        wrong += [f"{path.relative_to(ROOT)} imports {top}" for top in tops & set(PACKAGES) - ALLOWED[package]]
        wrong += [f"{path.relative_to(ROOT)} imports {top}" for top in tops & FORBIDDEN_HEAVY[package]]
    assert wrong == []


@pytest.mark.parametrize("heavy", sorted(DOORS))
def test_heavy_packages_have_one_door(heavy: str) -> None:
    users = {
        str(path.relative_to(ROOT))
        for path in modules()
        if any(name == heavy or name.startswith(heavy + ".") for name in imported_names(path))
    }
    assert users <= DOORS[heavy], f"{heavy} is imported beside its door by {sorted(users - DOORS[heavy])}"


def test_torch_is_imported_inside_functions_of_cluster() -> None:
    wrong = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "cluster").rglob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, (ast.Import, ast.ImportFrom)) and "torch" in ast.unparse(node).split(" import")[0].split()
    ]
    assert wrong == []
