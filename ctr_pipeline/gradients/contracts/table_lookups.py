"""Which rows of which embedding tables a computation reads, whatever the module that reads them."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ctr_pipeline.gradients.contracts.outcome import Outcome


@dataclass(frozen=True, slots=True)
class Lookup:
    """One lookup: the table, its name in the model ("" for one that is no parameter), and the rows that were read."""

    table: Tensor
    name: str
    rows: Tensor


class _Recorder(TorchFunctionMode):
    def __init__(self, names: Mapping[int, str], found: list[Lookup]) -> None:
        super().__init__()
        self._names, self._found = names, found

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        if getattr(func, "__name__", "") in ("embedding", "embedding_bag") and func.__module__ == "torch.nn.functional":
            rows = args[0] if args else named["input"]
            table = args[1] if len(args) > 1 else named["weight"]
            # Some callers give an embedding_bag the table first.
            if rows.is_floating_point():
                rows, table = table, rows
            self._found.append(Lookup(table, self._names.get(id(table), ""), rows))
        return func(*args, **named)


@contextmanager
def observed_lookups(model: nn.Module) -> Iterator[list[Lookup]]:
    """Collects the lookups (``functional.embedding``, and so ``nn.Embedding``) of the block; nothing is changed."""
    found: list[Lookup] = []
    with _Recorder({id(parameter): name for name, parameter in model.named_parameters()}, found):
        yield found


def lookup_outcome(found: Iterable[Lookup]) -> Outcome:
    """Whether every row that is read lies in its table."""
    tables: dict[str, tuple[int, int]] = {}
    for lookup in found:
        if not lookup.rows.numel():
            continue
        lowest, highest = (int(value) for value in torch.aminmax(lookup.rows))
        height = lookup.table.shape[0]
        if lowest < 0 or highest >= height:
            outside = lowest if lowest < 0 else highest
            message = (
                f"table {lookup.name or 'without a name'} has {height} rows, and row {outside} is read: build the table "
                "with as many rows as its vocabulary, or map unknown ids to a row of their own"
            )
            return Outcome(
                name="table_rows",
                verdict="failed",
                message=message,
                measured=outside,
                limit=height - 1,
                where=lookup.name,
            )
        tables[lookup.name] = (lowest, highest)
    if not tables:
        return Outcome(name="table_rows", verdict="not_measured", message="no embedding table was read")
    message = f"every row that is read lies in its table ({len(tables)} tables)"
    return Outcome(name="table_rows", verdict="passed", message=message)
