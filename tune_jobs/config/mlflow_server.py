"""The part `mlflow` of a sweep file's section `tracking`."""

from typing import Self

from pydantic import model_validator

from tuning_common.strict import model

_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")


@model
class MlflowServer:
    """Where MLflow keeps the runs of a sweep.

    Attributes:
        uri: A server (https://...) or a database (sqlite:///mlflow.db); empty: MLflow is not used. Names and passwords
            belong in the environment.
        experiment: MLflow's experiment; None: `project`.
    """

    uri: str = ""
    experiment: str | None = None

    @model_validator(mode="after")
    def _check_uri(self) -> Self:
        problems = uri_problems(self.uri) if self.uri or self.experiment is not None else []
        if problems:
            raise ValueError(*problems)
        return self


def uri_problems(uri: str) -> list[str]:
    """Returns what is wrong with MLflow's address, without a password in it.

    >>> uri_problems("sqlite:///mlflow.db"), uri_problems("https://me:secret@mlflow.example.org")[0][:60]
    ([], 'uri must not hold a name or password, as files keep it; writ')
    """
    scheme, _, rest = uri.partition("://")
    if not rest or scheme.partition("+")[0] not in _SCHEMES:
        return [
            f"uri must be a server or a database ({', '.join(_SCHEMES)}), for example sqlite:///mlflow.db or"
            " https://mlflow.example.org; MLflow keeps no new runs in plain folders"
        ]
    if "password" in rest.lower() or ("@" in rest and scheme != "sqlite"):
        public = rest.rpartition("@")[2].partition("?")[0]
        return [
            f"uri must not hold a name or password, as files keep it; write {scheme}://{public} and set"
            " MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        ]
    return []
