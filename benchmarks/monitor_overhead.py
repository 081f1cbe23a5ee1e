"""What gradient health costs: its share of the thread time of a training step, on a model of the demo's size.

Ways to take the same steps, on the same rows:

- ``plain``: forward, loss, backward, norm, clip, update and a line with loss and norm in a log; what the shares are of;
- ``default``: the trainer's step: a line for each step, some lines at a time, norms by tensor every 20 steps, details every 100;
- ``each step``: the same with the norms by tensor at every step;
- ``details each step``: with the details too at every step: activations, embedding rows, updates, the loss's gradient;
- ``anomaly``: ``plain`` under ``torch.autograd.detect_anomaly``;
- ``naive hooks``: ``plain`` with hooks that take mean, standard deviation, extremes and a histogram of each output and gradient.

A round takes 100 steps of each way, ten at a time by turns in an order that is drawn each time, and on a model that is drawn, so
that each way meets the same load of the machine and the same places in memory; a share is the median over the rounds of the difference to ``plain`` of the same round. Time is that of the thread (``time.thread_time``): torch computes with one. The
reader's thread is another one, as in a training; it looks at the values of each batch and hashes them, in some 50 microseconds.
``plain again`` is a second ``plain``: how far its share is from 0 is what the machine's noise makes of no difference at all.

Run from the checkout::

    python benchmarks/monitor_overhead.py [--rounds 15] [--steps 100] [--batch 256] [--hidden 128 64] [--assert]

``--assert`` exits with 1 where ``default`` takes more than 1.5 %, or ``each step`` more than 3 %.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ctr_pipeline.datasets import PackedSplit
from ctr_pipeline.features.layout import IdColumn, Layout, NumericColumn
from ctr_pipeline.gradients.adapters.batch import BatchView, content_hash
from ctr_pipeline.gradients.adapters.inputs import InputCheck
from ctr_pipeline.gradients.core.monitor import GradientMonitor
from ctr_pipeline.gradients.core.norms import clip_gradients, gradient_norms
from ctr_pipeline.spec.model import Model
from ctr_pipeline.spec.training import Training
from ctr_pipeline.training.assembly import build_objectives, build_state
from ctr_pipeline.training.callbacks import JsonLines, StepLines
from ctr_pipeline.training.dataloader import Shard, gather
from ctr_pipeline.training.distributed import ProcessGroup
from ctr_pipeline.training.job_spec import TrainingJob
from ctr_pipeline.training.plan import plan_training
from ctr_pipeline.training.step import StepPosition, StepState, take_step, update

WAYS = ("plain", "plain again", "default", "each step", "details each step", "anomaly", "naive hooks")
TRAINERS: dict[str, dict[str, Any]] = {
    "default": {},
    "each step": {"log_every": 1},
    "details each step": {"log_every": 1, "detail_every": 1},
}

TURN = 10
"""Steps that a way takes before it is another one's turn."""

MOST_DEFAULT, MOST_EACH_STEP = 0.015, 0.03

# The demo's inputs: number of rows of each vocabulary with the width of its embedding.
VOCABULARIES = [(14000, 8), (2900, 8), (300, 8), (4800, 8), (26, 8), (6, 4), (52, 8), (26, 4), (9, 4)]
VOCABULARIES += [(6, 4), (6, 4), (8, 4), (6, 4), (4, 2)]
NUMBERS, TASKS, ROWS = 21, ("click", "add_to_cart", "checkout"), 60_000


def layout() -> Layout:
    """The demo's layout."""
    return Layout(
        numeric=tuple(NumericColumn(f"n{i}", "dense", "none", 0.0, i % 3 == 0, 0.0, 1.0) for i in range(NUMBERS)),
        ids=tuple(IdColumn(f"c{i}", "categorical", *shape) for i, shape in enumerate(VOCABULARIES)),
        tasks=TASKS,
        parents=(-1, 0, 1),
    )


def rows(number: int, seed: int) -> PackedSplit:
    """Rows with ids of falling frequency, missing numbers, and labels along the funnel."""
    rng = np.random.default_rng(seed)
    numeric = rng.normal(size=(number, NUMBERS)).astype(np.float32)
    numeric[:, ::3][rng.random((number, NUMBERS // 3)) < 0.1] = np.nan
    ids = np.stack([(size * rng.random(number) ** 3).astype(np.int32) for size, _ in VOCABULARIES], axis=1)
    click = rng.random(number) < 0.1 + 0.1 * (ids[:, 1] < 100)
    cart = click & (rng.random(number) < 0.3)
    labels = np.stack([click, cart, cart & (rng.random(number) < 0.4)], axis=1).astype(np.int8)
    return PackedSplit(
        numeric=numeric, ids=ids, labels=labels, weights=rng.uniform(0.5, 3.0, (number, 3)).astype(np.float32),
        ts=np.arange(number, dtype=np.int64), user=np.full(number, -1, dtype=np.int64),
        position=np.zeros(number, dtype=np.int16), random=np.zeros(number, dtype=np.bool_),
    )  # fmt: skip


@dataclass
class Way:
    """A way to take steps: for each state that it may use, the function that takes the next step."""

    name: str
    steps: list[Callable[[BatchView, int], None]]
    surrounding: Callable[[], Any] = nullcontext

    def seconds(self, batches: Sequence[BatchView], first: int, place: int) -> float:
        """Thread time of some steps on state ``place``."""
        step = self.steps[place % len(self.steps)]
        with self.surrounding():
            started = time.thread_time()
            for number, batch in enumerate(batches, first):
                step(batch, number)
            return time.thread_time() - started


def plain_step(state: StepState, folder: Path) -> Callable[[BatchView, int], None]:
    """What a training needs without any check: clipping needs the norm, and a log the loss of each step."""
    named, lines = list(state.named), JsonLines(folder / f"{id(state)}.jsonl", 0)

    def step(batch: BatchView, number: int) -> None:
        for optimizer in state.optimizers:
            optimizer.zero_grad(set_to_none=True)
        counts = state.objectives.known_counts(batch.labels, batch.delays)
        loss, means = state.loss(state.forward(batch), batch, counts)
        torch.autograd.backward(loss)
        norms = gradient_norms(named)
        host = torch.cat([means.detach(), loss.detach().reshape(1), norms.total.reshape(1)]).tolist()
        clip_gradients(norms, host[-1], state.clip_norm)
        for optimizer in state.optimizers:
            optimizer.step()
        lines.write({"step": number, "loss": host[-2], "grad_norm": host[-1]})

    return step


def trainer_step(state: StepState, folder: Path) -> Callable[[BatchView, int], None]:
    """The trainer's step with its line in steps.jsonl."""
    lines = StepLines(folder / f"{id(state)}.jsonl", 0, time.monotonic)

    def step(batch: BatchView, number: int) -> None:
        at = StepPosition(step=number, epoch=0, rows=len(batch.rows), rate_factor=1.0)
        taken = take_step(state, batch, at)
        if update(state, taken) is not None:
            raise SystemExit("a step was stopped: the benchmark is not healthy")
        lines.add(taken.record)
        state.monitor.rows.clear()

    return step


def hook_naively(model: nn.Module, kept: list[Any]) -> None:
    """Statistics of each output and gradient, as they are written in a hurry."""

    def note(values: Tensor) -> None:
        if values.is_sparse or not values.numel() or not values.is_floating_point():
            return
        values = values.detach().float()
        kept[:] = [float(values.mean()), float(values.std()), float(values.min()), float(values.max())]
        kept.append(torch.histc(values, 64).tolist())

    for module in model.modules():
        module.register_forward_hook(lambda *call: note(call[2]) if isinstance(call[2], Tensor) else None)
    for parameter in model.parameters():
        parameter.register_hook(lambda gradient: note(gradient))


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Median share of the thread time of ``plain`` that each way takes more."""
    split, shape = rows(ROWS, 1), layout()

    def state() -> StepState:
        training = Training(batch_size=arguments.batch, threads=1)
        model = Model(embedding_dim=8, hidden=arguments.hidden)
        job = TrainingJob(dataset=folder, output=folder, seed=7, device="cpu", model=model, training=training)
        plan = plan_training(training, model, ROWS, 5000)
        group = ProcessGroup(Shard(), torch.device("cpu"))
        objectives = build_objectives(job, shape, None, ())
        made = build_state(job, shape, plan, group, objectives, objectives.starting_rates(split.labels))
        made.model.train()
        return made

    names = [name for name in WAYS if name == "plain" or not arguments.only or name in arguments.only]
    # Where a model lies in memory makes some per cent: the ways change states at each turn.
    states = [state() for name in names if name != "naive hooks"]
    ways = []
    for name in names:
        used = [state()] if name == "naive hooks" else states
        if name == "naive hooks":
            hook_naively(used[0].model, [])
        if name in TRAINERS:
            training = Training(**TRAINERS[name])
            every, details = training.log_every, training.steps_between_details
            watched = [replace(own, monitor=GradientMonitor(own.model, every, None, details)) for own in used]
            ways.append(Way(name, [trainer_step(own, folder) for own in watched]))
            continue
        anomaly = (lambda: torch.autograd.set_detect_anomaly(True)) if name == "anomaly" else nullcontext
        ways.append(Way(name, [plain_step(own, folder) for own in used], anomaly))
    inputs = InputCheck(shape)
    order, shuffled = np.random.default_rng(2).permutation(ROWS), np.random.default_rng(3)
    found: dict[str, list[float]] = {way.name: [] for way in ways}
    for turn in range(arguments.rounds + 1):
        first = turn * arguments.steps
        starts = [(first + step) * arguments.batch % (ROWS - arguments.batch) for step in range(arguments.steps)]
        # As the reader's thread does it.
        read = [gather(split, order[start : start + arguments.batch]) for start in starts]
        batches = [replace(batch, faulty=inputs.is_faulty(batch), content=content_hash(batch)) for batch in read]
        seconds = dict.fromkeys(found, 0.0)
        for start in range(0, arguments.steps, TURN):
            used = shuffled.permutation(len(states))
            for number in shuffled.permutation(len(ways)):
                way, place = ways[number], int(used[number % len(states)])
                seconds[way.name] += way.seconds(batches[start : start + TURN], first + start, place)
        if turn:  # The first round warms up.
            for name, value in seconds.items():
                found[name].append(value)
    plain = found["plain"]
    print(f"plain: {1e3 * median(plain) / arguments.steps:.2f} ms of thread time a step", file=sys.stderr)
    return {
        name: median((own - base) / base for own, base in zip(values, plain, strict=True))
        for name, values in found.items()
        if name != "plain"
    }


def main() -> int:
    """Measure, print the shares as JSON, and judge them where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=100, help="steps of a round: a multiple of those between details")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--hidden", type=int, nargs="*", default=[128, 64])
    parser.add_argument("--only", nargs="*", default=[], help="ways beside plain")
    parser.add_argument("--assert", dest="judged", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    with tempfile.TemporaryDirectory() as folder:
        shares = measure(arguments, Path(folder))
    print(json.dumps({name: round(share, 4) for name, share in shares.items()}, indent=1))
    wrong = shares.get("default", 0.0) > MOST_DEFAULT or shares.get("each step", 0.0) > MOST_EACH_STEP
    return int(arguments.judged and wrong)


if __name__ == "__main__":
    raise SystemExit(main())
