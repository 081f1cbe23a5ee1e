"""What a step and its processes write is in the files of Dagster's page and in the terminal, to the last line."""

import os
import subprocess
import sys
from pathlib import Path

from dagster._core.storage.compute_log_manager import ComputeIOType

from ctr_pipeline.orchestration.step_output import StepOutputManager

STEPS = """
import subprocess, sys
from ctr_pipeline.orchestration.step_output import StepOutputManager
manager = StepOutputManager(base_dir=sys.argv[1])
print("before")
for step in ("one", "two", "one"):
    with manager.capture_logs(["run", step]):
        print(f"{step} says", flush=True)
        subprocess.run([sys.executable, "-c", "import os; os.write(1, b'a child says\\\\n' * 5000); os.write(2, b'and warns\\\\n')"])
        print(f"{step} is done")
print("after")
"""


def test_output_is_kept_and_shown_to_the_last_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STEPS, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )

    def of(step: str) -> str:
        return f"{step} says\n" + "a child says\n" * 5000 + f"{step} is done\n"

    assert done.stdout == "before\n" + of("one") + of("two") + of("one") + "after\n"
    assert done.stderr == "and warns\n" * 3
    manager = StepOutputManager(base_dir=str(tmp_path))
    kept = {
        step: manager.get_log_data_for_type(["run", step], ComputeIOType.STDOUT, 0, None)[0] for step in ("one", "two")
    }
    assert kept == {"one": (of("one") * 2).encode(), "two": of("two").encode()}
    assert manager.is_capture_complete(["run", "two"])


def test_a_terminal_that_is_gone_does_not_stop_a_step(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-c", STEPS.replace('print("before")', "").replace('print("after")', ""), str(tmp_path)],
            stdout=write, stderr=subprocess.PIPE, text=True, check=True, timeout=60,
        )  # fmt: skip
    finally:
        os.close(write)
    assert done.stderr == "and warns\n" * 3
    assert StepOutputManager(base_dir=str(tmp_path)).is_capture_complete(["run", "two"])
