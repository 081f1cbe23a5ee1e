"""One part of a model beside the declared one: which rows of its table are whose, and its outputs on made-up inputs."""

import torch
from torch import Tensor, nn

from ctr_pipeline.features.layout import Layout
from ctr_pipeline.gradients.adapters.rehearsal import kept_buffers
from ctr_pipeline.gradients.contracts.batch_tensors import tensors_of
from ctr_pipeline.gradients.triage.forms import Form, form_of
from ctr_pipeline.gradients.triage.lookup_rules import OwnedRows
from ctr_pipeline.ranker.embeddings import FusedTable

TOLD = ("not_finite", "shape", "sign", "rows_shifted", "rows_permuted", "centred", "columns_exchanged", "sigmoid")
"""Forms that one batch tells beyond doubt."""

SCALES = (1.0, -1.0, 10.0, -10.0, 100.0, -100.0, 1000.0, -1000.0)
"""Factors on the inputs of a part under which it is looked at: a limit shows where outputs are large, of both signs."""

GROWN = 5.0
"""Factor by which outputs grow at least that follow inputs which are ten times as large."""

SHOWN = ("limited", "sigmoid")
"""Forms that made-up inputs may show where those of a batch look like a factor, a constant or anything else."""


def owned_rows(model: nn.Module, place: str, layout: Layout) -> list[OwnedRows]:
    """Which rows of the table ``place`` are of which feature; none where that is no table of several features."""
    name, _, last = place.rpartition(".")
    fused = dict(model.named_modules()).get(name)
    if last != "table" or not isinstance(fused, FusedTable):
        return []
    return [OwnedRows(layout.ids[at].name, start, start + layout.ids[at].rows) for at, start in fused.owned()]


def probed_form(own: nn.Module, declared: nn.Module, name: str, given: tuple[Tensor, ...] | None) -> Form | None:
    """The form in which the part ``name`` differs on larger inputs of both signs; None where these show no special one.

    Args:
        own: The model.
        declared: The declared one, with the same weights.
        name: Name of the part.
        given: What it was given, its inputs with samples first.
    """
    parts = [part for model in (own, declared) if (part := dict(model.named_modules()).get(name)) is not None]
    if len(parts) < 2 or not given or not all(t.is_floating_point() for t in given):
        return None
    inputs = [torch.cat([scale * tensor for scale in SCALES]) for tensor in given]
    outputs = []
    try:
        for part in parts:
            with torch.random.fork_rng(devices=[]), kept_buffers(part), torch.no_grad():
                torch.manual_seed(5)
                outputs.append([tensor for tensor in tensors_of(part(*inputs)) if tensor.is_floating_point()])
    except Exception:
        # A part that is broken may break in any way on inputs that it was not made for.
        return None
    for mine, theirs in zip(*outputs, strict=False):
        if not torch.equal(mine, theirs):
            form = form_of(mine, theirs)
            return form if form.name in SHOWN else _bounded(mine, theirs)
    return None


def _bounded(own: Tensor, declared: Tensor) -> Form | None:
    """Whether outputs do not grow with the inputs, in one direction or both, where the declared ones do."""
    sizes = [part.double() for part in own.chunk(len(SCALES))], [part.double() for part in declared.chunk(len(SCALES))]
    ends, size = [], 0.0
    for sign in (1.0, -1.0):
        # Of the two largest scales, those of both signs together.
        (small, large), (small_there, large_there) = (
            [max(float((sign * part).max()) for part in parts[at : at + 2]) for at in (4, 6)] for parts in sizes
        )
        if (
            small_there > 0
            and large_there > GROWN * small_there
            and large < 2 * abs(small)
            and large < 0.05 * large_there
        ):
            ends.append(f"{'below' if sign > 0 else 'above'} {sign * large:.4g}")
            size = max(size, abs(large))
    if not ends or not bool(own.any()):
        return None
    return Form("limited", f"its values stay {' and '.join(ends)}, however large its inputs are", size)
