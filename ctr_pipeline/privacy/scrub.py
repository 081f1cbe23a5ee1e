"""Removes a user's hash from the files beside the lake: vocabularies, bundles, texts, databases."""

import os
import sqlite3
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ctr_pipeline.errors import UserError

NUMBERS_ONLY = (".npy", ".data")
"""Files that hold no text, and are large."""

DATABASES = (".db",)
VOCABULARY = "vocabulary.parquet"
PATIENCE_SECONDS = 30.0
"""How long a database may be busy."""


class ScrubError(UserError):
    """A file cannot be changed just now."""


@dataclass
class Scrubbed:
    """What was changed below one folder, as paths relative to it."""

    vocabularies: list[str] = field(default_factory=list)
    bundles: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    databases: list[str] = field(default_factory=list)


def scrub(root: Path, skip: Collection[Path], hashed: str, features: Collection[str]) -> Scrubbed:
    """Removes ``hashed`` from every file below ``root``.

    A vocabulary loses the row of the user, who is then an unknown one to its model; the manifest of a bundle around it
    is made again. In texts and databases zeros take the place of the hash.

    Args:
        root: The data root.
        skip: Folders to leave alone.
        hashed: The hash.
        features: Features whose values are hashes of users.
    """
    done = Scrubbed()
    for path in _files(root, skip):
        name = path.relative_to(root).as_posix()
        if path.name == VOCABULARY:
            if _drop_word(path, hashed, features):
                done.vocabularies.append(name)
                if _renew_manifest(path.parent):
                    done.bundles.append(path.parent.relative_to(root).as_posix())
        elif path.suffix in DATABASES:
            if hashed.encode() in path.read_bytes() and _blank_database(path, hashed):
                done.databases.append(name)
        elif hashed.encode() in path.read_bytes():
            _write(path, path.read_bytes().replace(hashed.encode(), b"0" * len(hashed)))
            done.texts.append(name)
    return done


def holders(root: Path, hashed: str) -> list[str]:
    """Files below ``root`` that hold ``hashed``, as bytes or in a decoded Parquet column, relative to it."""
    return [path.relative_to(root).as_posix() for path in _files(root, ()) if _holds(path, hashed)]


def _holds(path: Path, hashed: str) -> bool:
    import polars as pl

    if hashed.encode() in path.read_bytes():
        return True
    if path.suffix != ".parquet":
        return False
    texts = pl.read_parquet(path, hive_partitioning=False).select(pl.col(pl.String))
    found = texts.select(pl.any_horizontal(pl.all().str.contains(hashed, literal=True).any())) if texts.width else None
    return found is not None and bool(found.item())


def _files(root: Path, skip: Collection[Path]) -> Iterator[Path]:
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.suffix not in NUMBERS_ONLY and not any(path.is_relative_to(top) for top in skip):
            yield path


def _drop_word(path: Path, hashed: str, features: Collection[str]) -> bool:
    import polars as pl

    words = pl.read_parquet(path)
    kept = words.filter(~((pl.col("key") == hashed) & pl.col("feature").is_in(list(features))).fill_null(False))
    if kept.height == words.height:
        return False
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    kept.write_parquet(temporary, compression="zstd", statistics=False)
    temporary.replace(path)
    return True


def _renew_manifest(folder: Path) -> bool:
    """Makes the manifest of a bundle again, if the folder is one."""
    import json

    from ctr_pipeline.serving.bundle import MANIFEST, write_manifest

    path = folder / MANIFEST
    manifest = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if "files" not in manifest:
        return False
    write_manifest(folder, manifest["name"], manifest["tasks"], manifest.get("history"))
    return True


def _blank_database(path: Path, hashed: str) -> bool:
    """Puts zeros in the place of the hash in every text of a SQLite database, and packs it, so that no page keeps it.

    Raises:
        ScrubError: a server holds the database.
    """
    try:
        return _blanked(path, hashed)
    except sqlite3.OperationalError as error:
        raise ScrubError(f"{path}: {error}. Stop `ctr ui` and whatever else uses it, then call this again.") from error


def _blanked(path: Path, hashed: str) -> bool:
    with sqlite3.connect(path, timeout=PATIENCE_SECONDS) as database:
        tables = [name for (name,) in database.execute("select name from sqlite_master where type = 'table'")]
        for table in tables:
            for _, column, *_ in database.execute(f'pragma table_info("{table}")').fetchall():
                database.execute(
                    f'update "{table}" set "{column}" = replace("{column}", ?, ?) '
                    f'where typeof("{column}") = \'text\' and instr("{column}", ?) > 0',
                    (hashed, "0" * len(hashed), hashed),
                )
        changed = database.total_changes > 0
    with sqlite3.connect(path, timeout=PATIENCE_SECONDS, isolation_level=None) as database:
        database.execute("vacuum")
        database.execute("pragma wal_checkpoint(truncate)")
    return changed


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.chmod(path.stat().st_mode)
    temporary.replace(path)
