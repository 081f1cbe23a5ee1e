"""One side of modules.py that is not ours: a model of another library, trained on the arrays of modules.py.

Started by modules.py as ``PYTHON benchmarks/_module_peers.py JOB.json`` with the interpreter of an environment that has the
library. It imports nothing of this project. Each function of :data:`PEERS` makes a module from ids [B, F] to logits [B, T]; the
loop around it is that of the libraries' own trainers: Adam over all parameters, mean binary cross-entropy, gradient norm clipped
at 10. A library that is not installed ends the process with 4.

FuxiCTR's wheel has the layers and not the models: these are put together here as the papers have them. FinalMLP and MaskNet use its
embeddings and perceptrons; what it has no layer for (masks, the bilinear fusion) is written here.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

ABSENT = 4
"""Exit code where the library is not installed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerJob:
    """What a process trains, and where it writes: the same fields as modules.py gives its own side."""

    peer: str
    arrays: str
    """Folder with train_ids.npy [N, F], train_labels.npy [N, T], test_ids.npy."""
    output: str
    vocabulary: tuple[int, ...]
    """Rows of each field's table."""
    tasks: int
    width: int
    hidden: tuple[int, ...]
    batch: int
    epochs: int
    seed: int
    threads: int


class FuxiFields(nn.Module):
    """FuxiCTR's embedding of each field, [B, F, width] of ids [B, F]."""

    def __init__(self, job: PeerJob) -> None:
        super().__init__()
        from fuxictr.features import FeatureMap
        from fuxictr.pytorch.layers import FeatureEmbedding

        fields = FeatureMap("arrays", job.arrays)
        for place, rows in enumerate(job.vocabulary):
            fields.features[f"f{place}"] = {"source": "", "type": "categorical", "vocab_size": rows}
        fields.num_fields = len(job.vocabulary)
        self.embed = FeatureEmbedding(fields, job.width)

    def forward(self, ids: Tensor) -> Tensor:
        embedded: Tensor = self.embed({f"f{place}": ids[:, place] for place in range(ids.shape[1])})
        return embedded


def perceptron(width: int, job: PeerJob, out: int | None = None) -> nn.Module:
    from fuxictr.pytorch.layers import MLP_Block

    made: nn.Module = MLP_Block(
        input_dim=width, hidden_units=list(job.hidden), hidden_activations="ReLU", output_dim=out
    )
    return made


class FuxiDCNv2(nn.Module):
    """Three full-rank crosses beside a perceptron (Wang et al., WWW 2021)."""

    def __init__(self, job: PeerJob) -> None:
        super().__init__()
        from fuxictr.pytorch.layers import CrossNetV2

        width = len(job.vocabulary) * job.width
        self.fields, self.cross = FuxiFields(job), CrossNetV2(width, 3)
        self.deep = perceptron(width, job)
        self.head = nn.Linear(width + job.hidden[-1], job.tasks)

    def forward(self, ids: Tensor) -> Tensor:
        flat = self.fields(ids).flatten(1)
        logits: Tensor = self.head(torch.cat([self.cross(flat), self.deep(flat)], dim=1))
        return logits


class FuxiMaskNet(nn.Module):
    """Three parallel mask blocks of width 64 under a perceptron (Wang et al., DLP-KDD 2021)."""

    def __init__(self, job: PeerJob) -> None:
        super().__init__()
        fields, width = len(job.vocabulary), len(job.vocabulary) * job.width
        self.fields = FuxiFields(job)
        self.norms = nn.ModuleList(nn.LayerNorm(job.width) for _ in range(fields))
        self.masks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 128), nn.ReLU(), nn.Linear(128, width)) for _ in range(3)
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 64, bias=False), nn.LayerNorm(64), nn.ReLU()) for _ in range(3)
        )
        self.deep = perceptron(3 * 64, job, job.tasks)

    def forward(self, ids: Tensor) -> Tensor:
        embedded = self.fields(ids)
        flat = embedded.flatten(1)
        normal = torch.cat([norm(embedded[:, place]) for place, norm in enumerate(self.norms)], dim=1)
        parts = [block(mask(flat) * normal) for mask, block in zip(self.masks, self.blocks, strict=True)]
        logits: Tensor = self.deep(torch.cat(parts, dim=1))
        return logits


class FuxiFinalMLP(nn.Module):
    """Two perceptrons on inputs gated by the first and by the second half of the fields, fused bilinearly (Mao et al., 2023)."""

    def __init__(self, job: PeerJob) -> None:
        super().__init__()
        fields, width = len(job.vocabulary), len(job.vocabulary) * job.width
        self.half, self.fields = fields // 2 * job.width, FuxiFields(job)
        halves = (self.half, width - self.half)
        self.gates = nn.ModuleList(nn.Sequential(nn.Linear(own, 64), nn.ReLU(), nn.Linear(64, width)) for own in halves)
        self.streams = nn.ModuleList(perceptron(width, job) for _ in range(2))
        self.linear = nn.ModuleList(nn.Linear(job.hidden[-1], job.tasks) for _ in range(2))
        self.bilinear = nn.Parameter(torch.zeros(job.tasks, job.hidden[-1], job.hidden[-1]))
        nn.init.xavier_normal_(self.bilinear)

    def forward(self, ids: Tensor) -> Tensor:
        flat = self.fields(ids).flatten(1)
        contexts = (flat[:, : self.half], flat[:, self.half :])
        first, second = (
            stream(flat * 2 * torch.sigmoid(gate(own)))
            for stream, gate, own in zip(self.streams, self.gates, contexts, strict=True)
        )
        both = torch.einsum("bi,tij,bj->bt", first, self.bilinear, second)
        logits: Tensor = self.linear[0](first) + self.linear[1](second) + both
        return logits


PEERS: dict[str, Callable[[PeerJob], nn.Module]] = {
    "FuxiCTR DCNv2": FuxiDCNv2,
    "FuxiCTR MaskNet": FuxiMaskNet,
    "FuxiCTR FinalMLP": FuxiFinalMLP,
}
"""The models by name; several tasks' models are added here and in COMPARISONS of modules.py."""


def train(job: PeerJob, model: nn.Module, ids: NDArray[np.int32], labels: NDArray[np.int8]) -> None:
    """Adam at 1e-3 over shuffled batches."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    order = np.random.default_rng(job.seed)
    model.train()
    for _ in range(job.epochs):
        rows = order.permutation(len(ids))
        for start in range(0, len(rows), job.batch):
            chosen = rows[start : start + job.batch]
            batch, known = torch.from_numpy(ids[chosen]).long(), torch.from_numpy(labels[chosen]).float()
            optimizer.zero_grad(set_to_none=True)
            nn.functional.binary_cross_entropy_with_logits(model(batch), known).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()


def main(job_file: Path) -> int:
    """Does the job and returns the exit code."""
    content: dict[str, Any] = json.loads(job_file.read_text(encoding="utf-8"))
    job = PeerJob(**content)
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    folder, output = Path(job.arrays), Path(job.output)
    ids, labels, test = (np.load(folder / f"{name}.npy") for name in ("train_ids", "train_labels", "test_ids"))
    try:
        model = PEERS[job.peer](job)
    except ImportError as error:
        print(error, file=sys.stderr)
        return ABSENT
    began = time.process_time()
    train(job, model, ids, labels)
    model.eval()
    with torch.no_grad():
        parts = [model(torch.from_numpy(test[at : at + 16384]).long()) for at in range(0, len(test), 16384)]
    seconds = time.process_time() - began
    np.save(output / "logits.npy", torch.cat(parts).numpy())
    (output / "measured.json").write_text(json.dumps({"cpu_seconds": seconds}), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
