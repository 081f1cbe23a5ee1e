"""Looks for raw ids in whatever a service left: bytes of files, values of tables, cells of databases, packed files, and texts."""

import base64
import gzip
import hashlib
import json
import sqlite3
import struct
import urllib.parse
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import lmdb
import polars as pl


def traces(raw: str) -> list[bytes]:
    """What would tell an id: itself, its spellings, a whole number's bytes, and hashes that need no key."""
    plain = raw.encode()
    found = [plain, plain.hex().encode(), base64.b64encode(plain).rstrip(b"="), raw.encode("utf-16-le")]
    found += [json.dumps(raw).strip('"').encode(), urllib.parse.quote(raw, safe="").encode()]
    for name in ("md5", "sha1", "sha256", "blake2b"):
        digest = hashlib.new(name, plain).digest()
        # Cut ones too.
        found += [digest[:16], digest.hex()[:24].encode()]
    if raw.isdecimal():
        found += [struct.pack("<q", int(raw)), struct.pack(">q", int(raw)), repr(float(raw)).encode()]
    return list(dict.fromkeys(found))


def contents(path: Path) -> Iterator[bytes]:
    """What a file holds: its bytes, and what is packed in it."""
    content = path.read_bytes()
    yield content
    if path.suffix == ".parquet":
        for column in pl.read_parquet(path, hive_partitioning=False):
            yield json.dumps(column.to_list(), default=str, ensure_ascii=False).encode()
    elif content[:15] == b"SQLite format 3":
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
            for (table,) in database.execute("select name from sqlite_master where type = 'table'").fetchall():
                for row in database.execute(f'select * from "{table}"'):
                    yield b"\0".join(cell if isinstance(cell, bytes) else str(cell).encode() for cell in row)
    elif content[:2] == b"\x1f\x8b":
        yield gzip.decompress(content)
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as packed:
            for name in packed.namelist():
                yield packed.read(name)
    elif path.name == "data.mdb":
        yield from _entries(path)


def _entries(path: Path) -> Iterator[bytes]:
    """Keys and values of an LMDB file, of its named parts too."""
    with lmdb.open(str(path.parent), readonly=True, lock=False, max_dbs=32) as store, store.begin() as reading:
        names = [name for name, _ in reading.cursor()]
        yield b"\0".join(key + b"\0" + value for key, value in reading.cursor())
        for name in names:
            try:
                part = store.open_db(name, txn=reading, create=False)
            except lmdb.Error:
                continue
            yield b"\0".join(key + b"\0" + value for key, value in reading.cursor(part))


def leaks(folders: Sequence[Path], texts: Sequence[bytes], ids: Sequence[str]) -> list[str]:
    """Where one of ``ids`` stands: files below ``folders``, or which of ``texts``; names of files count too."""
    wanted = [(raw, trace) for raw in ids for trace in traces(raw)]
    found = []
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            held = [str(path.relative_to(folder)).encode(), *(contents(path) if path.is_file() else ())]
            found += [f"{path}: {raw} as {trace!r}" for raw, trace in wanted if any(trace in one for one in held)]
    for at, text in enumerate(texts):
        found += [f"text {at}: {raw}: {text[:300]!r}" for raw, trace in wanted if trace in text]
    return found
