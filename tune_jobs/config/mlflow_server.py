"""The part `mlflow` of a sweep file's section `tracking`."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from tuning_common.errors import Problems

_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")


@dataclass(frozen=True, kw_only=True)
class MlflowServer:
    """Where MLflow keeps the runs of a sweep.

    Attributes:
        uri: A server (https://...) or a database (sqlite:///mlflow.db). Names and passwords belong in the environment.
        experiment: MLflow's experiment; None: `project`.
    """

    uri: str
    experiment: str | None = None

    def __post_init__(self) -> None:
        problems = Problems()
        given = urlsplit(self.uri)
        if given.scheme.partition("+")[0] not in _SCHEMES:
            problems.add(
                f"uri must be a server or a database ({', '.join(_SCHEMES)}), for example sqlite:///mlflow.db or"
                " https://mlflow.example.org; MLflow keeps no new runs in plain folders"
            )
        if given.username or given.password or "password" in given.query.lower():
            problems.add(
                f"uri must not hold a name or password, as files keep it; write {given.scheme}://{given.hostname} and"
                " set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            )
        problems.raise_if_any("mlflow")
