"""Which rows of the embedding tables a batch reads."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ctr_pipeline.ranker.embeddings import FusedTable
from ctr_pipeline.ranker.model import Ranker


def rows_read(model: Ranker, ids: Sequence[Tensor]) -> dict[str, Tensor]:
    """By the name of each table's weight the rows [R], ascending, that batches of ids [B, F] read.

    An id outside its table is left out.
    """
    found: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if not isinstance(module, FusedTable):
            continue
        parts = []
        for of_batch in ids:
            own = torch.index_select(of_batch.to(module.positions.device), 1, module.positions).long()
            rows = own + module.offsets
            parts.append((rows if module.padding is None else torch.where(own < 0, module.padding, rows)).flatten())
            for place, start in module.read_again.items():
                again = of_batch[:, place].long()
                parts.append(torch.where(again < 0, module.padding or 0, again + start).to(rows.device))
        # New ids have the row of unknown ones in common, and each known one has a part of it.
        parts += [module.unknown[int(at)].reshape(1) for at in module.cold_starts if parts]
        rows = torch.unique(torch.cat(parts)) if parts else torch.zeros(0, dtype=torch.int64)
        found[f"{name}.table.weight"] = rows[(rows >= 0) & (rows < module.table.num_embeddings)]
    return found
