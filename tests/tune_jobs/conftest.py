"""What the tests of this package share."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from cluster.estimator import template_store
from cluster.estimator.cuda_imitation import KernelFamily
from cluster.estimator.template_build import build_in_subprocess
from cluster.estimator.template_keys import PartKey
from cluster.estimator.workload import Recipe


@pytest.fixture(autouse=True, scope="session")
def _each_model_is_traced_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps what was traced for later tests, whose folders have no cache yet."""
    made: dict[str, Path] = {}

    def build(recipe: Recipe, keys: Sequence[PartKey], *, family: KernelFamily, folder: Path) -> None:
        wanted = repr((recipe, keys, family))
        if wanted not in made:
            traced = tmp_path_factory.mktemp("templates")
            build_in_subprocess(recipe, keys, family=family, folder=traced)
            made[wanted] = traced
        shutil.copytree(made[wanted], folder, dirs_exist_ok=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(template_store, "build_in_subprocess", build)
        yield
