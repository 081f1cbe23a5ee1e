"""The test rows of a trained model as the requests that a client would have sent, made of the raw log."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.deployment.environment import process_environment
from ctr_pipeline.deployment.key import existing_pseudonymiser
from ctr_pipeline.deployment.raw_logs import list_logs
from ctr_pipeline.deployment.retrain_files import RetrainFiles
from ctr_pipeline.lake import Lake
from ctr_pipeline.serving import Bundle
from ctr_pipeline.sources import Pseudonymiser
from ctr_pipeline.sources.canonical import text_of
from ctr_pipeline.spec import Spec

KEY, AT = "__key", "__at"


@dataclass(frozen=True, kw_only=True)
class LoggedPages:
    """The test rows, and which of them were one page."""

    rows: pl.DataFrame
    """[N] in the order of the packed test rows: fields of requests under their names, as the raw log has them."""
    pages: list[NDArray[np.int64]]
    """The rows of each request."""
    shared: frozenset[str]
    """Fields that the candidates of a request have in common."""

    def request(self, at: NDArray[np.int64]) -> tuple[dict[str, Any], dict[str, list[Any]]]:
        """What the rows of a page have in common, and by field a value for each of them."""
        some = self.rows[at]
        own = [name for name in some.columns if name not in self.shared]
        return {name: some[name][0] for name in self.shared}, {name: some[name].to_list() for name in own}


def logged_pages(deployment: Deployment, bundle: Bundle, files: RetrainFiles) -> LoggedPages:
    """The test rows of the retrain that made ``bundle``.

    A page is what one user of one session was shown at one instant; features that `serving.candidate_features` does not name are
    the same on all of it. Features of the past are left out, as the service looks them up, and those made of the time.

    Raises:
        SystemExit: the log is not one of Parquet files with an id a row, or its rows are not those that were trained on.
    """
    spec, view = deployment.spec, files.examples()
    if spec.impression.id is None:
        raise SystemExit(f"{spec.name}: the spec has no `impression.id`, by which rows of the log are found again")
    lake = Lake(deployment.paths.lake)
    stored = lake.scan("impressions", version=view.versions["impressions"]).filter(view.bounds.rows_of("test"))
    arrived = pl.col("ingest_ts") <= view.bounds.label_as_of("test")
    test = stored.filter(arrived).sort("ts", "impression_id").collect()
    user = [spec.impression.user] if spec.impression.user and spec.features.history else []
    columns = _columns(spec, bundle, user)
    raw = _raw_rows(deployment, spec.impression.id, set(columns.values()), set(test["impression_id"]))
    joined = test.select("ts", KEY_OF_TABLE, *_page_columns(spec)).join(
        raw, left_on=KEY_OF_TABLE, right_on=KEY, how="left", validate="m:1", maintain_order="left"
    )
    found = joined.select(pl.col("ts"), *(pl.col(f"raw {column}").alias(name) for name, column in columns.items()))
    _refuse_other_rows(found, test.height, len(files.scores("test")))
    own = set(bundle.layout.candidate_features) if bundle.columns.share else set()
    shared = frozenset(found.columns) - own - bundle_bids(spec) - {"impression_id"} if own else frozenset(("ts",))
    keys = joined.select(_page_columns(spec)).with_columns(found.select(sorted(shared)))
    grouped = keys.with_row_index(AT).group_by(keys.columns, maintain_order=True).agg(AT)[AT]
    return LoggedPages(rows=found, pages=[np.array(at) for at in grouped.to_list()], shared=shared)


KEY_OF_TABLE = "impression_id"


def bundle_bids(spec: Spec) -> set[str]:
    """Numbers of the request that the ranking score is multiplied with."""
    return {term.bid for term in spec.serving.score or () if term.bid is not None}


def _columns(spec: Spec, bundle: Bundle, user: list[str]) -> dict[str, str]:
    """By field of a request the column of the log that it is read from."""
    made = {column.name for column in bundle.layout.ids if column.from_time is not None}
    features = {one.name: column for one, column in spec.features_of() if one.name not in made}
    columns = {name: column for name, column in features.items() if name in bundle.inputs}
    columns |= {bid: bid for bid in bundle_bids(spec) if bid not in columns}
    assert spec.impression.id is not None, "refused before"
    columns["impression_id"] = spec.impression.id
    # A feature of the same column names the user as well.
    return columns | ({"user": user[0]} if user and user[0] not in columns.values() else {})


def _page_columns(spec: Spec) -> list[str]:
    """Columns of the table that tell pages apart, beside the time."""
    return [name for name in ("user", "session") if getattr(spec.impression, name)]


def _raw_rows(deployment: Deployment, identity: str, columns: set[str], wanted: set[str]) -> pl.DataFrame:
    """The rows of the raw log whose keyed hash is among ``wanted``, with its columns as ``raw NAME``."""
    pseudonymiser, parts = existing_pseudonymiser(process_environment()), []
    for file in list_logs(deployment).impressions.files:
        if Path(str(file.path)).suffix != ".parquet":
            raise SystemExit(f"{file.path}: expected Parquet, whose values have types as those of a client have")
        frame = pl.read_parquet(file.path, columns=sorted(columns))
        keys = frame.select(_keys(identity, frame.schema[identity], pseudonymiser))
        part = frame.rename({name: f"raw {name}" for name in frame.columns}).with_columns(keys)
        parts.append(part.filter(pl.col(KEY).is_in(wanted)))
    # A row that a log repeats counts once, the first that arrived; values of a repetition are the same.
    return pl.concat(parts, how="vertical_relaxed").unique(KEY, keep="first", maintain_order=True)


def _keys(identity: str, kind: pl.DataType, pseudonymiser: Pseudonymiser) -> pl.Expr:
    text = text_of(pl.col(identity), kind)
    if text is None:
        raise SystemExit(f"column {identity!r}: ids of the type {kind} have no text")
    return pseudonymiser.of(text).alias(KEY)


def _refuse_other_rows(found: pl.DataFrame, rows: int, scored: int) -> None:
    if rows != scored:
        raise SystemExit(f"the table has {rows} test rows, and the training scored {scored}: train again")
    if lost := found["impression_id"].null_count():
        raise SystemExit(f"{lost} of {rows} test rows are not in the raw log: was the key that of the deployment?")
