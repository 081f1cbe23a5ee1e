"""The environment variables of the process, read here and nowhere else in the pipeline.

(The trainer, a program of its own, reads the variables of its launcher in `training/entry.py`.)
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

TRACKING_PAGE, DAGSTER_PAGE = "http://127.0.0.1:5000", "http://127.0.0.1:3000"
"""Where `ctr ui` serves the pages, so that links of a run made without it work once it is started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What the variables of a process mean for the pipeline."""

    variables: Mapping[str, str]
    """All of them, for the libraries and programs that have variables of their own (Java, Spark, DuckDB's memory)."""
    data_root: Path | None
    """``CTR_DATA_ROOT``: data root of Dagster's processes."""
    spec: Path | None
    """``CTR_SPEC``: spec of Dagster's processes where the data root holds none yet."""
    pseudonym_key: str
    """``CTR_PSEUDONYM_KEY``: the key of the hashes itself; empty where a file holds it."""
    key_file: Path
    """``CTR_PSEUDONYM_KEY_FILE``: the file that holds the key, by default in the user's configuration folder."""
    webhook_url: str
    """``CTR_WEBHOOK_URL``: address that alerts are posted to; empty for none."""
    tracking_uri: str
    """``MLFLOW_TRACKING_URI``: MLflow's store; empty for the one inside the data root."""
    tracking_page: str
    """``CTR_MLFLOW_URL``: address of the MLflow page, for links."""
    dagster_page: str
    """``CTR_DAGSTER_URL``: address of the Dagster page, for links."""
    serve_token: str = field(repr=False)
    """``CTR_SERVE_TOKEN``: what requests to `ctr serve` must hold; empty for nothing."""
    serve_settings: str
    """``CTR_SERVE_SETTINGS``: what `ctr serve` tells its own processes, as JSON."""

    @classmethod
    def of(cls, variables: Mapping[str, str]) -> "Environment":
        """The meaning of ``variables``."""

        def path(name: str) -> Path | None:
            return Path(variables[name]) if variables.get(name) else None

        home = Path(variables.get("HOME") or Path.home())
        configuration = path("XDG_CONFIG_HOME") or home / ".config"
        return cls(
            variables=variables,
            data_root=path("CTR_DATA_ROOT"),
            spec=path("CTR_SPEC"),
            pseudonym_key=variables.get("CTR_PSEUDONYM_KEY", ""),
            # Apart from the data that it protects, and the same for all data roots, so that their hashes agree.
            key_file=path("CTR_PSEUDONYM_KEY_FILE") or configuration / "ctr_pipeline" / "pseudonym.key",
            webhook_url=variables.get("CTR_WEBHOOK_URL", ""),
            tracking_uri=variables.get("MLFLOW_TRACKING_URI", ""),
            tracking_page=variables.get("CTR_MLFLOW_URL", TRACKING_PAGE),
            dagster_page=variables.get("CTR_DAGSTER_URL", DAGSTER_PAGE),
            serve_token=variables.get("CTR_SERVE_TOKEN", ""),
            serve_settings=variables.get("CTR_SERVE_SETTINGS", ""),
        )


def process_environment() -> Environment:
    """The environment of this process as it is now."""
    return Environment.of(os.environ)


def set_variables(variables: Mapping[str, str]) -> None:
    """Sets variables of this process, for the libraries and child processes that read them."""
    os.environ.update(variables)


def set_missing_variables(variables: Mapping[str, str]) -> None:
    """Sets those variables of this process that are not set."""
    for name, value in variables.items():
        os.environ.setdefault(name, value)


def set_default_variables(variables: Mapping[str, str]) -> None:
    """Sets those variables of this process that are not set, for the libraries that read them."""
    for name, value in variables.items():
        os.environ.setdefault(name, value)
