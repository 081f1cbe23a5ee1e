"""Why a model changed: the differences between two retrains in order of what speaks for them, and how sure that is."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ctr_pipeline.attribution.differences import Compared, Difference
from ctr_pipeline.attribution.differences.difference import percent
from ctr_pipeline.attribution.entropy_change import EntropyChange
from ctr_pipeline.attribution.model_change import Substitution
from ctr_pipeline.evaluation.metrics import Interval

Certainty = Literal["shown", "likely", "possible"]

NOISE, NONE = "noise", "none"

_WEIGHTS = {
    "time": 1.0, "labels": 1.0, "feature": 0.9, "category": 0.9, "rows": 0.85, "vocabulary": 0.85, "history": 0.85, "spec": 0.8,
    "key": 0.7, "code": 0.6, "libraries": 0.25, "drift": 0.2, "training": 0.15,
}  # fmt: skip
"""How much a difference of a kind usually does to a model, where no intervention measured it."""

_SEED = 0.1
_MINOR = 0.02

CLEARLY = 1.25
"""How many times the weight of the second a first cause has to have to be likely."""

OF_SEEDS = 0.015
"""Relative change in NE that trainings with other seeds alone have been seen to make; intervals over users do not hold it."""

MOST = 0.5
"""Least share of the change in NE that an intervention has to undo to show a cause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """One of the causes that a change may have.

    Attributes:
        kind: Of the difference; or ``noise``, or ``none`` where nothing differs.
        subject: Which one: a feature, a task, a field of the spec, a file.
        form: What happened to it, in one or two words.
        sentence: The same for a person who does not know the pipeline.
        certainty: ``shown``: an intervention undid the change, or nothing else differs; else ``likely`` or ``possible``.
        share: Share of the change in NE that it makes, with its interval; None where that was not measured or NE did not
            change beyond chance.
        how: By what the share and the certainty are known.
        evidence: What speaks for it.
        against: What speaks against it.
        weight: What it is ordered by.
    """

    kind: str
    subject: str
    form: str
    sentence: str
    certainty: Certainty
    share: Interval | None
    how: str
    evidence: tuple[str, ...]
    against: tuple[str, ...]
    weight: float

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "kind": self.kind, "subject": self.subject, "form": self.form, "sentence": self.sentence, "certainty": self.certainty,
            "share": None if self.share is None else self.share.to_json(), "how": self.how, "evidence": list(self.evidence),
            "against": list(self.against),
        }  # fmt: skip


def ranked_causes(
    compared: Compared,
    changes: Mapping[str, EntropyChange],
    substitutions: Mapping[str, Substitution],
) -> list[Cause]:
    """The causes, the first one first; at least one.

    Args:
        compared: In what the retrains differ.
        changes: How NE changed, by task.
        substitutions: By subject of a difference, what the new model loses or gains with the old values of its features, for
            the task of :func:`main_task`.
    """
    roots = [d for d in compared.roots if not d.minor]
    main = main_task(changes)
    change = changes.get(main) if main is not None else None
    certain_change = change is not None and (change.worse or change.better)
    if not roots:
        return [_nothing(compared, change, certain_change)]
    if all(_is_seed(d) for d in roots):
        return [_noise(compared, roots, change)]
    weighted = sorted(
        ((_weight(d, substitutions.get(d.subject), certain_change), d) for d in roots), key=lambda pair: -pair[0]
    )
    causes = []
    for place, (weight, difference) in enumerate(weighted):
        second = weighted[1][0] if len(weighted) > 1 else 0.0
        found = substitutions.get(difference.subject)
        certainty, how = _certainty(difference, place, weight, second, compared, roots, substitutions, certain_change)
        causes.append(_cause(difference, certainty, how, weight, found, compared, change, certain_change, len(roots)))
    if change is not None and not certain_change:
        causes.append(_by_chance(change))
    return causes


def main_task(changes: Mapping[str, EntropyChange]) -> str | None:
    """The task whose NE changed most beside its error; None without tasks."""

    def size(task: str) -> float:
        found = changes[task].change
        margin = found.high - found.value
        return abs(found.value) / margin if margin > 0 else 0.0

    significant = [task for task, found in changes.items() if found.worse or found.better]
    if significant:
        return max(significant, key=size)
    return next(iter(changes), None)


def headline(causes: Sequence[Cause], changes: Mapping[str, EntropyChange]) -> str:
    """One sentence for a person who does not know the pipeline."""
    main = main_task(changes)
    first = causes[0]
    change = changes.get(main) if main is not None else None
    if first.kind == "drift" and len([cause for cause in causes if cause.kind != NOISE]) == 1:
        begins = f"Drift only: nothing of the pipeline, the spec or the common data changed. {first.sentence}."
        return begins if change is None else f"{begins} {_ne_words(change)}"
    moved = "" if change is None else f" {_ne_words(change)}"
    if first.kind == NONE:
        return f"Nothing differs between the two retrains.{moved}"
    if first.kind == NOISE:
        return f"{first.sentence}.{moved}"
    sure = {
        "shown": "The change comes from this",
        "likely": "The change most likely comes from this",
        "possible": "The change may come from this",
    }
    if change is not None and not (change.worse or change.better):
        sure = {"shown": "What differs", "likely": "What differs most", "possible": "What differs, among other things"}
    share = "" if first.share is None else f" ({_share_words(first.share)} of the change in NE)"
    return f"{sure[first.certainty]}: {first.sentence}{share}.{moved}"


def _share_words(share: Interval) -> str:
    if share.low == share.high:
        return percent(share.value)
    return f"{100 * share.value:.0f} %, interval {100 * share.low:.0f} to {100 * share.high:.0f} %"


def _ne_words(change: EntropyChange) -> str:
    relative = change.change.value / change.old
    own = change.new - change.old
    interval = f"{change.old:.3f} → {change.new:.3f}"
    if abs(own - change.change.value) > 0.1 * abs(change.change.value):
        # The tests are of other impressions; the change is that on those of both.
        interval = f"on the impressions of both; each test by itself {interval}"
    if change.worse:
        return f"NE of {change.task} is worse by {100 * relative:.1f} % ({interval})."
    if change.better:
        return f"NE of {change.task} is better by {100 * -relative:.1f} % ({interval})."
    return f"NE of {change.task} changed by no more than chance makes ({interval})."


def _is_seed(difference: Difference) -> bool:
    return difference.kind == "spec" and difference.subject in ("seed", "training.seed")


def _weight(difference: Difference, found: Substitution | None, certain_change: bool) -> float:
    if _is_seed(difference):
        return _SEED
    weight: float = _WEIGHTS[difference.kind] * (0.4 + 0.6 * math.sqrt(min(1.0, max(0.0, difference.share))))
    if not difference.paired and difference.kind != "drift":
        weight *= 0.8
    if certain_change and found is not None and found.change.high < 0 and found.share is not None:
        # What undoes the change comes before what merely differs.
        weight += 2 * min(1.0, max(0.0, found.share.value))
    return weight


def _certainty(
    difference: Difference,
    place: int,
    weight: float,
    second: float,
    compared: Compared,
    roots: Sequence[Difference],
    substitutions: Mapping[str, Substitution],
    certain_change: bool,
) -> tuple[Certainty, str]:
    alone = len(roots) == 1
    minor = [d for d in compared.roots if d.minor]
    if alone and compared.whole and difference.paired and difference.kind not in ("drift", "training", "libraries"):
        if not minor or certain_change:
            return "shown", "by elimination: everything else that was compared is the same"
        return "likely", "nothing else differs but what changes the last digits: " + "; ".join(
            d.sentence for d in minor
        )
    if alone:
        reason = (
            "comparisons that could not be made leave other causes open"
            if compared.notes
            else "by elimination, but from distributions"
        )
        return (
            "likely",
            reason if difference.kind != "drift" else "nothing of the pipeline, the spec or the common data differs",
        )
    if place == 0 and _undoes(difference, substitutions, certain_change):
        rivals = [d for d in roots if d is not difference]
        # A rival that no intervention can test stays open.
        tested = all(d.subject in substitutions or d.kind == "drift" for d in rivals)
        equal = [d for d in rivals if d.subject in substitutions and substitutions[d.subject].change.high < 0]
        if tested and not equal:
            return (
                "shown",
                "by intervention: with the old values the new model is as good as before, and with none of the others'",
            )
        return "likely", "by intervention: with the old values the new model is as good as before"
    if place == 0 and weight >= CLEARLY * second:
        return "likely", "the strongest of several differences; the others were not excluded"
    return "possible", "one of several differences"


def _undoes(difference: Difference, substitutions: Mapping[str, Substitution], certain_change: bool) -> bool:
    found = substitutions.get(difference.subject)
    if not certain_change or found is None or found.share is None:
        return False
    return found.change.high < 0 and found.share.low > 0 and found.share.value >= MOST


def _cause(
    difference: Difference,
    certainty: Certainty,
    how: str,
    weight: float,
    found: Substitution | None,
    compared: Compared,
    change: EntropyChange | None,
    certain_change: bool,
    roots: int,
) -> Cause:
    evidence = list(difference.evidence)
    against = list(difference.against)
    follows = [d.sentence for d, cause in compared.consequences if cause is difference]
    if follows:
        shown = "; ".join(follows[:4]) + (f"; and {len(follows) - 4} more" if len(follows) > 4 else "")
        evidence.append(f"it brings about: {shown}")
    share = None
    if found is not None:
        cured = found.change.high < 0
        text = f"with the old values of {', '.join(found.features)} NE of the new model changes by {found.change.value:+.4f} [{found.change.low:+.4f}, {found.change.high:+.4f}]"
        (evidence if cured else against).append(
            text + ("" if cured else ": these rows alone do not explain it, the training on them may")
        )
        if certain_change and found.share is not None and cured:
            share = found.share
    if share is None and certain_change and certainty == "shown" and roots == 1:
        # Nothing else is left that the change could come from.
        share = Interval(1.0, 1.0, 1.0)
    if change is not None and not certain_change:
        against.append("NE changed by no more than chance makes")
    elif (
        change is not None
        and (found is None or found.change.high >= 0)
        and abs(change.change.value) < OF_SEEDS * change.old
    ):
        against.append(
            "another seed alone may change NE by about as much: train both with other seeds before you act on it"
        )
    return Cause(
        kind=difference.kind, subject=difference.subject, form=difference.form, sentence=difference.sentence, certainty=certainty,
        share=share, how=how, evidence=tuple(evidence), against=tuple(against), weight=weight,
    )  # fmt: skip


def _nothing(compared: Compared, change: EntropyChange | None, certain_change: bool) -> Cause:
    minor = [d for d in compared.roots if d.minor]
    if not minor and (change is None or change.change.value == 0):
        return Cause(
            kind=NONE, subject="", form="", sentence="Nothing differs", certainty="likely" if compared.notes else "shown", share=None,
            how="everything that was compared is the same", evidence=compared.looked_at, against=compared.notes, weight=1.0,
        )  # fmt: skip
    against = ("NE changed by more than chance makes",) if certain_change else ()
    return Cause(
        kind=NOISE, subject="randomness of the training", form="", certainty="possible" if certain_change else "likely", share=None,
        sentence="Nothing that decides the model differs: what remains is the randomness of the training",
        how="by elimination", evidence=tuple(d.sentence for d in minor) or compared.looked_at, against=(*against, *compared.notes), weight=1.0,
    )  # fmt: skip


def _noise(compared: Compared, roots: Sequence[Difference], change: EntropyChange | None) -> Cause:
    return Cause(
        kind=NOISE, subject="seed", form="other seed", share=None, certainty="shown" if compared.whole else "likely",
        sentence="Only the seed differs: the change is the randomness of the training",
        how="by elimination: everything else that was compared is the same" if compared.whole else "by elimination, as far as could be compared",
        evidence=tuple(text for d in roots for text in d.evidence),
        against=("NE changed by more than chance makes of the test rows: two seeds may differ by more",)
        if change is not None and (change.worse or change.better)
        else (),
        weight=1.0,
    )  # fmt: skip


def _by_chance(change: EntropyChange) -> Cause:
    return Cause(
        kind=NOISE, subject="chance", form="", certainty="possible", share=None,
        sentence="The change in NE is within what chance makes",
        how="the interval of the change holds 0",
        evidence=(f"NE of {change.task}: {change.change.value:+.4f} [{change.change.low:+.4f}, {change.change.high:+.4f}] on {change.rows:,} rows",),
        against=(), weight=0.0,
    )  # fmt: skip
