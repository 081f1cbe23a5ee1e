"""`ctr run` that is told to stop, as by Ctrl-C: it says so, and has an exit code of its own."""

import re
import signal
import subprocess
from pathlib import Path

import pytest
import yaml

from ctr_pipeline_tests.end_to_end.copies import copy_root
from ctr_pipeline_tests.end_to_end.fixtures import CTR, Finished, environment


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_so_and_has_no_report(
    finished: Finished, config_home: Path, tmp_path: Path, number: signal.Signals
) -> None:
    content = yaml.safe_load(finished.spec.read_text(encoding="utf-8"))
    content["training"]["weight_decay"] = 0.001
    spec, root = tmp_path / "other.yaml", copy_root(finished.data_root, tmp_path / "run")
    spec.write_text(yaml.safe_dump(content), encoding="utf-8")
    command = [str(CTR), "run", "--spec", str(spec), "--data-root", str(root), "--json", str(tmp_path / "report.json")]
    process = subprocess.Popen(command, env=environment(config_home), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert any(re.search(r"  ranker +started", line) for line in process.stderr)
    process.send_signal(number)
    rest = process.stderr.read()
    assert process.wait(timeout=60) == 130, rest
    assert rest.rstrip().endswith("the same command goes on from there.")
    assert "Traceback" not in rest
    assert "Stack Trace" not in rest
    assert not (tmp_path / "report.json").exists()
