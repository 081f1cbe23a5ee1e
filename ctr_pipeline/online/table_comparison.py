"""Whether a snapshot holds what the history table holds."""

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctr_pipeline.online.opened_snapshot import Snapshot
from ctr_pipeline.online.store_layout import ITEMS, KINDS
from ctr_pipeline.spec.history import HistorySequence

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True, slots=True)
class Comparison:
    """How many values were compared, and how many differ by feature."""

    compared: int
    differing: dict[str, int]


def compared_values(snapshot: Snapshot, rows: "pl.DataFrame", most: int, seed: int) -> Comparison:
    """Looks up some rows of the history table, one by one, in the snapshot of their day.

    Args:
        snapshot: The snapshot.
        rows: ``feature``, ``key``, ``value`` and ``item`` of the day.
        most: Rows that are looked up, drawn at random.
        seed: Of the draw.
    """
    numbers = {f.name: (one, at) for one in snapshot.layout.keys for at, f in enumerate(one.numbers)}
    places = {}
    for one in snapshot.layout.keys:
        for feature in one.lists:
            kinds = feature.kinds if isinstance(feature, HistorySequence) else ()
            for part, names in ((ITEMS, feature.items), (KINDS, kinds)):
                places.update({name: (one, feature.name, part, at) for at, name in enumerate(names)})
    drawn = rows.sample(min(most, rows.height), seed=seed)
    compared, differing = 0, defaultdict[str, int](int)
    for name, key, value, item in drawn.select("feature", "key", "value", "item").iter_rows():
        if name in numbers:
            layout, at = numbers[name]
            found, _ = snapshot.numbers(layout, [key])
            same = bool(found[at][0] == value)
        elif name in places:
            layout, of, part, at = places[name]
            [lists], _ = snapshot.lists(layout, [key])
            listed = lists[of][part] if of in lists else []
            same = at < len(listed) and listed[at] == item
        else:
            continue
        compared += 1
        differing[name] += not same
    return Comparison(compared, {name: count for name, count in sorted(differing.items()) if count})
