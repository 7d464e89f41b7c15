"""Imports run one way: between packages, between rooms of a package, between files; heavy packages have few users."""

import ast
import graphlib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("tuning_common", "dialsum", "cluster", "tune_jobs")
ALLOWED = {
    "tuning_common": {"tuning_common"},
    "dialsum": {"tuning_common", "dialsum"},
    "cluster": {"tuning_common", "cluster"},
    "tune_jobs": set(PACKAGES),
}
FORBIDDEN_HEAVY = {
    "tuning_common": {"torch", "transformers", "ray", "wandb", "numpy"},
    "dialsum": {"ray", "wandb", "pynvml"},
    "cluster": {"transformers", "wandb"},
    "tune_jobs": {"pynvml"},
}
ONLY_IN = {  # heavy package -> the only modules that may import it
    "grpc": {"cluster/machines/connection.py"},
    "peft": {"dialsum/adapters.py"},
    "pyarrow": {"dialsum/tables.py"},
    "pynvml": {"cluster/machines/nvml.py"},
    "ray._private": {"cluster/machines/ray_nodes.py"},
    "ray.job_submission": {"cluster/machines/jobs.py"},
    "cryptography": {"tune_jobs/jobs/sealed_key.py"},
    "ray.tune": {
        "tune_jobs/config/ray_schedulers.py",
        "tune_jobs/search/tune_schedulers.py",
        "tune_jobs/search/early_stopping.py",
        "tune_jobs/search/scheduler_controller.py",
        "tune_jobs/search/wandb_hyperband.py",
        "tune_jobs/driver/callbacks.py",
        "tune_jobs/driver/tuner.py",
        "tune_jobs/tracking/tune_loggers.py",
        "tune_jobs/trial/tune_session.py",
    },
    "ray.air": {"tune_jobs/tracking/tune_loggers.py"},
    "mlflow": {"tune_jobs/tracking/tune_loggers.py"},
    "ray.util.metrics": {"cluster/machines/metrics.py"},
    "scipy": {"cluster/scheduling/linear_program.py"},
    "wandb": {"tune_jobs/tracking/wandb_client.py", "tune_jobs/tracking/wandb_runs.py"},  # one writes, one reads
    "wandb_workspaces": {"tune_jobs/tracking/wandb_report.py"},
    "yaml": {"tuning_common/strict.py"},
}
ROOMS = {  # from low to high: a room imports itself and lower ones; a module beside the rooms counts as a room
    "dialsum": ("", "sample_data", "__main__"),
    "cluster": ("estimator", "machines", "guard", "scheduling", "commands", "__main__"),
    "tune_jobs": (
        "config", "records", "analysis", "search", "placing", "trial", "planning", "report", "tracking", "after",
        "driver", "jobs", "checks", "commands", "api", "", "__main__",
    ),
}  # fmt: skip


@cache
def modules() -> dict[str, Path]:
    """Every module of the product by its name."""
    paths = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


@cache
def imported_names(path: Path) -> frozenset[str]:
    """What a file imports, also inside functions and for type checking only."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write absolute imports, so that arrows can be read"
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def imported_modules(name: str) -> set[str]:
    """Which modules of the product one of them imports."""
    return {one for one in imported_names(modules()[name]) if one in modules()} - {name, name.partition(".")[0]}


def room_of(name: str) -> tuple[str, str]:
    """Package and room of a module; modules of dialsum beside sample_data are in the room ""."""
    package, _, rest = name.partition(".")
    room = rest.partition(".")[0]
    return package, "" if package == "dialsum" and room not in ROOMS["dialsum"] else room


def test_packages_import_only_along_the_arrows() -> None:
    wrong = []
    for path in modules().values():
        package = path.relative_to(ROOT).parts[0]
        tops = {name.split(".")[0] for name in imported_names(path)}
        wrong += [f"{path.relative_to(ROOT)} imports {top}" for top in tops & set(PACKAGES) - ALLOWED[package]]
        wrong += [f"{path.relative_to(ROOT)} imports {top}" for top in tops & FORBIDDEN_HEAVY[package]]
    assert wrong == []


def test_a_room_imports_only_lower_rooms() -> None:
    upward = set()
    for name in modules():
        package, room = room_of(name)
        if package not in ROOMS or name == package:
            continue
        assert room in ROOMS[package], f"{name} lies in no known room of {package}: add it to ROOMS"
        for other in imported_modules(name):
            other_package, other_room = room_of(other)
            if other_package != package:
                continue
            if ROOMS[package].index(other_room) > ROOMS[package].index(room):
                upward.add((name, other))
    assert upward == set(), f"imported from a higher room: {sorted(upward)}"


def test_no_file_is_part_of_a_circle() -> None:
    try:
        graphlib.TopologicalSorter({name: imported_modules(name) for name in modules()}).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"files import each other in a circle: {' <- '.join(error.args[1])}")


def test_the_trials_process_and_the_driver_share_only_the_trials_entry() -> None:
    shared = {
        (name, other)
        for name in modules()
        for other in imported_modules(name)
        if {room_of(name)[1], room_of(other)[1]} == {"driver", "trial"} and other != "tune_jobs.trial.run_trial"
    }
    assert shared == set(), f"both processes use it, so it belongs to a lower room: {sorted(shared)}"


@pytest.mark.parametrize("heavy", sorted(ONLY_IN))
def test_heavy_packages_have_few_users(heavy: str) -> None:
    users = {
        str(path.relative_to(ROOT))
        for path in modules().values()
        if any(name == heavy or name.startswith(heavy + ".") for name in imported_names(path))
    }
    assert users <= ONLY_IN[heavy], f"{heavy} is imported by {sorted(users - ONLY_IN[heavy])} too"


def test_torch_is_imported_inside_functions_of_cluster() -> None:
    wrong = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "cluster").rglob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, (ast.Import, ast.ImportFrom)) and "torch" in ast.unparse(node).split(" import")[0].split()
    ]
    assert wrong == []
