"""Which snapshots there are: one small file, replaced as a whole, that servers read again when it changes."""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

from ctr_pipeline.errors import UserError

INDEX = "current.json"
KEPT = 7
"""Snapshots of one definition that are kept, those of the last days."""

DEFINITIONS = 2
"""Definitions of which snapshots are kept, the last ones made."""

FORMAT = 1


class StoreError(UserError):
    """A snapshot that cannot be made or used; the message says what was found, where, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotFacts:
    """What a snapshot is."""

    id: str
    """Digest of definition, day and content, and the name of its folder."""
    day: date
    """Day on whose requests its values are to be used."""
    definition: str
    """As :func:`~ctr_pipeline.features.history_definition.history_definition`."""
    history_version: int | None
    """Version of the history table that it was read from; None where it was computed for a day that the table lacks."""
    keys: int
    """Keys with a past, over all key columns."""
    bytes: int
    """Size of its file."""


def listed(root: Path) -> tuple[SnapshotFacts, ...]:
    """The snapshots below ``root``, in the order in which they were made.

    Raises:
        StoreError: the list cannot be read.
    """
    path = root / INDEX
    broken = f"{path}: not a list of snapshots. Delete it, and make the snapshots again."
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = content["format"]
    except FileNotFoundError:
        return ()
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(broken) from error
    if found != FORMAT:
        raise StoreError(f"{path}: format {found!r}; this version reads format {FORMAT}. Make the snapshots again.")
    try:
        return tuple(SnapshotFacts(**{**one, "day": date.fromisoformat(one["day"])}) for one in content["snapshots"])
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(broken) from error


def write_list(root: Path, snapshots: Sequence[SnapshotFacts]) -> None:
    """Makes ``snapshots`` the list, and removes the folders of all others.

    Whoever has one of those open can use it until they close it.
    """
    content = {"format": FORMAT, "snapshots": [{**asdict(one), "day": one.day.isoformat()} for one in snapshots]}
    temporary = root / f".{INDEX}.{os.getpid()}"
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(json.dumps(content, indent=1) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(root / INDEX)
    names = {one.id for one in snapshots}
    for folder in root.iterdir():
        # Beside the snapshots lie the partial ones of writers that were killed.
        if folder.is_dir() and folder.name not in names and (folder / "data.mdb").is_file():
            shutil.rmtree(folder)


def add_to_list(root: Path, made: SnapshotFacts) -> None:
    """Lists a snapshot in place of another of its day and definition.

    It stays until the next one is made; of the others of each definition those of the last days. Those of the definition
    before stay too, for the model that is served until another one is promoted.
    """
    same = [one for one in listed(root) if (one.definition, one.day) != (made.definition, made.day)]
    definitions = list(dict.fromkeys(one.definition for one in (made, *reversed(same))))[:DEFINITIONS]
    kept = []
    for definition in reversed(definitions):
        others = sorted((one for one in same if one.definition == definition), key=lambda one: one.day)
        days = sorted(one.day for one in (*others, made) if one.definition == definition)[-KEPT:]
        kept += [one for one in others if one.day in days]
    write_list(root, [*kept, made])
