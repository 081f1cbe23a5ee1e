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
from ctr_pipeline.training.drilling.drilled_run import Drill, run_drill


def write_tarball(fault: Fault, seed: int, file: Path, *, contracts: bool) -> Drill:
    """Runs the drill and writes its tarball; the same fault, seed and versions give the same bytes."""
    with tempfile.TemporaryDirectory() as folder:
        drill = run_drill(fault, seed, Path(folder), contracts=contracts)
        run = Path(folder) / "run"
        content = {
            "metrics.log": ("\n".join(drill.metrics) + "\n").encode(),
            "report.md": drill_report(fault, drill).encode(),
            "meta.json": (json.dumps(_meta(fault, drill, contracts), indent=1, sort_keys=True) + "\n").encode(),
        }
        for name in ("checkpoint.pt", "contracts.json", "steps.jsonl"):
            if (run / name).is_file():
                content[name] = (run / name).read_bytes()
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
    return drill


def drill_report(fault: Fault, drill: Drill) -> str:
    """At most 500 words: symptom, cause, fix, verification."""
    if drill.cause is not None:
        end = f"It was stopped at step {drill.cause.step}: {drill.cause.message}"
    else:
        value = "none" if drill.validation is None else f"{drill.validation:.4f}"
        found = ", ".join(f"{name} ({severity})" for name, severity in drill.findings) or "none"
        end = f"It took {drill.steps} steps. Normalised entropy of the validation: {value}. Findings: {found}."
    return (
        f"# {fault.name}, seed {drill.seed}\n\n## Symptom\n\n{fault.symptom}. {end}\n\n## Cause\n\n{fault.cause}.\n\n"
        f"## Fix\n\n{fault.fix}.\n\n## Verification\n\n`ctr drill --fault {fault.name} --seed {drill.seed}` repeats this run "
        "to the byte; the same rows and seed without the fault train to the end with every contract kept.\n"
    )


def _meta(fault: Fault, drill: Drill, contracts: bool) -> dict[str, Any]:
    return {
        "fault": fault.name,
        "family": fault.family,
        "seed": drill.seed,
        "contracts": contracts,
        "steps": drill.steps,
        "found_by": drill.found_by,
        "cause": None if drill.cause is None else drill.cause.to_dict() | {"message": drill.cause.message},
        "torch": torch.__version__,
    }
