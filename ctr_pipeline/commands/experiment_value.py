"""`ctr experiment value`: what another policy would be worth, from a log that says how likely it showed what it showed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctr_pipeline.commands.experiment_rows import OUTCOME, OUTCOME_THEN, ExperimentError, settled_rows
from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.deployment.environment import process_environment
from ctr_pipeline.deployment.key import pseudonymiser
from ctr_pipeline.deployment.retrain_files import RetrainFiles
from ctr_pipeline.experiments.declared_plan import Term
from ctr_pipeline.experiments.off_policy import CLIP, PolicyValue, RewardModel, policy_value
from ctr_pipeline.experiments.reward_model import model_of_cells

FORMAT = 1

SCORE_CELLS = 20
"""Cells of equally many rows that scores are divided into for the reward model."""

LOGGED = "propensity"


@dataclass(frozen=True, slots=True)
class RowsOut:
    """Where the replayed rows go, for `ctr experiment gap`.

    Attributes:
        path: Parquet file: reward, weight, user (a code), the columns, and reward_then where it is asked for.
        columns: Columns of the table `impressions` that go with them; none that holds ids.
        known_by: Instant as of which reward_then was known, microseconds since 1970 UTC; None to leave it out.
    """

    path: Path
    columns: Sequence[str] = ()
    known_by: int | None = None


@dataclass(frozen=True, slots=True)
class _Replay:
    """Rows of a log beside a candidate: rewards, both probabilities, unit codes, and a reward model where there is one."""

    rewards: NDArray[np.float64]
    propensity: NDArray[np.float64]
    candidate: NDArray[np.float64]
    units: NDArray[np.int64]
    model: RewardModel | None
    left_out: dict[str, int]
    compared: dict[str, Any] | None
    """Another estimate of the same value, where the log has one."""
    rows: pl.DataFrame
    """The rows themselves."""


def value_of_uniform(
    deployment: Deployment,
    terms: Sequence[Term],
    actions: str,
    *,
    where: dict[str, str],
    clip: float = CLIP,
    out: RowsOut | None = None,
) -> dict[str, Any]:
    """The value of showing each of the actions equally often, from production rows with logged propensities.

    Where the log has random traffic its own rate is told too: it is what the estimates should hold.

    Args:
        deployment: The data root.
        terms: The reward.
        actions: Column whose different values are the actions.
        where: Rows that are looked at, by the values of columns.
        clip: See :func:`~ctr_pipeline.experiments.off_policy.policy_value`.
        out: Where the replayed rows go too.

    Raises:
        ExperimentError: the log has no propensities, or they say that nothing else could have been shown.
    """
    rows = _logged(deployment, terms, [actions], where, out)
    known = rows.filter(pl.col(actions).is_not_null())
    items = known[actions].n_unique()
    own = known.filter(pl.col("traffic") != "random") if deployment.spec.impression.traffic else known
    random = known.filter(pl.col("traffic") == "random") if deployment.spec.impression.traffic else known.clear()
    own = _supported(own)
    codes = {item: code for code, item in enumerate(known[actions].unique().sort().to_list())}
    cells = own[actions].replace_strict(codes, return_dtype=pl.Int64).to_numpy()
    groups = _groups(own)
    units = _units(own)
    every = np.broadcast_to(np.arange(items), (own.height, items))
    rewards = own[OUTCOME].to_numpy().astype(np.float64)
    model = model_of_cells(rewards, cells, groups, every, np.broadcast_to(1 / items, every.shape), units)
    compared = None
    if random.height:
        reward = random[OUTCOME].to_numpy().astype(np.float64)
        ones = np.ones(random.height)
        rate = policy_value(reward, ones, ones, _units(random)).logged
        compared = {"what": "rate of the random traffic", "rows": random.height, "value": rate.to_json()}
    left_out = {"without the action": rows.height - known.height}
    replay = _Replay(
        rewards, own[LOGGED].to_numpy(), np.full(own.height, 1 / items), units, model, left_out, compared, own
    )
    return _content(f"each of {items} values of {actions} equally often", replay, clip, out)


def value_of_file(
    deployment: Deployment,
    terms: Sequence[Term],
    path: Path,
    *,
    where: dict[str, str],
    clip: float = CLIP,
    out: RowsOut | None = None,
) -> dict[str, Any]:
    """The value of a policy whose probabilities of what was shown are in a file: impression_id and probability.

    Optionally the file has the columns ``shown`` and ``value`` of a reward model: the predicted reward of what was shown, and
    the mean prediction over what the candidate would show.

    Raises:
        ExperimentError: the file is not usable, or the log has no propensities that are.
    """
    given = _probabilities(path)
    hashed = bool(given.height) and bool(given["impression_id"].str.contains("^[0-9a-f]{32}$").all())
    if not hashed:
        given = given.with_columns(pseudonymiser(process_environment()).expr("impression_id").alias("impression_id"))
    rows = _logged(deployment, terms, ["impression_id"], where, out)
    joined = rows.join(given, on="impression_id", how="inner")
    if not joined.height:
        raise ExperimentError(
            f"{path.name}: none of its {given.height} impressions is a settled one of the log with a propensity"
        )
    own = _supported(joined)
    model = None
    if {"shown", "value"} <= set(given.columns):
        model = RewardModel(own["shown"].to_numpy(), own["value"].to_numpy())
    replay = _Replay(
        own[OUTCOME].to_numpy().astype(np.float64), own[LOGGED].to_numpy(), own["probability"].to_numpy(), _units(own),
        model, {"not in the file": rows.height - joined.height}, None, own,
    )  # fmt: skip
    return _content(f"the probabilities in {path.name}", replay, clip, out)


def value_of_ranking(
    deployment: Deployment,
    terms: Sequence[Term],
    task: str,
    day: str | None,
    *,
    clip: float = CLIP,
    out: RowsOut | None = None,
) -> dict[str, Any]:
    """The value of ranking what random pages showed by a model's score, over the test rows of its retrain.

    On a page whose order was random, each of its n ads stands in each slot with the chance 1/n, and the model's ranking puts one
    ad there. Rewards of slots must not depend on the other ads of the page.

    Args:
        deployment: The data root.
        terms: The reward.
        task: Task by whose calibrated probability the model ranks.
        day: Retrain, YYYY-MM-DD; the newest when None.
        clip: See :func:`~ctr_pipeline.experiments.off_policy.policy_value`.
        out: Where the replayed rows go too.

    Raises:
        ExperimentError: there is no retrain, no random traffic, or pages cannot be told apart.
    """
    declared = deployment.spec.impression
    for field in ("traffic", "session", "position"):
        if getattr(declared, field) is None:
            raise ExperimentError(
                f"a ranking is valued on pages whose order was random: name the column in `impression.{field}`"
            )
    scores, of_day = _scores(deployment, task, day)
    first, last = scores["day"].min(), scores["day"].max()
    assert isinstance(first, date)
    assert isinstance(last, date)
    taken = list(dict.fromkeys(("impression_id", "position", "traffic", *_kept(deployment, out))))
    known_by = out.known_by if out else None
    rows = settled_rows(deployment, terms, first, last, taken, users=False, known_by=known_by).frame
    joined = rows.filter(pl.col("traffic") == "random").join(scores.drop("day"), on="impression_id", how="inner")
    pages = joined.with_columns(
        pl.len().over("session").alias("size"),
        pl.col("position").n_unique().over("session").alias("slots"),
    )
    # Of a page that is there in part, the order of the rest is random too; but slots must be told apart.
    fine = pages.filter(pl.col("session").is_not_null(), pl.col("size") == pl.col("slots"), pl.col("size") > 1)
    if not fine.height:
        raise ExperimentError(
            f"there are no settled test rows of random pages in the retrain of {of_day} with more than one slot each"
        )
    ranked = fine.sort("session", "position").with_columns(
        pl.col("score").rank("ordinal", descending=True).over("session").alias("rank"),
        pl.int_range(1, pl.len() + 1).over("session").alias("slot"),
        pl.col("score").sort(descending=True).over("session").alias("choice"),
    )
    edges = np.unique(np.quantile(ranked["score"].to_numpy(), np.linspace(0, 1, SCORE_CELLS + 1)[1:-1]))
    cells, choice = (np.searchsorted(edges, ranked[name].to_numpy()) for name in ("score", "choice"))
    rewards, units = ranked[OUTCOME].to_numpy().astype(np.float64), _units(ranked)
    ones = np.ones((ranked.height, 1))
    model = model_of_cells(rewards, cells, ranked["position"].to_numpy(), choice[:, None], ones, units)
    replay = _Replay(
        rewards, (1 / ranked["size"]).to_numpy(), (ranked["rank"] == ranked["slot"]).cast(pl.Float64).to_numpy(), units,
        model, {"of pages of one slot, or of several pages of one session": pages.height - fine.height}, None, ranked,
    )  # fmt: skip
    return _content(f"random pages ranked by {task} of the retrain of {of_day}", replay, clip, out)


def _logged(
    deployment: Deployment, terms: Sequence[Term], columns: Sequence[str], where: dict[str, str], out: RowsOut | None
) -> pl.DataFrame:
    """Settled rows with a propensity."""
    if deployment.spec.impression.propensity is None:
        raise ExperimentError(
            "the log says of no impression how likely it was shown: name the column in `impression.propensity`. Pages in random "
            "order can be ranked by a model without it (leave --uniform and --candidate out)."
        )
    taken = list(dict.fromkeys((*columns, *where, "traffic", "position", LOGGED, *_kept(deployment, out))))
    known_by = out.known_by if out else None
    rows = settled_rows(deployment, terms, date.min, date.max, taken, users=False, known_by=known_by).frame
    for name, value in where.items():
        rows = rows.filter((pl.col(name).cast(pl.String) == value).fill_null(False))
    found = rows.filter(pl.col(LOGGED).is_not_null())
    if not found.height:
        raise ExperimentError("no settled row has a propensity: look at `impression.propensity` and --where")
    return found


def _supported(rows: pl.DataFrame) -> pl.DataFrame:
    """Refuses a log in which nothing else could have been shown."""
    if not rows.height:
        raise ExperimentError("no production row has a propensity: there is nothing to value another policy with")
    if rows[LOGGED].min() == 1:
        raise ExperimentError(
            "every propensity is 1: the log always showed what it showed, and says nothing of what else would have come of it. "
            "Show a share of the impressions at random, and log its probability."
        )
    return rows


def _scores(deployment: Deployment, task: str, day: str | None) -> tuple[pl.DataFrame, str]:
    """impression_id, day and calibrated logit of the test rows of a retrain, as it is served: without the position."""
    from ctr_pipeline.datasets import PackedDataset
    from ctr_pipeline.datasets.examples import rows_of
    from ctr_pipeline.datasets.view import read_tables
    from ctr_pipeline.lake import Lake

    finished = deployment.paths.retrains("calibration.json")
    chosen = day or (finished[-1].parent.name if finished else None)
    if chosen is None or not deployment.paths.retrain(chosen).calibration.is_file():
        raise ExperimentError(f"there is no finished retrain{f' of {chosen}' if chosen else ''}: run `ctr run` first")
    paths = deployment.paths.retrain(chosen)
    files = RetrainFiles(paths)
    view, names = files.examples(), [one.name for one in deployment.spec.tasks]
    logits = files.calibrated("test", names)[:, names.index(task)]
    tables = read_tables(Lake(deployment.paths.lake), view.versions, deployment.first_day, date.fromisoformat(chosen))
    rows = rows_of(view.bounds, "test", tables.impressions).select("day", "ts", "impression_id").collect()
    rows = rows.sort("ts", "impression_id")
    if not np.array_equal(rows["ts"].to_numpy(), PackedDataset.open(paths.packed).splits["test"].ts):
        raise ExperimentError(
            f"the retrain of {chosen} was packed from other impressions than the lake has: run `ctr run` again"
        )
    return rows.select("day", "impression_id").with_columns(score=pl.Series(logits)), chosen


def _probabilities(path: Path) -> pl.DataFrame:
    try:
        frame = (
            pl.read_csv(path, schema_overrides={"impression_id": pl.String})
            if path.suffix.lower() == ".csv"
            else pl.read_parquet(path)
        )
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else "it cannot be read as Parquet or CSV"
        raise ExperimentError(f"{path.name}: {reason}. Give a .parquet or .csv file.") from None
    missing = [name for name in ("impression_id", "probability") if name not in frame.columns]
    if missing:
        raise ExperimentError(
            f"{path.name}: there is no column `{missing[0]}`; expected impression_id and probability, with which the candidate "
            "would have shown what was shown"
        )
    names = [name for name in ("impression_id", "probability", "shown", "value") if name in frame.columns]
    return frame.select(pl.col("impression_id").cast(pl.String), *(pl.col(one).cast(pl.Float64) for one in names[1:]))


def _units(rows: pl.DataFrame) -> NDArray[np.int64]:
    """Codes of the users; a row without one is a unit by itself."""
    own = pl.int_range(pl.len()).cast(pl.String)
    return rows.select(pl.coalesce("user", own).rank("dense").cast(pl.Int64) - 1).to_series().to_numpy()


def _groups(rows: pl.DataFrame) -> NDArray[np.int64]:
    """What rates of cells lean on: the position."""
    return rows.select(pl.col("position").fill_null(0).rank("dense").cast(pl.Int64) - 1).to_series().to_numpy()


def _kept(deployment: Deployment, out: RowsOut | None) -> Sequence[str]:
    """The columns that go with replayed rows; none may hold ids."""
    spec = deployment.spec
    private = {"user", "session", "impression_id", *spec.key_columns}
    private |= {feature.name for feature in spec.features.embedded if feature.source_column in spec.private_columns}
    for name in out.columns if out else ():
        if name in private:
            raise ExperimentError(
                f"column {name!r} holds ids, which do not go into a file of replayed rows: name another"
            )
    return out.columns if out else ()


def _content(candidate: str, replay: _Replay, clip: float, out: RowsOut | None) -> dict[str, Any]:
    found: PolicyValue = policy_value(
        replay.rewards, replay.propensity, replay.candidate, replay.units, model=replay.model, clip=clip
    )
    if out is not None:
        columns = {"reward": replay.rewards, "weight": replay.candidate / replay.propensity, "user": replay.units}
        frame = pl.DataFrame(columns).with_columns(replay.rows.select(out.columns))
        if out.known_by is not None:
            frame = frame.with_columns(replay.rows[OUTCOME_THEN].alias("reward_then"))
        out.path.parent.mkdir(parents=True, exist_ok=True)
        frame.write_parquet(out.path)
    return {
        "format": FORMAT,
        "candidate": candidate,
        "value": found.to_json(),
        "left_out": {reason: rows for reason, rows in replay.left_out.items() if rows},
        "compared": replay.compared,
    }
