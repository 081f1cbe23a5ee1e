"""Copies of a data root that tests may change."""

import shutil
import sqlite3
from pathlib import Path

ADDRESSES = {
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "logged_models": ("artifact_location",),
    "model_versions": ("source", "storage_location"),
}
"""Columns of MLflow's database with absolute paths."""


def copy_root(data_root: Path, folder: Path) -> Path:
    """A copy of ``data_root``, and of the simulated logs beside it, in the new ``folder``; MLflow's paths point into it."""
    shutil.copytree(data_root.parent, folder)
    copy = folder / data_root.name
    with sqlite3.connect(copy / "mlflow.db") as database:
        for table, columns in ADDRESSES.items():
            for column in columns:
                database.execute(f"update {table} set {column} = replace({column}, ?, ?)", (str(data_root), str(copy)))
    return copy
