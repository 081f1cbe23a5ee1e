"""Presets stand for the sections that they print, give way to what a spec says itself, and are stored as sections."""

import pytest
import yaml
from typer.testing import CliRunner

from ctr_pipeline.cli.app import app
from ctr_pipeline.spec.model import Model
from ctr_pipeline.spec.presets import PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_the_section_that_is_printed(name: str) -> None:
    printed = CliRunner().invoke(app, ["spec", "preset", name])
    assert printed.exit_code == 0
    section = yaml.safe_load(printed.stdout)["model"]
    assert Model.model_validate({"preset": name}) == Model.model_validate(section)


@pytest.mark.parametrize("name", PRESETS)
def test_what_a_spec_says_itself_stays(name: str) -> None:
    changed = Model.model_validate({"preset": name, "hidden": [7], "wide": False, "branches": []})
    assert (changed.hidden, changed.wide, changed.branches) == ([7], False, [])
    # Stored and read again it is the same model, also where a field that the preset sets is at its default.
    assert Model.model_validate(changed.model_dump(mode="json")) == changed
    assert Model.model_validate_json(changed.model_dump_json()) == changed
    assert changed.preset is None


def test_all_presets_are_printed_without_a_name_and_a_wrong_one_is_named() -> None:
    every = CliRunner().invoke(app, ["spec", "preset"]).stdout
    assert all(f"# {name}: " in every for name in PRESETS)
    wrong = CliRunner().invoke(app, ["spec", "preset", "smal"])
    assert wrong.exit_code == 2
    assert "Did you mean 'small'?" in wrong.output.replace("\n", " ").replace("│", "")
