"""The part of `ctr forget` that concerns the log of requests: a user's rows in the table and in the files before it."""

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from ctr_pipeline.features import Layout
from ctr_pipeline.lake import Lake
from ctr_pipeline.lake.erasure import erase_rows
from ctr_pipeline.online.log_records import MAGIC, LoggedRequest, read_segment, record_of, segments

SERVING_LOG = "serving_log"


@dataclass(frozen=True, slots=True)
class UserRows:
    """Where the inputs of one model name the user: columns of the id array, and the embedding row that is the user's."""

    places: tuple[int, ...]
    row: int


def user_rows(layout: Layout, vocabulary: pl.DataFrame, features: Collection[str], hashed: str) -> tuple[UserRows, ...]:
    """Where a model's inputs name a user; nowhere for one that its vocabulary does not have.

    Args:
        layout: The model's.
        vocabulary: Columns feature, key and row.
        features: Features whose values are hashes of users.
        hashed: Hash of the user.
    """
    found = []
    for column, places in zip(layout.ids, layout.id_places, strict=True):
        if column.name not in features and column.vocabulary not in features:
            continue
        own = vocabulary.filter((pl.col("feature") == column.vocabulary) & (pl.col("key") == hashed))
        if own.height:
            found.append(UserRows(tuple(range(places.start, places.stop)), int(own["row"][0])))
    return tuple(found)


def erase_from_log(lake: Lake, models: Mapping[str, tuple[UserRows, ...]]) -> dict[str, int]:
    """Removes the rows of `serving_log` whose inputs name the user; those of the user's impressions have gone before.

    Args:
        lake: The lake.
        models: By SHA-256 of a model where its inputs name the user.

    Returns:
        How many rows of how many days were removed.
    """
    tests = [
        (pl.col("model_sha") == sha) & (pl.col("ids").list.get(place, null_on_oob=True) == of.row)
        for sha, rows in models.items()
        for of in rows
        for place in of.places
    ]
    if not tests or not lake.exists(SERVING_LOG):
        return {"rows": 0, "days": 0}
    found = erase_rows(lake, SERVING_LOG, pl.any_horizontal(test.fill_null(False) for test in tests))
    return {"rows": found.rows, "days": len(found.days)}


def erase_from_spool(
    folder: Path, impressions: Collection[str], models: Mapping[str, tuple[UserRows, ...]]
) -> tuple[int, int]:
    """Removes the user's requests from the sealed segments.

    Returns:
        How many requests were removed, and how many segments are still written to: what these hold is not known yet.
    """
    removed, open_segments, theirs = 0, 0, set(impressions)
    for segment in segments(folder):
        if not segment.sealed:
            open_segments += 1
            continue
        content = read_segment(segment.path)
        kept = [request for request in content.requests if not _is_theirs(request, theirs, models)]
        if len(kept) == len(content.requests) and not content.unread_bytes:
            continue
        removed += len(content.requests) - len(kept)
        _rewrite(segment.path, kept)
    return removed, open_segments


def rename_logged_models(lake: Lake, folder: Path, renamed: Mapping[str, str]) -> None:
    """Gives the logged requests of models whose files were written again their new SHA-256."""
    if not renamed:
        return
    for segment in segments(folder):
        content = read_segment(segment.path) if segment.sealed else None
        if content is not None and any(request.model_sha in renamed for request in content.requests):
            again = [replace(one, model_sha=renamed.get(one.model_sha, one.model_sha)) for one in content.requests]
            _rewrite(segment.path, again)
    if not lake.exists(SERVING_LOG):
        return
    old = pl.col("model_sha").is_in(list(renamed))
    for day in lake.scan(SERVING_LOG).filter(old).select("day").unique().sort("day").collect()["day"]:
        rows = lake.scan(SERVING_LOG, first=day, last=day).collect()
        lake.replace_days(SERVING_LOG, rows.with_columns(pl.col("model_sha").replace(dict(renamed))), [day])


def _is_theirs(
    request: LoggedRequest, impressions: Collection[str], models: Mapping[str, tuple[UserRows, ...]]
) -> bool:
    if request.impression_ids is not None and any(one in impressions for one in request.impression_ids):
        return True
    return any(np.any(request.ids[:, list(of.places)] == of.row) for of in models.get(request.model_sha, ()))


def _rewrite(path: Path, requests: Collection[LoggedRequest]) -> None:
    """The segment with these requests alone, each under its own number; in one step, as a reader may come."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.writelines(_records(requests))
    temporary.replace(path)


def _records(requests: Collection[LoggedRequest]) -> Iterator[bytes]:
    yield MAGIC
    yield from map(record_of, requests)
