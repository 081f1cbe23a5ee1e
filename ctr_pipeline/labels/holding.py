"""Frames that are computed once because they are read more than once."""

import uuid
from typing import Any

import narwhals.stable.v2 as nw


def held(frame: nw.LazyFrame[Any]) -> nw.LazyFrame[Any]:
    """``frame``, computed once, on its own engine. Otherwise each use reads the files behind it again.

    DuckDB keeps it as a table, which can be spilled to disk and goes with the connection; Spark until the session ends;
    Polars in memory.
    """
    native: Any = frame.to_native()
    if frame.implementation.is_duckdb():
        name = f"held_{uuid.uuid4().hex}"
        native.create(name)
        kept = native.query("held", f"SELECT * FROM {name}")
    elif frame.implementation.is_pyspark():
        kept = native.persist()
    else:
        kept = native.collect(engine="streaming").lazy()
    found: nw.LazyFrame[Any] = nw.from_native(kept)
    return found
