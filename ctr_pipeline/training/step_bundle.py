"""A stopped step as one file from which it repeats to the last bit, on a machine that has nothing else of the run."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ctr_pipeline.features.layout import Layout
from ctr_pipeline.gradients.adapters.batch import BatchView
from ctr_pipeline.gradients.adapters.table_rows import rows_read
from ctr_pipeline.losses.protocol import DelayedLoss
from ctr_pipeline.losses.registry import build_objective
from ctr_pipeline.spec.objectives import Binary
from ctr_pipeline.training.assembly import build_objectives, build_state
from ctr_pipeline.training.dataloader import Shard
from ctr_pipeline.training.distributed import ProcessGroup
from ctr_pipeline.training.job_spec import TrainingError, TrainingJob
from ctr_pipeline.training.plan import TrainingPlan
from ctr_pipeline.training.step import StepPosition, StepState, TakenStep, take_step

FORMAT = 1


def own_part(taken: TakenStep) -> dict[str, Any]:
    """What only this process has of a step: its rows, and its generators at the step's start."""
    return {
        "batch": {name: value.cpu() for name, value in taken.batch.tensors().items()},
        "random": dict(taken.random),
    }


def step_content(
    job: TrainingJob,
    plan: TrainingPlan,
    state: StepState,
    at: StepPosition,
    parts: Sequence[Mapping[str, Any]],
    settled: Sequence[Any] | None,
    rates: Sequence[float],
) -> dict[str, Any]:
    """The content of a bundle, as plain values and tensors.

    Embedding tables and the state of their optimizer are there with the rows alone that the batches read.

    Args:
        job: The job; of it no path and no address is kept.
        plan: The settings that the job may leave open.
        state: With the weights of the step's start.
        at: Where in the run the step is.
        parts: Those of :func:`own_part` of all processes, by rank.
        settled: How long the outcomes of settled training labels took; kept where a loss learns from them.
        rates: [T] base rates of the training labels, where labels are smoothed or tasks balanced by them.
    """
    rows = rows_read(state.model, [part["batch"]["ids"] for part in parts])
    names = {id(parameter): name for name, parameter in state.named}
    learnt = any(
        isinstance(build_objective(job.objectives.get(t, Binary())).loss, DelayedLoss) for t in state.layout.tasks
    )
    plain = job.model_copy(
        update={"dataset": Path("dataset"), "output": Path("output"), "mlflow": None, "last_good_steps": None}
    )
    return {
        "format": FORMAT,
        "job": plain.model_dump_json(),
        "plan": asdict(plan),
        "layout": state.layout.to_json(),
        "position": asdict(at),
        "threads": torch.get_num_threads(),
        "parts": list(parts),
        "settled": [torch.as_tensor(delays) for delays in settled] if settled is not None and learnt else None,
        "rates": list(rates),
        "model": {name: _kept(value, rows.get(name)) for name, value in state.model.state_dict().items()},
        "optimizers": [
            {
                names[id(parameter)]: {
                    key: _kept(value, _rows_of_state(value, parameter, rows.get(names[id(parameter)])))
                    for key, value in of_parameter.items()
                }
                for parameter, of_parameter in optimizer.state.items()
            }
            for optimizer in state.optimizers
        ],
        "scaler": state.precision.state_dict(),
        "balance": state.balance.state_dict(),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class StepBundle:
    """A stopped step that can be repeated. Made by :func:`load_step`.

    Attributes:
        job: The job of the run.
        layout: The packed layout.
        state: Model and optimizers as they were at the step's start. Rows of tables that the step does not read are zeros.
        position: Where in the run the step is.
        batches: Each process's rows, by rank.
        random: Each process's generators at the step's start.
    """

    job: TrainingJob
    layout: Layout
    state: StepState
    position: StepPosition
    batches: Sequence[BatchView]
    random: Sequence[Mapping[str, Any]]

    def replay(self) -> list[TakenStep]:
        """The step once more, for each process by rank; the model has the sum of their gradients afterwards.

        Norms and the decision of each are those of its own rows; of a run of one process they are those of the step.
        Generators are left where the step leaves them.
        """
        counts = [self.state.objectives.known_counts(batch.labels, batch.delays) for batch in self.batches]
        total = torch.stack(counts).sum(dim=0)
        taken: list[TakenStep] = []
        summed: dict[str, Tensor] = {}
        for batch, random in zip(self.batches, self.random, strict=True):
            torch.set_rng_state(random["torch"])
            group = _RecordedGroup(total) if len(self.batches) > 1 else self.state.group
            taken.append(take_step(_with_group(self.state, group), batch, self.position))
            for name, parameter in self.state.named:
                if parameter.grad is not None:
                    summed[name] = summed[name] + parameter.grad if name in summed else parameter.grad
        for name, parameter in self.state.named:
            parameter.grad = summed.get(name)
        return taken


def load_step(path: Path) -> StepBundle:
    """Read a bundle and build its model.

    Raises:
        TrainingError: There is none, or it is of another version of the package.
    """
    if not path.is_file():
        raise TrainingError(f"{path} is no file: name the step.pt of a failed step")
    content = torch.load(path, map_location="cpu", weights_only=True)
    if content.get("format") != FORMAT:
        raise TrainingError(f"{path.name} has format {content.get('format', 'none')}, this version reads {FORMAT}")
    job, layout = TrainingJob.model_validate_json(content["job"]), Layout.from_json(content["layout"])
    settled = None if content["settled"] is None else [delays.numpy() for delays in content["settled"]]
    objectives = build_objectives(job, layout, settled, content["rates"])
    group = ProcessGroup(Shard(), torch.device("cpu"))
    state = build_state(
        job, layout, TrainingPlan(**content["plan"]), group, objectives, detectors=[], base_rates=content["rates"]
    )
    state.model.load_state_dict({name: _whole(value) for name, value in content["model"].items()})
    state.model.train()
    parameters = dict(state.named)
    for optimizer, saved in zip(state.optimizers, content["optimizers"], strict=True):
        for name, of_parameter in saved.items():
            optimizer.state[parameters[name]] = {key: _whole(value) for key, value in of_parameter.items()}
    state.precision.load_state_dict(content["scaler"])
    if "balance" in content:
        state.balance.load_state_dict(content["balance"])
    return StepBundle(
        job=job,
        layout=layout,
        state=state,
        position=StepPosition(**content["position"]),
        batches=[BatchView(**part["batch"]) for part in content["parts"]],
        random=[part["random"] for part in content["parts"]],
    )


class _RecordedGroup(ProcessGroup):
    """One process of several in a replay: the counts are those of all, gradients those of its own rows."""

    def __init__(self, counts: Tensor) -> None:
        super().__init__(Shard(), torch.device("cpu"))
        self._counts = counts

    def sum(self, tensor: Tensor) -> Tensor:
        """The counts of all processes."""
        return self._counts.clone() if tensor.shape == self._counts.shape else tensor


def _with_group(state: StepState, group: ProcessGroup) -> StepState:
    return StepState(**{field.name: getattr(state, field.name) for field in fields(state)} | {"group": group})


def _kept(value: Any, rows: Tensor | None) -> Any:
    """A tensor, or of a table the rows that are read; on the CPU, without memory of its own that is not used."""
    if not isinstance(value, Tensor):
        return value
    if rows is None:
        return value.detach().cpu().clone()
    return {"rows": rows.cpu(), "values": value.detach().index_select(0, rows).cpu(), "shape": list(value.shape)}


def _whole(value: Any) -> Any:
    """What :func:`_kept` was given, with zeros for the rows that were not read."""
    if not isinstance(value, dict):
        return value
    tensor = torch.zeros(value["shape"], dtype=value["values"].dtype)
    tensor[value["rows"]] = value["values"]
    return tensor


def _rows_of_state(value: Any, parameter: Tensor, rows: Tensor | None) -> Tensor | None:
    by_row = isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == parameter.shape[0]
    return rows if by_row else None
