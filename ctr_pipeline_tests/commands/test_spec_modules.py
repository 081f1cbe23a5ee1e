"""`ctr spec modules`: every registered module, its fields and parameters, and a cost that was measured."""

import json

import torch
from typer.testing import CliRunner

from ctr_pipeline.cli import app
from ctr_pipeline.ranker.module_costs import module_costs
from ctr_pipeline.spec.heads import HEADS
from ctr_pipeline.spec.interactions import INTERACTIONS
from ctr_pipeline.spec.sequence_modules import SEQUENCES

BY_SECTION = {"model.interactions": INTERACTIONS, "model.sequences": SEQUENCES, "model.multi_task": HEADS}
OWN = {
    kind
    for variants in BY_SECTION.values()
    for kind, section in variants.sections.items()
    if section.__module__.startswith("ctr_pipeline.")
}


def test_every_module_is_listed_with_its_fields() -> None:
    found = CliRunner().invoke(app, ["spec", "modules", "--json", *sorted(OWN)])
    assert found.exit_code == 0, found.output
    listed = {module["kind"]: module for module in json.loads(found.output)}
    assert set(listed) == OWN
    for kind, module in listed.items():
        variants = BY_SECTION[module["section"]]
        assert [field["name"] for field in module["fields"]] == [
            name for name in variants.sections[kind].model_fields if name != "kind"
        ]
        assert all(field["meaning"] for field in module["fields"])
        assert module["meaning"]
    # n = 580 inputs: two crosses of n² + n, and the normalisation of 480 embedded values.
    assert listed["cross"]["parameters"] == 2 * (580**2 + 580) + 2 * 480
    assert listed["factorisation_machine"]["parameters"] == 0
    assert listed["cross"]["training"] > listed["cross"]["scoring"] > listed["factorisation_machine"]["scoring"] > 0


def test_a_person_reads_them() -> None:
    found = CliRunner().invoke(app, ["spec", "modules", "mask_net", "ple"])
    assert found.exit_code == 0, found.output
    assert "mask_width = 128: Width of the layer from which" in found.output
    assert "model.multi_task" in found.output
    assert "cross_mixture" not in found.output


def test_a_kind_that_is_none_is_refused() -> None:
    found = CliRunner().invoke(app, ["spec", "modules", "masknet"])
    assert found.exit_code != 0
    assert "Did you mean 'mask_net'?" in " ".join(found.output.replace("│", " ").split())


def test_measuring_leaves_threads_and_generator_alone() -> None:
    torch.set_num_threads(2)
    state = torch.get_rng_state()
    assert [cost.kind for cost in module_costs(lambda kind: kind == "factorisation_machine", 1)] == [
        "factorisation_machine"
    ]
    assert torch.get_num_threads() == 2
    assert torch.equal(torch.get_rng_state(), state)
