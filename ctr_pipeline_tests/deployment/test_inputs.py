"""What `--input` names, as it is kept."""

import json
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from ctr_pipeline.deployment.binding import _split_inputs
from ctr_pipeline.deployment.bundled import bundled_spec
from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.spec import Spec, SpecError, load_spec

SIGNED = "https://h.org/a.csv?X-Amz-Signature=hush"


@pytest.fixture
def spec() -> Spec:
    spec = load_spec(bundled_spec("ads"))
    events = {"name": "clicks", "paths": ["x"]}
    return Spec.model_validate(
        {**spec.model_dump(mode="json"), "source": {"impressions": {"paths": ["y"]}, "events": [events]}}
    )


def test_addresses_stay_as_they_are_and_paths_start_at_the_root(
    spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("day=1").mkdir()
    given = ["s3://b/day=1/a//b", "clicks=s3://b/c=1", SIGNED, "logs", "clicks=ev", "impressions=gs://b/k", "day=1"]
    assert _split_inputs(spec, given) == (
        ("s3://b/day=1/a//b", SIGNED, f"{tmp_path}/logs", "gs://b/k", f"{tmp_path}/day=1"),
        {"clicks": ("s3://b/c=1", f"{tmp_path}/ev")},
    )
    with pytest.raises(SpecError, match="--input klicks=…: the spec has no log 'klicks'") as refusal:
        _split_inputs(spec, [f"klicks={SIGNED}"])
    assert "hush" not in str(refusal.value)


def test_stored_settings_keep_addresses_without_their_queries(spec: Spec, tmp_path: Path) -> None:
    root = tmp_path / "data"
    path = bundled_spec("ads")
    made = Deployment(
        spec=load_spec(path),
        spec_text=path.read_text(),
        spec_folder=path.parent,
        data_root=root,
        inputs=("s3://b/k", SIGNED, "/logs/a.csv"),
        event_inputs={"clicks": ("s3://b/c=1", SIGNED)},
        first_day=date(2026, 1, 1),
        log_first_day=date(2026, 1, 1),
    )
    made.save()
    assert "hush" not in json.dumps(json.loads(made.paths.settings.read_text()))
    bare = SIGNED.partition("?")[0]
    found = Deployment.load(root)
    assert found.inputs == ("s3://b/k", bare, "/logs/a.csv")
    assert found.event_inputs == {"clicks": ("s3://b/c=1", bare)}
    assert replace(made, inputs=found.inputs, event_inputs=found.event_inputs) == found
