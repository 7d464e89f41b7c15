"""What a person reads when a sweep file is wrong, word for word.

After a wanted change: GOLDEN_ACCEPT=1 python -m pytest tests/golden/test_sweep_errors.py, then read the diff in git.
"""

import os
from pathlib import Path

import pytest

from tune_jobs.config.sweep_file import load_sweep
from tuning_common.errors import RequestError

FOLDER = Path(__file__).parent / "sweep_errors"


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.yaml")))
def test_every_problem_of_a_file_is_listed_with_its_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_text((FOLDER / name).read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "tiny.yaml").write_text("model: tiny-bart\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError) as caught:
        load_sweep(Path(name))
    shown = str(caught.value).replace(str(tmp_path), "FOLDER") + "\n"
    golden = FOLDER / name.replace(".yaml", ".txt")
    if os.environ.get("GOLDEN_ACCEPT"):
        golden.write_text(shown, encoding="utf-8")
    assert shown == golden.read_text(encoding="utf-8")
