"""The new model with one block of the old one at a time: which block a change in NE lies in.

Each block reads rows through the vocabulary and the statistics of the model that it is of, and where both models' inputs
differ, its own model's; so the new model with all blocks of the old one is the old model.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ctr_pipeline.attribution.encoded_rows import feature_names
from ctr_pipeline.attribution.model_change import Graft
from ctr_pipeline.attribution.resampling import Resampling, entropies, interval_of
from ctr_pipeline.attribution.trained_side import ROWS, Encoded, ReplayRows, TrainedSide
from ctr_pipeline.calibration import calibrated_logits
from ctr_pipeline.ranker import Ranker
from ctr_pipeline.ranker.branches import FusedOutputs
from ctr_pipeline.ranker.heads.chain import chain_logits
from ctr_pipeline.ranker.shapes import Events, RankerInputs

NUMBERS, EMBEDDINGS, LINEAR, HIDDEN = "numbers", "embeddings", "linear part", "hidden layers"
SEQUENCES, TASK_LAYERS, HEADS, POSITION, CALIBRATORS = (
    "sequences", "task layers", "heads", "position", "calibrators",
)  # fmt: skip
NETWORK = "network"
"""All that lies between the inputs and the calibrators, but for the linear part and the position."""


@dataclass(frozen=True, slots=True)
class _Read:
    """What one side's input blocks make of the rows: all that blocks behind them read."""

    side: TrainedSide
    inputs: RankerInputs


@dataclass(frozen=True, slots=True)
class Hybrid:
    """The models of both sides on the same N rows, each with its own encoding of them.

    Attributes:
        old: The old side.
        new: The new side; it has the same tasks.
        old_rows: The rows as the old model's inputs.
        new_rows: The same as the new model's.
    """

    old: TrainedSide
    new: TrainedSide
    old_rows: Encoded
    new_rows: Encoded

    def logits(self, replaced: Collection[str]) -> NDArray[np.float64]:
        """[N, T] calibrated logits of the new model with the blocks ``replaced`` of the old one.

        A block that one of both has not, as the linear part or the effect of the position, is then absent or there as in the
        old model.
        """
        parts = [np.zeros((0, len(self.new.layout.tasks)), np.float32)]
        with torch.no_grad():
            for at in range(0, len(self.new_rows.ids), ROWS):
                parts.append(self._some(slice(at, at + ROWS), frozenset(replaced)).numpy())
        logits = np.concatenate(parts)
        side, rows = (self.old, self.old_rows) if CALIBRATORS in replaced else (self.new, self.new_rows)
        return calibrated_logits(side.calibrators, side.layout.parents, logits, rows.ids)

    def _some(self, rows: slice, replaced: frozenset[str]) -> Tensor:
        both = [_read(self.old, self.old_rows, rows), _read(self.new, self.new_rows, rows)]
        numbers_differ, embeddings_differ = (reason is not None for reason in _inputs_differ(self.old, self.new))
        given = both[0 if NUMBERS in replaced else 1].inputs.numbers
        fields, events = self._embedded(both, replaced)

        def of(block: str) -> tuple[Ranker, RankerInputs]:
            """The model that the block is of, and what the block reads: of inputs that differ, those of its own model."""
            whole = NETWORK in replaced and block not in (LINEAR, POSITION)
            read = both[0] if whole or block in replaced else both[1]
            own = embeddings_differ and read is both[0]
            groups = read.inputs.fields if own else fields
            embedded = [group.flatten(1) for group in groups]
            items = read.inputs.events if own else events
            return read.side.ranker, replace(
                read.inputs,
                numbers=read.inputs.numbers if numbers_differ else given,
                fields=groups,
                embedded=torch.cat(embedded, dim=1) if embedded else read.inputs.embedded,
                events=tuple(replace(e, items=i.items) for e, i in zip(read.inputs.events, items, strict=True)),
            )

        ranker, inputs = of(HIDDEN)
        outputs = [ranker.tower(inputs.numbers, inputs.embedded)] if ranker.tower.out_width else []
        heads, _ = of(HEADS)
        for name in heads.interactions:
            ranker, inputs = of(interaction(name))
            outputs.append(ranker.interactions[name](inputs.numbers, inputs.fields))
        ranker, inputs = of(SEQUENCES)
        if ranker.sequences is not None:
            outputs += ranker.sequences(inputs.events, inputs.fields)
        hidden = torch.cat(outputs, dim=1)
        ranker, _ = of(TASK_LAYERS)
        if ranker.multi_task is not None:
            hidden = ranker.multi_task(hidden)
        logits: Tensor = heads.head(hidden)
        ranker, inputs = of(LINEAR)
        if ranker.wide is not None:
            logits = logits + ranker.wide(inputs.numbers, inputs.ids)
        ranker, inputs = of(POSITION)
        if ranker.position is not None:
            logits = ranker.position(logits, inputs.ids, None)
        return chain_logits(logits, heads.parents, heads.stopped) if heads.chained else logits

    def _embedded(self, both: list[_Read], replaced: frozenset[str]) -> tuple[tuple[Tensor, ...], tuple[Events, ...]]:
        """Embeddings of all fields, and the events, with those of the replaced features."""
        old, new = (read.inputs for read in both)
        if EMBEDDINGS in replaced:
            return old.fields, old.events
        names = _field_names(self.new)
        theirs = {
            name: (group, place) for group, own in enumerate(_field_names(self.old)) for place, name in enumerate(own)
        }
        fields = []
        for group, own in zip(new.fields, names, strict=True):
            columns = list(group.unbind(dim=1))
            for place, name in enumerate(own):
                if embeddings_of(name) in replaced:
                    at, where = theirs[name]
                    columns[place] = old.fields[at][:, where]
            fields.append(torch.stack(columns, dim=1))
        items = {one.name: one.item for one in self.new.layout.event_lists}
        lists = self.new.ranker.sequences.lists if self.new.ranker.sequences is not None else ()
        events = []
        for place, (name, read) in enumerate(zip(lists, new.events, strict=True)):
            replace_items = embeddings_of(items[name]) in replaced and len(old.events) == len(new.events)
            events.append(replace(read, items=old.events[place].items) if replace_items else read)
        return tuple(fields), tuple(events)


def interaction(name: str) -> str:
    """The block of one interaction."""
    return f"interaction {name}"


def embeddings_of(feature: str) -> str:
    """The block of the embeddings of one feature."""
    return f"embeddings of {feature}"


def blocks(old: TrainedSide, new: TrainedSide) -> dict[str, str | None]:
    """By block, why the new model cannot have the old one's; None where it can."""
    found = dict(_blocks(old, new))
    if len(set(old.layout.tasks) ^ set(new.layout.tasks)) or old.layout.tasks != new.layout.tasks:
        return dict.fromkeys(found, f"the tasks differ: {', '.join(old.layout.tasks)}; {', '.join(new.layout.tasks)}")
    return found


def grafts(old: TrainedSide, new: TrainedSide, rows: ReplayRows, draws: Resampling) -> Mapping[str, tuple[Graft, ...]]:
    """By task of the new side, the change in NE with each block of the old model, on ``rows`` with their labels.

    Args:
        old: The old side.
        new: The new side.
        rows: The new data.
        draws: Of their users.
    """
    possible = blocks(old, new)
    hybrid = Hybrid(old, new, old.encode(rows), new.encode(rows))
    scored = {"": new.calibrated(hybrid.new_rows)}
    scored |= {name: hybrid.logits([name]) for name, reason in possible.items() if reason is None}
    found = {}
    for at, task in enumerate(new.layout.tasks):
        own = entropies([logits[:, at] for logits in scored.values()], rows.label(task), draws)
        if not np.isfinite(own[0]).all():
            continue
        changes = {name: interval_of(own[:, place] - own[:, 0]) for place, name in enumerate(scored)}
        found[task] = tuple(Graft(block=b, change=changes.get(b), reason=reason) for b, reason in possible.items())
    return found


def _inputs_differ(old: TrainedSide, new: TrainedSide) -> tuple[str | None, str | None]:
    """Why blocks of one model cannot read the numbers of the other, and its embeddings; None where they can."""
    sides = old.ranker, new.ranker
    read = [feature_names(side.ranker, side.layout)[0] for side in (old, new)]
    same = read[0] == read[1] and sides[0].numeric.width == sides[1].numeric.width
    numbers = None if same else _differing(*read)
    fields = [_field_names(side) for side in (old, new)]
    widths = [[group.width for group in ranker.shape.groups] for ranker in sides]
    events = [ranker.sequences.lists if ranker.sequences is not None else () for ranker in sides]
    embedded = None
    if fields[0] != fields[1]:
        embedded = _differing(*(tuple(name for group in own for name in group) for own in fields))
    elif widths[0] != widths[1]:
        embedded = f"the embeddings are of other widths: {widths[0]} and {widths[1]}"
    elif events[0] != events[1]:
        embedded = _differing(*events)
    return numbers, embedded


def _blocks(old: TrainedSide, new: TrainedSide) -> Iterator[tuple[str, str | None]]:
    sides = old.ranker, new.ranker
    numbers, embedded = _inputs_differ(old, new)
    if numbers is not None or sides[1].numeric.width:
        yield NUMBERS, numbers
    if embedded is not None or sides[1].shape.groups:
        yield EMBEDDINGS, embedded
    width_of = [{name: group.width for group in ranker.shape.groups for name in group.columns} for ranker in sides]
    for name, width in width_of[1].items():
        other = width_of[0].get(name)
        reason = "the old model does not read it" if other is None else f"their width was {other} and is {width}"
        yield embeddings_of(name), None if other == width else reason
    if any(ranker.wide is not None for ranker in sides):
        yield LINEAR, None
    if len(sides[0].tower) or len(sides[1].tower):
        yield HIDDEN, _other_width(*(ranker.tower.out_width for ranker in sides))
    for name in {name: None for ranker in sides for name in ranker.interactions}:
        yield interaction(name), _other_width(*(ranker.out_widths.get(name) for ranker in sides))
    if any(ranker.sequences is not None for ranker in sides):
        found = [ranker.sequences for ranker in sides]
        yield SEQUENCES, _other_width(*(None if part is None else part.out_width for part in found))
    if any(ranker.multi_task is not None for ranker in sides):
        yield TASK_LAYERS, _unlike(*(ranker.multi_task for ranker in sides))
    order = [list(ranker.interactions) for ranker in sides]
    # Heads of one size may read other columns.
    moved = None if order[0] == order[1] else f"the interactions differ: {order[0]} and {order[1]}"
    yield HEADS, _unlike(*(ranker.head for ranker in sides)) or moved
    yield NETWORK, None
    if any(ranker.position is not None for ranker in sides):
        yield POSITION, None
    yield CALIBRATORS, None


def _other_width(old: int | None, new: int | None) -> str | None:
    """Why the output of a block cannot stand for the other's."""
    if old is None or new is None:
        return f"only the {'new' if old is None else 'old'} model has it"
    return None if old == new else f"it had {old} outputs and has {new}"


def _field_names(side: TrainedSide) -> list[tuple[str, ...]]:
    """Names of the embedded features, group by group of one width."""
    return [group.columns for group in side.ranker.shape.groups]


def _differing(old: tuple[str, ...], new: tuple[str, ...]) -> str:
    gone = [name for name in dict.fromkeys(old) if name not in new]
    added = [name for name in dict.fromkeys(new) if name not in old]
    texts = [f"{verb} {', '.join(names)}" for verb, names in (("no longer", gone), ("now", added)) if names]
    return f"the features differ: {'; '.join(texts)}" if texts else "the inputs are encoded or ordered otherwise"


def _unlike(old: nn.Module | None, new: nn.Module | None) -> str | None:
    """Why one module cannot stand for another; None where it can."""
    if old is None or new is None:
        return f"only the {'new' if old is None else 'old'} model has it"
    if type(old) is not type(new):
        return f"it was {type(old).__name__} and is {type(new).__name__}"
    shapes = [{name: tuple(value.shape) for name, value in module.state_dict().items()} for module in (old, new)]
    for name in {**shapes[0], **shapes[1]}:
        own = [shape.get(name) for shape in shapes]
        if own[0] != own[1]:
            return f"{name or 'weight'} was {_size(own[0])} and is {_size(own[1])}"
    if (
        isinstance(old, FusedOutputs)
        and isinstance(new, FusedOutputs)
        and (old.widths, old.owners) != (new.widths, new.owners)
    ):
        return "the branches differ"
    return None


def _size(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else "×".join(map(str, shape)) or "one number"


def _read(side: TrainedSide, rows: Encoded, some: slice) -> _Read:
    numeric, ids = torch.from_numpy(rows.numeric[some]), torch.from_numpy(rows.ids[some])
    return _Read(side, side.ranker.encode(numeric, ids))
