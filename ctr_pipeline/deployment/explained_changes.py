"""Why a model changed, worked out from the folders of two retrains and the lakes that they read."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from ctr_pipeline.deployment.retrain_places import RetrainPlace
from ctr_pipeline.deployment.retrain_states import MOST_ROWS, hashed_by, retrain_state
from ctr_pipeline.deployment.trained_sides import REPLAYED_ROWS, open_replay
from ctr_pipeline.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ctr_pipeline.attribution.differences import Compared
    from ctr_pipeline.attribution.entropy_change import EntropyChange
    from ctr_pipeline.attribution.explained_change import ExplainedChange
    from ctr_pipeline.attribution.model_change import ModelChange, Substitution

SUBSTITUTED_ROWS = 20_000
"""Impressions that the new model scores with old values of each difference, at most."""

MOST_SUBSTITUTED = 12
"""Differences whose old values the new model is tried with, at most."""


def explained_change(
    old: RetrainPlace,
    new: RetrainPlace,
    *,
    seed: int = 0,
    most_rows: int = MOST_ROWS,
    replayed_rows: int = REPLAYED_ROWS,
    progress: Callable[[str], None] = lambda _: None,
) -> "ExplainedChange":
    """Compares two retrains and ranks the causes of what changed.

    Args:
        old: The retrain before.
        new: The retrain that is explained.
        seed: Of samples, draws of users and permutations.
        most_rows: Impressions whose values are compared at most.
        replayed_rows: Impressions that both models score at most; 0 leaves the models out.
        progress: Receives what is done next.

    Raises:
        NoRetrainError: a retrain is not whole, or the tables that it read are gone.
    """
    from ctr_pipeline.attribution.differences import compare
    from ctr_pipeline.attribution.differences.matched_rows import BY_ID, BY_TIME
    from ctr_pipeline.attribution.entropy_change import entropy_changes
    from ctr_pipeline.attribution.explained_change import ExplainedChange
    from ctr_pipeline.attribution.ranked_causes import main_task, ranked_causes

    progress("reading what both retrains were made from")
    by = hashed_by(old, new)
    before, after = (retrain_state(place, by, most_rows) for place in (old, new))
    progress("comparing spec, code, rows, outcomes and features")
    compared = compare(before, after)
    keys = {BY_ID: ["impression_id"], BY_TIME: ["ts", "position"]}.get(compared.rows.how, [])
    entropies = entropy_changes(before, after, keys, seed=seed)
    progress("scoring the same impressions with both models")
    model, substitutions, notes = _models(old, new, compared, entropies, main_task(entropies), seed, replayed_rows)
    return ExplainedChange(
        old=before,
        new=after,
        compared=compared,
        entropies=entropies,
        causes=ranked_causes(compared, entropies, substitutions),
        model=model,
        notes=(*compared.notes, *notes),
    )


def _models(
    old: RetrainPlace,
    new: RetrainPlace,
    compared: "Compared",
    entropies: "Mapping[str, EntropyChange]",
    task: str | None,
    seed: int,
    rows: int,
) -> "tuple[ModelChange | None, dict[str, Substitution], list[str]]":
    """What changed from one model to the other, and the new model with the old values of each difference that has some."""
    if not rows:
        return None, {}, []
    from ctr_pipeline.attribution.compare_models import compare_models

    try:
        replay = open_replay(old, new, rows=rows, seed=seed)
        model = compare_models(replay, seed=seed)
    except UserError as error:
        return None, {}, [f"The models could not be compared: {error}"]
    if task is None or replay.how == "not matched" or not (entropies[task].worse or entropies[task].better):
        return model, {}, []
    from ctr_pipeline.attribution.resampling import Resampling
    from ctr_pipeline.attribution.substitutions import LABELS, Substitutions

    replay = replay.sample(SUBSTITUTED_ROWS, seed)
    (draws,) = Resampling.of(replay.new_matched.user, seed=seed)
    tried = Substitutions.of(replay, "new", draws)
    known, found = set(replay.new.features), {}
    for difference in compared.roots[:MOST_SUBSTITUTED]:
        features = [name for name in difference.features if name in known]
        if difference.kind == "labels":
            features = [LABELS]
        if (
            not features
            or not difference.paired
            or (difference.kind not in ("feature", "category", "history", "labels"))
        ):
            continue
        substitution = tried.substitution(task, features)
        if substitution is not None:
            found[difference.subject] = substitution
    return model, found, []
