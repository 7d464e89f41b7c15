"""An MLflow that is installed and not asked for leaves nothing behind: Ray imports it whenever Tune begins."""

import os
import subprocess
import sys
from pathlib import Path

RAY_COUNTS_LOGGERS = (
    "from tune_jobs.driver.tuner import configure_tune; configure_tune();"
    "from ray.air.integrations.mlflow import MLflowLoggerCallback; import mlflow"
)


def test_nothing_is_written_below_the_home_folder(tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path)}
    environment = {
        name: value for name, value in environment.items() if not name.startswith(("MLFLOW", "XDG_", "PYTEST", "CI"))
    }
    subprocess.run([sys.executable, "-c", RAY_COUNTS_LOGGERS], env=environment, check=True, timeout=300)
    assert list(tmp_path.iterdir()) == []
