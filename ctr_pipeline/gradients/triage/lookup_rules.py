"""What the rows that a table looks up say of causes, feature by feature, beside those that the ids of the batch stand for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ctr_pipeline.gradients.triage.evidence import Clue

SURE = 0.9
"""Weight of a form that no other cause leaves behind."""

FEWER = 0.9
"""Share of the rows that are meant, up to which several of them have become one."""


@dataclass(frozen=True, slots=True)
class OwnedRows:
    """Rows of a table that are those of one feature's vocabulary, from ``start`` to before ``end``."""

    feature: str
    start: int
    end: int


def lookup_differences(place: str, own: Tensor, declared: Tensor, owners: Sequence[OwnedRows] = ()) -> Iterator[Clue]:
    """Clues from lookups that differ, of the first feature of which the form is told.

    Args:
        place: Name of the table.
        own: Rows that are looked up, of any shape.
        declared: Those that the ids of the batch stand for.
        owners: Which rows are of which feature.
    """
    if own.shape != declared.shape:
        text = f"{place}: rows of the shape {list(own.shape)} are looked up, and {list(declared.shape)} are meant"
        yield Clue(cause="wrong_offsets", weight=0.85, text=text, location=place)
        return
    found = [clue for owner in owners if (clue := _of_feature(place, own, declared, owner)) is not None]
    outside = next((clue for clue in found if clue.cause == "wrong_offsets"), None)
    if outside is not None:
        yield outside
    elif found:
        yield found[0]
    else:
        share = float((own != declared).double().mean())
        text = f"{place}: {share:.0%} of the rows that are looked up are not those of the batch's ids"
        yield Clue(cause="wrong_offsets", weight=0.85, text=text, location=place)


def _of_feature(place: str, own: Tensor, declared: Tensor, owner: OwnedRows) -> Clue | None:
    of_it = (declared >= owner.start) & (declared < owner.end)
    read, meant = own[of_it], declared[of_it]
    if torch.equal(read, meant):
        return None
    share = float((read != meant).double().mean())
    text = f"{place}: {share:.0%} of the rows that are looked up for feature {owner.feature} are not those of its ids"

    def clue(cause: str, weight: float, form: str, *, sure: bool) -> Clue:
        return Clue(cause=cause, weight=weight, text=f"{text}; {form}", location=owner.feature, separating=sure)

    foreign = float(((read < owner.start) | (read >= owner.end)).double().mean())
    if foreign > 0:
        return clue("wrong_offsets", 0.93, f"{foreign:.0%} are of other features", sure=True)
    cause, weight, form = form_of_ids(read, meant)
    return clue(cause, weight, form, sure=weight > SURE)


def form_of_ids(read: Tensor, meant: Tensor) -> tuple[str, float, str]:
    """In which form ids of one feature differ from those that are meant: a cause, its weight, and the form, a clause.

    Args:
        read: [N] ids as they are.
        meant: [N] those that are meant, of which some differ.
    """
    if len(torch.unique(read - meant)) == 1:
        return "ids_misplaced", 0.93, f"each is {int((read - meant)[0]):+d} rows away"
    pairs = torch.unique(torch.stack([meant, read]), dim=1)
    wanted, few = len(torch.unique(meant)), len(torch.unique(read))
    if pairs.shape[1] == wanted and few <= FEWER * wanted:
        return "hash_clip", 0.93, f"{wanted} different ones have become {few}"
    if pairs.shape[1] == wanted == few:
        return "ids_misplaced", 0.93, "each id has another one's row"
    if torch.equal(read.sort().values, meant.sort().values):
        return "feature_permuted", 0.93, "they are those of other rows of the batch"
    share, changed = float((read != meant).double().mean()), read[read != meant]
    if len(torch.unique(changed)) == 1:
        return "hash_clip", 0.85, f"{share:.0%} of them are {int(changed[0])}"
    form = f"{few} different ones are read, and {wanted} are meant; {share:.0%} of them differ"
    return "hash_clip" if few <= FEWER * wanted else "ids_misplaced", 0.85, form
