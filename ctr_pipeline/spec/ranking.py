"""One number to rank candidates by."""

from collections.abc import Collection, Sequence

from pydantic import Field

from ctr_pipeline.spec.features import Features
from ctr_pipeline.spec.fields import Name, Section

RANKING_SCORE = "ranking_score"
"""Name of the ranking score beside those of the tasks."""

_TAKEN = ("ts", "impression_id", "shared", "candidates", "logits", "request_id")


class RankingTerm(Section):
    """A term of the ranking score: weight · P(task), or weight · P(task) · bid."""

    task: Name = Field(description="Task whose calibrated probability it is.")
    weight: float = Field(default=1.0, description="What an outcome is worth; a negative one is unwanted.")
    bid: Name | None = Field(
        default=None,
        description="Number of each candidate that the term is multiplied with. It is in the request; it need not be a feature.",
    )


def refuse_wrong_terms(terms: Sequence[RankingTerm] | None, tasks: Collection[str], features: Features) -> None:
    """Raises ValueError where a term names no task, or a bid that is a feature and no number."""
    if terms is None:
        return
    where = "`serving.score`"
    if RANKING_SCORE in tasks:
        raise ValueError(f"{where} is called {RANKING_SCORE!r} beside the tasks: give the task of that name another")
    seen: set[tuple[str, str | None]] = set()
    numbers, others = set(features.one_number), set(features.inputs) | {one.name for one in features.history}
    others |= {number.name for number in features.numeric}
    for term in terms:
        if term.task not in tasks:
            raise ValueError(f"{where} names {term.task!r}, which is no task; use {', '.join(tasks)}")
        if term.weight == 0:
            raise ValueError(f"{where}: the term of {term.task!r} has weight 0: remove it, or give it a weight")
        if (term.task, term.bid) in seen:
            raise ValueError(f"{where} has two terms of {term.task!r} with the same bid: add their weights up")
        seen.add((term.task, term.bid))
        if term.bid in _TAKEN:
            raise ValueError(f"{where}: the bid {term.bid!r} is another field of a request: give it another name")
        if term.bid in others - numbers:
            raise ValueError(f"{where}: the bid {term.bid!r} is a feature that is not one number; name another")
