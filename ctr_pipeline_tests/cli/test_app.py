"""The commands of `ctr`: their names, and that README lists them."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ctr_pipeline.cli import app


def visible() -> set[str]:
    return {
        command.name or (command.callback.__name__ if command.callback else "")
        for command in app.registered_commands
        if not command.hidden
    }


def test_readme_lists_every_command(project: Path) -> None:
    table = (project / "README.md").read_text(encoding="utf-8").split("## Commands")[1].split("\n## ")[0]
    listed = {
        name
        for name in re.findall(r"^\| `ctr ([\w-]+)", table, re.MULTILINE)
        if name not in ("spec", "release", "experiment")
    }
    assert listed == visible()
    assert "`ctr spec check FILE`" in table


@pytest.mark.parametrize(("before", "now"), [("repeat", "reproduce"), ("truth", "oracle")])
def test_former_names_still_work_and_are_hidden(before: str, now: str) -> None:
    run = CliRunner().invoke
    texts = [run(app, [name, "--help"]).output.split("\n", 3)[3] for name in (before, now)]
    assert texts[0] == texts[1]
    assert before not in visible()
    assert now in visible()


def test_drills_are_listed_and_run(tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["drill"])
    assert found.exit_code == 0
    assert "missing_zero_grad" in found.output
    run = ["drill", "--fault", "frozen_tower", "--seed", "2", "--output", str(tmp_path)]
    found = CliRunner().invoke(app, run)
    assert found.exit_code == 0, found.output
    assert "noticed by optimizer_coverage, after 0 steps" in found.output.replace("\n", " ")
    assert (tmp_path / "drill-frozen_tower-2.tar.gz").is_file()
    found = CliRunner().invoke(app, ["drill", "--fault", "nothing"])
    assert found.exit_code != 0
