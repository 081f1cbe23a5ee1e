"""What a drill leaves for a person: a tarball that has the same bytes each time."""

import gzip
import hashlib
import io
import json
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import torch

from ctr_pipeline.gradients.drills.fault import Fault
from ctr_pipeline.training.drilling.drilled_run import Drill, prepare_drill, run_drill

KEPT = ("checkpoint.pt", "steps.jsonl", "failed_step/diagnosis.json", "failed_step/step.pt")
"""Files of the training as it goes on, of those that it wrote."""


def write_tarball(fault: Fault, seed: int, file: Path, *, contracts: bool) -> Drill:
    """Runs the drill and writes its tarball; the same fault, seed and versions give the same bytes.

    Measurements and checkpoint are those of the training without contracts, which shows what the fault does. With
    ``contracts`` it is run as in production too, and without the fault.

    Returns:
        The drill as in production where that was run, else the other.
    """
    with tempfile.TemporaryDirectory() as folder:
        prepared, run = prepare_drill(fault, seed, Path(folder)), Path(folder) / "run"
        freely = prepared.run(contracts=False)
        content = {"metrics.log": ("\n".join(freely.metrics) + "\n").encode()}
        content |= {name: (run / name).read_bytes() for name in KEPT if (run / name).is_file()}
        checked = prepared.run() if contracts else None
        if (run / "contracts.json").is_file():
            content["contracts.json"] = (run / "contracts.json").read_bytes()
    sound = None
    if contracts:
        with tempfile.TemporaryDirectory() as folder:
            sound = run_drill(None, seed, Path(folder))
    content["report.md"] = drill_report(fault, freely, checked, sound).encode()
    content["meta.json"] = (json.dumps(_meta(fault, freely, checked), indent=1, sort_keys=True) + "\n").encode()
    digests = "".join(f"{hashlib.sha256(content[name]).hexdigest()}  {name}\n" for name in sorted(content))
    content["SHA256SUMS"] = digests.encode()
    packed = io.BytesIO()
    # Without times, owners and a name in the header of gzip, which would differ from run to run.
    with (
        gzip.GzipFile(filename="", fileobj=packed, mode="wb", mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for name in sorted(content):
            info = tarfile.TarInfo(f"{fault.name}-{seed}/{name}")
            info.size = len(content[name])
            tar.addfile(info, io.BytesIO(content[name]))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(packed.getvalue())
    return freely if checked is None else checked


def drill_report(fault: Fault, freely: Drill, checked: Drill | None, sound: Drill | None) -> str:
    """At most 500 words: symptom, cause, fix, verification.

    Args:
        fault: The fault.
        freely: The training without contracts.
        checked: The training as in production; None where it was not run.
        sound: The same without the fault.
    """
    repeats = f"ctr drill --fault {fault.name} --seed {freely.seed}" + ("" if checked is not None else " --unchecked")
    found = "" if checked is None else f" With contracts: {_end(checked)}"
    healthy = "" if sound is None else f" The same rows and seed without the fault: {_end(sound)}"
    return (
        f"# {fault.name}, seed {freely.seed}\n\n## Symptom\n\n{_sentence(fault.symptom)} Without contracts: {_end(freely)}\n\n"
        f"## Cause\n\n{_sentence(fault.cause)}{found}\n\n## Fix\n\n{_sentence(fault.fix)}\n\n"
        f"## Verification\n\n`{repeats}` repeats this tarball to the byte.{healthy}\n"
    )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _end(drill: Drill) -> str:
    """How a training ended, in a sentence or two."""
    if drill.cause is not None:
        return f"stopped at step {drill.cause.step}. {_sentence(drill.cause.message)}"
    if drill.crash:
        return f"ended after {drill.steps} steps by an error, {drill.crash}."
    value = "none" if drill.validation is None else f"{drill.validation:.4f}"
    found = ", ".join(f"{name} ({severity})" for name, severity in drill.findings) or "none"
    return f"{drill.steps} steps, normalised entropy of the validation {value}, findings: {found}."


def _meta(fault: Fault, freely: Drill, checked: Drill | None) -> dict[str, Any]:
    own = freely if checked is None else checked
    return {
        "fault": fault.name,
        "family": fault.family,
        "seed": own.seed,
        "contracts": checked is not None,
        "steps": own.steps,
        "found_by": own.found_by,
        "cause": None if own.cause is None else own.cause.to_dict() | {"message": own.cause.message},
        "without_contracts": {"steps": freely.steps, "found_by": freely.found_by, "validation": freely.validation},
        "torch": torch.__version__,
    }
