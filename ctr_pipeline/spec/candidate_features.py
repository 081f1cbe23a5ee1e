"""Features in which the candidates of a request differ."""

from collections import Counter
from collections.abc import Sequence
from difflib import get_close_matches

from ctr_pipeline.spec.features import Features
from ctr_pipeline.spec.history import HistorySequence


def candidate_inputs(features: Features, declared: Sequence[str]) -> tuple[str, ...]:
    """The model's inputs that ``declared`` features are: a list of single past items is several."""
    listed = {feature.name: (*feature.items, *feature.ages) for feature in features.sequences}
    return tuple(name for feature in declared for name in listed.get(feature, (feature,)))


def refuse_wrong_candidates(features: Features, declared: Sequence[str] | None) -> None:
    """Raises ValueError where a declared feature is none, or a shared one depends on a candidate."""
    if declared is None:
        return
    where = "`serving.candidate_features`"
    twice = [name for name, count in Counter(declared).items() if count > 1]
    if twice:
        raise ValueError(f"{where} names {twice[0]!r} twice; name each feature once")
    events = {feature.name for feature in features.event_lists}
    logged = [*(number.name for number in features.numeric), *(category.name for category in features.embedded)]
    known = [*logged, *(feature.name for feature in features.history if feature.name not in events)]
    for name in declared:
        if name in events:
            raise ValueError(
                f"{where} names {name!r}, a list of events: one is read once for all candidates; remove it"
            )
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"use some of {', '.join(known)}"
            raise ValueError(f"{where} names {name!r}, which is no feature; {hint}")
    for made in features.history:
        if made.key not in declared or made.name in declared:
            continue
        if isinstance(made, HistorySequence) and made.name in events:
            raise ValueError(
                f"{where} names {made.key!r}, the key of the list of events {made.name!r}, which all candidates share: remove "
                f"{made.key!r} from it, or the list"
            )
        raise ValueError(
            f"{where} names {made.key!r} and not history feature {made.name!r}, which is that of its key {made.key!r}: name both"
        )
