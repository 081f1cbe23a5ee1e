"""Retrains opened for a comparison of their models: from their folders, and their tables at the versions that they read."""

from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING

from ctr_pipeline.deployment.retrain_files import MissingFileError, RetrainFiles
from ctr_pipeline.deployment.retrain_places import RetrainPlace

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

    from ctr_pipeline.attribution.replay_rows import Replay, TestKeys
    from ctr_pipeline.attribution.trained_side import ReplayRows, TrainedSide
    from ctr_pipeline.datasets import PackedDataset
    from ctr_pipeline.features import Layout
    from ctr_pipeline.spec import Spec


_PLACE = "__place"

CHECKED_ROWS = 2_000
"""Test rows on which a model has to compute the logits of its training."""

REPLAYED_ROWS = 100_000
"""Rows of each sample of the test rows, at most."""

SAME_LOGIT = 1e-2
"""Largest difference of two logits that are the same but for the arithmetic, embeddings in fewer bytes included."""


def load_side(retrain: RetrainPlace, name: str) -> "TrainedSide":
    """The trained model of a retrain with what it was trained with; ``name`` is what a reader knows it by.

    Raises:
        MissingFileError: the retrain did not finish; names the step that makes what is absent.
        ReplayError: the code has changed since, so that it computes something else from the weights, and no exported graph
            computes what they were.
        SpecError: its spec is not readable by this version.
    """
    from ctr_pipeline.attribution.trained_side import TrainedSide
    from ctr_pipeline.datasets import PackedDataset
    from ctr_pipeline.ranker import RankerError, load_ranker
    from ctr_pipeline.spec import parse_spec

    paths = retrain.paths
    for path, made_by in ((paths.spec, "ranker"), (paths.model, "ranker"), (paths.packed_manifest, "training_dataset")):
        if not path.is_file():
            raise MissingFileError(f"{path} is absent: materialise {made_by} for {retrain.day} first.")
    files, dataset = RetrainFiles(paths), PackedDataset.open(paths.packed, ["test"])
    spec = parse_spec(paths.spec.read_text(encoding="utf-8"), where=str(paths.spec))
    fitted = files.calibrators()
    try:
        network = load_ranker(paths.model, dataset.layout, spec.model)
    except RankerError:
        # Of other code; the exported graph may still tell what it computed.
        network = None
    side = TrainedSide(
        name=name,
        spec=spec,
        layout=dataset.layout,
        vocabulary=files.vocabulary().select("feature", "key", "row"),
        network=network,
        calibrators=tuple(fitted[task] for task in dataset.layout.tasks),
    )
    return _as_trained(side, files, dataset)


def _as_trained(side: "TrainedSide", files: RetrainFiles, dataset: "PackedDataset") -> "TrainedSide":
    """The side with scores that are those of its training, also where the code has changed since.

    Raises:
        ReplayError: neither the code of today nor an exported graph computes them.
    """
    import numpy as np

    from ctr_pipeline.attribution.trained_side import OTHER_CODE, Encoded, ReplayError
    from ctr_pipeline.serving import Bundle, BundleError

    test = dataset.splits["test"]
    places = np.linspace(0, len(test) - 1, min(len(test), CHECKED_ROWS)).astype(np.int64)
    rows, trained = Encoded(test.numeric[places], test.ids[places]), files.scores("test")[places]

    def differs(found: "TrainedSide") -> bool:
        return bool(np.abs(found.raw_logits(rows) - trained).max(initial=0.0) > SAME_LOGIT)

    if side.network is not None and not differs(side):
        return side
    try:
        bundle = Bundle.open(files.paths.bundle)
    except BundleError:
        bundle = None
    if bundle is not None:
        exported = replace(side, exported=lambda encoded: bundle.score(encoded.numeric, encoded.ids).logits)
        if not differs(exported):
            return exported
    raise ReplayError(f"{OTHER_CODE.format(side.name)}; nor is there an exported graph that computes what it did")


def open_replay(old: RetrainPlace, new: RetrainPlace, *, rows: int = REPLAYED_ROWS, seed: int = 0) -> "Replay":
    """Two retrains, of one data root or of two, and a sample of their test rows.

    Args:
        old: The first.
        new: The second.
        rows: Rows of each sample at most: of the impressions that both tested, and of each side's own.
        seed: Decides on the sample.

    Raises:
        MissingFileError: a retrain did not finish.
        ReplayError, SpecError: a retrain is not readable.
    """
    import numpy as np

    from ctr_pipeline.attribution.replay_rows import Replay, chosen_rows, match_rows

    sources = [_TestRows.of(retrain) for retrain in (old, new)]
    old_source, new_source = sources
    matched = match_rows(old_source.keys, new_source.keys)
    own = [chosen_rows(one.keys, np.arange(len(one.keys)), rows, seed) for one in sources]
    notes = [one.note for one in sources if one.note]
    of_matched = int(new_source.keys.settled[matched.new].sum()) if matched.how != "not matched" else None
    if matched.how == "not matched":
        notes.append(
            "no impression is a test row of both runs: both models are compared on the test rows of the newer one"
        )
        new_matched = old_matched = new_source.rows(own[1])
    else:
        picked = chosen_rows(new_source.keys, matched.new, rows, seed)
        old_matched, new_matched = old_source.rows(matched.old[picked]), new_source.rows(matched.new[picked])
    names = [f"{one.day}" if old.root == new.root else f"{one.root.name} {one.day}" for one in (old, new)]
    return Replay(
        old=load_side(old, names[0]),
        new=load_side(new, names[1]),
        how=matched.how,
        old_matched=old_matched,
        new_matched=new_matched,
        old_rows=old_source.rows(own[0]),
        new_rows=new_source.rows(own[1]),
        notes=tuple(notes),
        of_matched=of_matched,
        of_old=int(old_source.keys.settled.sum()),
        of_new=int(new_source.keys.settled.sum()),
    )


def one_impression(retrain: RetrainPlace, side: "TrainedSide", impression: str) -> "ReplayRows | None":
    """An impression of the tables as they are now, as the pipeline of a retrain has it, without labels; None where there is none.

    Args:
        retrain: The retrain.
        side: Its model.
        impression: Hash of the impression's id.
    """
    import numpy as np
    import polars as pl

    from ctr_pipeline.attribution.trained_side import ReplayRows
    from ctr_pipeline.lake import Lake
    from ctr_pipeline.propensity.positions import RANDOM

    table = Lake(retrain.lake).scan("impressions").filter(pl.col("impression_id") == impression)
    found = table.sort("ts").head(1).collect()
    if found.is_empty():
        return None
    day = found["day"][0]
    shown = found.with_row_index(_PLACE).lazy()
    position = found["position"].fill_null(0).clip(0, np.iinfo(np.int16).max) if "position" in found.columns else None
    return ReplayRows(
        values=_in_the_clear(retrain, side.spec, side.layout, shown, None, day, day),
        impressions=found["impression_id"].cast(pl.String),
        labels=np.full((1, len(side.layout.tasks)), -1, np.int8),
        tasks=side.layout.tasks,
        ts=found["ts"].to_numpy().astype(np.int64),
        user=np.full(1, -1, np.int64),
        position=np.zeros(1, np.int16) if position is None else position.to_numpy().astype(np.int16),
        random=np.array([found["traffic"][0] == RANDOM]),
    )


def nth_test_row(retrain: RetrainPlace, row: int) -> "ReplayRows | None":
    """One of the test rows of a retrain, from 0 on in the order of its packed arrays; None where there are not so many."""
    import numpy as np

    source = _TestRows.of(retrain)
    return source.rows(np.array([row])) if 0 <= row < len(source.keys) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _TestRows:
    """The test rows of one retrain.

    Attributes:
        retrain: Which one.
        spec: Its spec.
        dataset: Its packed arrays.
        keys: What tells its test rows apart.
        note: Why values are taken from the packed arrays; None where they are those of the tables.
    """

    retrain: RetrainPlace
    spec: "Spec"
    dataset: "PackedDataset"
    keys: "TestKeys"
    note: str | None

    @classmethod
    def of(cls, retrain: RetrainPlace) -> "_TestRows":
        """The test rows of ``retrain``."""
        import numpy as np
        import polars as pl

        from ctr_pipeline.attribution.replay_rows import TestKeys
        from ctr_pipeline.datasets import PackedDataset
        from ctr_pipeline.lake import LakeError
        from ctr_pipeline.spec import parse_spec

        paths = retrain.paths
        if not paths.spec.is_file():
            raise MissingFileError(f"{paths.spec} is absent: materialise ranker for {retrain.day} first.")
        spec = parse_spec(paths.spec.read_text(encoding="utf-8"), where=str(paths.spec))
        dataset = PackedDataset.open(paths.packed, ["test"])
        test, note = dataset.splits["test"], None
        try:
            shown = _shown(retrain).select("day", "ts", "impression_id").sort("day", "ts", "impression_id").collect()
            impressions = shown["impression_id"].cast(pl.String)
            if not np.array_equal(shown["ts"].to_numpy(), test.ts):
                raise LakeError(f"the table impressions has {shown.height} test rows, the packed arrays {len(test)}")
        except (LakeError, OSError, pl.exceptions.PolarsError) as error:
            note = f"the tables that {retrain.day} read are gone ({error}): its rows are those of its packed arrays"
            impressions = pl.Series([None] * len(test), dtype=pl.String)
        settled = np.asarray((test.labels >= 0).any(axis=1), dtype=np.bool_)
        keys = TestKeys(
            impressions=impressions, ts=np.asarray(test.ts), position=np.asarray(test.position), settled=settled
        )
        return cls(retrain=retrain, spec=spec, dataset=dataset, keys=keys, note=note)

    def rows(self, places: "NDArray[np.int64]") -> "ReplayRows":
        """Some of the test rows, with their values in the clear."""
        from ctr_pipeline.attribution.trained_side import ReplayRows

        test = self.dataset.splits["test"]
        return ReplayRows(
            values=self._decoded(places) if self.note else self._values(places),
            impressions=self.keys.impressions[places],
            labels=test.labels[places],
            tasks=self.dataset.layout.tasks,
            ts=test.ts[places],
            user=test.user[places],
            position=test.position[places],
            random=test.random[places],
        )

    def _values(self, places: "NDArray[np.int64]") -> "pl.DataFrame":
        import polars as pl

        wanted = pl.DataFrame({"impression_id": self.keys.impressions[places], "ts": self.keys.ts[places]})
        shown = _shown(self.retrain).with_columns(pl.col("impression_id").cast(pl.String))
        shown = shown.join(wanted.with_row_index(_PLACE).lazy(), on=["impression_id", "ts"], how="inner")
        version = RetrainFiles(self.retrain.paths).examples().versions["history"]
        return _in_the_clear(self.retrain, self.spec, self.dataset.layout, shown, version, *_days(self.retrain))

    def _decoded(self, places: "NDArray[np.int64]") -> "pl.DataFrame":
        from ctr_pipeline.attribution.decoded_values import decoded_values

        vocabulary = RetrainFiles(self.retrain.paths).vocabulary()
        test = self.dataset.splits["test"]
        return decoded_values(self.dataset.layout, vocabulary, test.numeric[places], test.ids[places])


def _days(retrain: RetrainPlace) -> "tuple[date, date]":
    """First and last day of its test."""
    from ctr_pipeline.datasets.examples import utc_day

    start, end = RetrainFiles(retrain.paths).examples().bounds.intervals["test"]
    return utc_day(start), utc_day(end - 1)


def _shown(retrain: RetrainPlace) -> "pl.LazyFrame":
    """The impressions of its test, at the version that it read."""
    from ctr_pipeline.datasets.examples import rows_of
    from ctr_pipeline.datasets.view import scan_for_uses
    from ctr_pipeline.lake import Lake

    view = RetrainFiles(retrain.paths).examples()
    table = scan_for_uses(Lake(retrain.lake), "impressions", view.versions["impressions"], *_days(retrain))
    return rows_of(view.bounds, "test", table)


def _in_the_clear(
    retrain: RetrainPlace,
    spec: "Spec",
    layout: "Layout",
    shown: "pl.LazyFrame",
    history: int | None,
    first: date,
    last: date,
) -> "pl.DataFrame":
    """The values that a layout names of the impressions ``shown`` of some days, in the order of their places."""
    import polars as pl

    from ctr_pipeline.datasets.view import scan_for_uses
    from ctr_pipeline.features import gather_lists, join_history, number_columns
    from ctr_pipeline.lake import Lake

    past = scan_for_uses(Lake(retrain.lake), "history", history, first, last)
    joined = gather_lists(spec, join_history(spec, shown, past)).sort(_PLACE).collect()
    vectors = [f for f in spec.features.numeric if f.width is not None]
    frame = joined.with_columns(column for feature in vectors for column in number_columns(feature))
    texts = {column.name: pl.String if column.pooled is None else pl.List(pl.String) for column in layout.ids}
    return frame.select(
        *(pl.col(column.name).cast(pl.Float32) for column in layout.numeric),
        *(pl.col(name).cast(kind) for name, kind in texts.items()),
    )
