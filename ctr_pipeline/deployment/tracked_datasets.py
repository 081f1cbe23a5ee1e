"""What a training reads, as MLflow shows it: versions of the lake's tables, and the splits of the packed dataset."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctr_pipeline.deployment.json_files import read_json

if TYPE_CHECKING:
    from ctr_pipeline.lake import Lake

CONTEXTS = {"train": "training", "validation": "validation", "calibration": "calibration", "test": "test"}
"""By split, what MLflow's pages call its use."""

_TYPES = {"Int8": "integer", "Int16": "integer", "Int32": "integer", "Int64": "long", "Float32": "float",
          "Float64": "double", "String": "string", "Boolean": "boolean", "Date": "datetime",
          "List(String)": "[string]", "List(Float64)": "[double]"}  # fmt: skip
"""MLflow's name of each type that a table of the lake holds, in brackets for lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedDataset:
    """A dataset among the inputs of a run. Name and digest together identify it within an experiment."""

    name: str
    digest: str
    """Its version, at most 36 characters."""
    source_type: str
    """``delta_table`` or ``local``, which ``mlflow.data.get_source`` knows."""
    source: Mapping[str, Any]
    """Where it lies, in the form that belongs to ``source_type``."""
    columns: Mapping[str, str]
    """MLflow's type of each column."""
    profile: Mapping[str, Any]
    """Rows, and from when to when."""
    context: str
    """What it is used for."""


def table_datasets(lake: "Lake", versions: Mapping[str, int]) -> list[TrackedDataset]:
    """The tables at the versions that a training reads.

    The digest is the version with the beginning of the table's id: a table that was made anew begins at 0 again.

    Raises:
        LakeError: a table or version does not exist.
    """
    found = []
    for name, version in versions.items():
        facts = lake.facts(name, version)
        found.append(
            TrackedDataset(
                name=name,
                digest=f"v{version}-{facts.id[:8]}",
                source_type="delta_table",
                source={"path": str(lake.root / name), "delta_table_version": version, "delta_table_id": facts.id},
                columns={column: _TYPES[str(kind)] for column, kind in facts.schema.items()},
                profile={
                    "num_rows": facts.rows,
                    "version": version,
                    "first_day": str(facts.first_day),
                    "last_day": str(facts.last_day),
                },
                context="training",
            )
        )
    return found


def split_datasets(packed: Path, splits: Sequence[str] = tuple(CONTEXTS)) -> list[TrackedDataset]:
    """The splits of the packed dataset in the folder ``packed``, identified by the content of their arrays."""
    manifest, layout = read_json(packed / "manifest.json"), read_json(packed / "layout.json")
    columns = {
        **{column["name"]: "float" for column in layout["numeric"]},
        **{column["name"]: "integer" for column in layout["ids"]},
        **dict.fromkeys(layout["tasks"], "integer"),
    }
    found = []
    for split in splits:
        arrays = {name: digest for name, digest in manifest["sha256"].items() if name.startswith(f"{split}/")}
        digest = hashlib.sha256("".join(arrays[name] for name in sorted(arrays)).encode()).hexdigest()
        facts = manifest["splits"][split]
        found.append(
            TrackedDataset(
                name=split,
                digest=digest[:12],
                source_type="local",
                source={"uri": str(packed / split)},
                columns=columns,
                profile={"num_rows": facts["rows"], "first": facts["first"], "last": facts["last"], "sha256": arrays},
                context=CONTEXTS[split],
            )
        )
    return found
