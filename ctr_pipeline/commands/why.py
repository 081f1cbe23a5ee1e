"""`ctr why`: the causes that may have broken a training, from what is left of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ctr_pipeline.commands.report import find_report
from ctr_pipeline.deployment.json_files import read_json
from ctr_pipeline.deployment.paths import DataRoot
from ctr_pipeline.errors import UserError
from ctr_pipeline.gradients.triage.causes import CAUSES
from ctr_pipeline.gradients.triage.evidence import RunEvidence
from ctr_pipeline.gradients.triage.left_behind import evidence_of

if TYPE_CHECKING:
    from ctr_pipeline.gradients.triage.hypothesis import Triage

FORMAT = 1
STEP_FILES = ("step.pt", "diagnosis.json")
RUN_FILES = ("result.json", "failure.json", "steps.jsonl", "contracts.json")


class WhyError(UserError):
    """There is no such run, or nothing is left of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where what is left of a training lies.

    Attributes:
        run: Folder of the run, or of what is kept of it; None where there is a failed step alone.
        step: Folder of its failed step; None where there is none.
        root: The data root; None for a folder that lies elsewhere.
        day: The day of the retrain; empty where it is not known.
    """

    run: Path | None
    step: Path | None
    root: Path | None
    day: str = ""


def explain(
    run: str, data_root: Path, *, try_fixes: bool, progress: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """What may have broken the training that ``run`` names: the content that `ctr why --json` prints.

    Args:
        run: What `ctr report` takes; or a folder of a run, of a kept failed training, or of a failed step.
        data_root: Where runs are looked for by name.
        try_fixes: Whether remedies are replayed.
        progress: Receives what is done next.

    Raises:
        WhyError: there is no such run, or nothing is left of it.
        UserError: its report, job or failed step cannot be read.
    """
    from ctr_pipeline.training.triaging import triage_of

    place = find_place(run, data_root)
    evidence, notes = _evidence(place), list[str]()
    build = None
    if place.run is not None:
        build, note = _build(place.run, place)
        notes += [note] if note else []
    if place.step is not None and (place.step / "step.pt").is_file():
        progress("looking at the failed step")
        evidence = _with_step(evidence, place.step)
    compared = _compared(evidence, place)
    if build is not None:
        progress("measuring the training" + (" and replaying it with one remedy at a time" if try_fixes else ""))
    found = triage_of(evidence, build, replay=try_fixes, compared=compared)
    content = _with_meanings(found)
    return {
        "format": FORMAT,
        "run": {
            "folder": str(place.run or place.step),
            "failed_step": str(place.step) if place.step else None,
            "day": place.day,
        },
        "stop": dict(evidence.cause),
        "findings": [dict(found) for found in evidence.findings if found["severity"] != "ok"],
        "steps_taken": len(evidence.steps),
        "triage": content,
        "notes": notes,
        "next": next_commands(place, content, tried=try_fixes),
    }


def explain_drill(fault: str, seed: int, *, contracts: bool) -> dict[str, Any]:
    """What triage makes of a drill, with replays of remedies: the content of `ctr why --json`.

    Args:
        fault: Name of the fault.
        seed: Seed of rows, weights and fault.
        contracts: Whether contracts are checked and may stop it.

    Raises:
        DrillError: there is no such fault.
    """
    from ctr_pipeline.gradients.drills import fault_named
    from ctr_pipeline.training.drilling.drilled_run import prepare_drill
    from ctr_pipeline.training.triaging import triage_of, with_settings

    with TemporaryDirectory() as folder:
        drill = prepare_drill(fault_named(fault), seed, Path(folder))
        went = drill.run(contracts=contracts)
        evidence = evidence_of(drill.job.output, went.cause, went.health)
        evidence = with_settings(evidence, drill.job.training.model_dump(mode="json"))
        content = _with_meanings(triage_of(evidence, drill.build, replay=True))
    return {
        "format": FORMAT,
        "run": {"folder": f"drill {fault}, seed {seed}", "failed_step": None, "day": ""},
        "stop": dict(evidence.cause),
        "findings": [dict(found) for found in evidence.findings if found["severity"] != "ok"],
        "steps_taken": went.steps,
        "triage": content,
        "notes": [],
        "next": [f"Keep it for others: ctr drill --fault {fault} --seed {seed}"],
    }


def _with_meanings(found: "Triage") -> dict[str, Any]:
    content = found.to_dict()
    for hypothesis in content["hypotheses"]:
        hypothesis["meaning"] = CAUSES[hypothesis["cause"]].meaning
    return content


def find_place(run: str, data_root: Path) -> Place:
    """The folders that ``run`` names.

    Raises:
        WhyError: it names none.
        ReportError: no run has that name.
    """
    path = Path(run)
    if path.is_file():
        path = path.parent if path.name in (*STEP_FILES, *RUN_FILES) else path
    if path.is_file():
        report = find_report(run, data_root)
        return _place_of(_folder_of(report), report)
    if path.is_dir():
        if any((path / name).is_file() for name in STEP_FILES):
            parent = next((p for p in path.resolve().parents[:2] if _is_run(p)), None)
            return Place(run=parent, step=path, root=_root_of(parent or path), day=_day_of(parent or path))
        if not _is_run(path):
            raise WhyError(
                f"{path}: nothing of a training is here. Expected one of {', '.join(RUN_FILES)} of a run, or the "
                f"{' and '.join(STEP_FILES)} of a failed step."
            )
        return _place_of(path)
    report = find_report(run, data_root)
    return _place_of(_folder_of(report), report)


def _folder_of(report: Mapping[str, Any]) -> Path:
    folder = Path(str(report.get("training_failure", {}).get("evidence") or report["model"]["folder"]))
    if not folder.is_dir():
        raise WhyError(f"{folder}: what that run left is not there any more. Name a folder, or another run.")
    return folder


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in RUN_FILES)


def _place_of(folder: Path, report: Mapping[str, Any] | None = None) -> Place:
    steps = [step for name in ("failed_step", "bad_step") if (step := folder / name).is_dir()]
    # A refit that stops after a first fit writes a second step beside its own.
    day = str(report["days"]["last"]) if report is not None else _day_of(folder)
    return Place(run=folder, step=next(iter(steps), None), root=_root_of(folder), day=day)


def _root_of(folder: Path) -> Path | None:
    for parent in folder.resolve().parents:
        if (parent / "training").is_dir() or (parent / "failed_trainings").is_dir():
            return parent
    return None


def _day_of(folder: Path) -> str:
    failure = read_json(folder / "failure.json")
    return str(failure.get("day", "")) or (folder.name if folder.parent.name == "training" else "")


def _evidence(place: Place) -> RunEvidence:
    if place.run is None:
        assert place.step is not None
        return evidence_of(place.step)
    found = evidence_of(place.run)
    # What stopped it may be told by the failed step alone, where the process was killed before it wrote its result.
    if not found.cause and place.step is not None:
        return replace(found, cause=evidence_of(place.step).cause)
    return found


def _with_step(evidence: RunEvidence, step: Path) -> RunEvidence:
    from ctr_pipeline.training.triage_bundle import bundle_clues

    return replace(
        evidence, clues=(*evidence.clues, *bundle_clues(step)), looked_at=(*evidence.looked_at, "the failed step")
    )


def _build(folder: Path, place: Place) -> tuple[Any, str]:
    """Builds the training once more; or None, and why that is not possible."""
    from ctr_pipeline.features.layout import Layout
    from ctr_pipeline.ranker import layout_hash
    from ctr_pipeline.training.job_spec import TrainingJob
    from ctr_pipeline.training.triaging import builder_of

    if not (folder / "job.json").is_file():
        return None, f"{folder} has no job.json: the training cannot be built again, so files alone were looked at"
    job = TrainingJob.load(folder / "job.json")
    dataset = job.dataset
    if not (dataset / "layout.json").is_file() and place.root is not None and place.day:
        dataset = DataRoot(place.root).retrain(place.day).packed
    if not (dataset / "layout.json").is_file():
        return None, f"the dataset {job.dataset} is not there any more, so files alone were looked at"
    build = builder_of(job.model_copy(update={"dataset": dataset, "output": folder}))
    layout = Layout.from_json((dataset / "layout.json").read_text(encoding="utf-8"))
    then = read_json(folder / "result.json").get("layout_sha256")
    if then is not None and then != layout_hash(layout):
        return build, f"the dataset {dataset} was packed again since, with other inputs: what was measured is of these"
    return build, ""


def _compared(evidence: RunEvidence, place: Place) -> Any:
    """What differs from the last training that was promoted; None where there is none."""
    from ctr_pipeline.gradients.triage.comparison import compare

    if place.root is None:
        return None
    paths = DataRoot(place.root)
    own = place.run.resolve() if place.run is not None else None
    for release in reversed(paths.retrains("release.json")):
        if release.parent.resolve() != own and read_json(release).get("promoted"):
            features, good = (_features(paths, day) for day in (place.day, release.parent.name))
            return compare(evidence, evidence_of(release.parent), features, good)
    return None


def _features(paths: DataRoot, day: str) -> list[str]:
    layout = read_json(paths.retrain(day).packed / "layout.json") if day else {}
    return [column["name"] for kind in ("numeric", "ids") for column in layout.get(kind, [])]


def next_commands(place: Place, triage: Mapping[str, Any], *, tried: bool) -> list[str]:
    """What a person does next, a sentence with a command each."""
    from ctr_pipeline.gradients.drills import registered_faults

    folder = place.run or place.step
    found = []
    if not tried and place.run is not None and not triage["unknown"]:
        found.append(f"Replay the training with one remedy at a time: ctr why {folder} --replay")
    if not triage["unknown"]:
        top = triage["hypotheses"][0]
        where = f" (at {top['location']})" if top["location"] else ""
        found.append(f"Fix{where}: {top['fix']}. Then run again: ctr run --spec SPEC")
        named = [fault.name for fault in registered_faults() if top["cause"] in fault.right_names]
        if named:
            drill = top["cause"] if top["cause"] in named else named[0]
            found.append(f"See the same cause in a training of seconds: ctr drill --fault {drill} --seed 1")
    else:
        found.append(
            f"See how good the model is: ctr report {place.day or 'latest'}; what each contract measured is in {folder}/contracts.json"
        )
    if place.step is not None:
        found.append(
            f"Repeat the failed step: ctr_pipeline.training.step_bundle.load_step(Path('{place.step}/step.pt')).replay()"
        )
    return found
