"""What makes stored tables and models stale, and what does not."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import dagster as dg
import grimp
import pytest
import yaml

from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.deployment.environment import Environment
from ctr_pipeline.orchestration.fingerprints import TAG, FingerprintInputs, contract_fingerprint, ingest_fingerprint
from ctr_pipeline.orchestration.records import days_with_tag
from ctr_pipeline.orchestration.stages import RETRAIN_STEP, STAGES, AssetStage, names, stage
from ctr_pipeline.provenance import source_code as code
from ctr_pipeline.provenance.source_code import PACKAGE, code_digest
from ctr_pipeline.spec import parse_spec

DAY = date(2026, 1, 5)
DAILY = ("impressions", "outcome_events", "event_references", "profile", "labels", "history", "feature_snapshot")


@pytest.fixture
def settings(tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    monkeypatch.setenv("CTR_PSEUDONYM_KEY", "0123456789abcdef0123")
    return Deployment.from_environment(
        Environment.of({"CTR_SPEC": str(project / "specs" / "ads.yaml"), "CTR_DATA_ROOT": str(tmp_path / "data")})
    )


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        read(instance, "2026-01-01", "a")
        yield instance


def read(instance: dg.DagsterInstance, day: str, fingerprint: str) -> None:
    instance.report_runless_asset_event(dg.AssetMaterialization("impressions", partition=day, tags={TAG: fingerprint}))


def read_again(settings: Deployment, instance: dg.DagsterInstance) -> None:
    """The raw tables as `ctr run` makes them, before it looks at what follows from them."""
    for asset in ("impressions", "outcome_events"):
        tags = {TAG: fingerprints(settings, instance)[asset]}
        instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition="2026-01-01", tags=tags))


def fingerprints(settings: Deployment, instance: dg.DagsterInstance) -> dict[str, str]:
    inputs = FingerprintInputs(deployment=settings, instance=instance, last=DAY, watermark=DAY)
    return {found.name: found.fingerprint(inputs) for found in STAGES}


def changed_stages(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


def _changed(settings: Deployment, section: str, **values: object) -> Deployment:
    content = yaml.safe_load(settings.spec_text)
    content[section] = {**content.get(section, {}), **values}
    return replace(settings, spec=parse_spec(yaml.safe_dump(content), where="changed"))


def test_a_longer_lag_makes_labels_and_history_anew_but_not_the_raw_tables(
    settings: Deployment, instance: dg.DagsterInstance
) -> None:
    longer = _changed(settings, "split", ingest_lag="6h")
    changed = changed_stages(fingerprints(settings, instance), fingerprints(longer, instance))
    assert changed == {"labels", "history", "feature_snapshot", *names(step=RETRAIN_STEP)}


def test_another_key_makes_everything_anew(
    settings: Deployment, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_again(settings, instance)
    before = contract_fingerprint(settings), fingerprints(settings, instance)
    monkeypatch.setenv("CTR_PSEUDONYM_KEY", "another-key-0123456789")
    assert contract_fingerprint(settings) != before[0]
    assert changed_stages(before[1], fingerprints(settings, instance)) == {"impressions", "outcome_events"}
    # What follows is decided by what is stored: it is stale once the raw tables have been read again.
    read_again(settings, instance)
    assert changed_stages(before[1], fingerprints(settings, instance)) == {*DAILY, *names(step=RETRAIN_STEP)}


def test_training_settings_make_the_model_anew_and_nothing_else(
    settings: Deployment, instance: dg.DagsterInstance
) -> None:
    other = _changed(settings, "training", epochs=9)
    changed = changed_stages(fingerprints(settings, instance), fingerprints(other, instance))
    assert changed == set(names(step=RETRAIN_STEP))


def test_another_objective_makes_the_model_anew_and_nothing_else(
    settings: Deployment, instance: dg.DagsterInstance
) -> None:
    content = yaml.safe_load(settings.spec_text)
    content["tasks"][0]["objective"] = {"kind": "binary", "loss": {"kind": "focal"}}
    other = replace(settings, spec=parse_spec(yaml.safe_dump(content), where="changed"))
    changed = changed_stages(fingerprints(settings, instance), fingerprints(other, instance))
    assert changed == set(names(step=RETRAIN_STEP))


def test_a_model_is_stale_once_a_day_that_it_read_was_read_anew(
    settings: Deployment, instance: dg.DagsterInstance
) -> None:
    read(instance, "2026-01-04", "a")
    before = fingerprints(settings, instance)
    read(instance, "2026-01-06", "a")
    assert fingerprints(settings, instance) == before
    read(instance, "2026-01-04", "b")
    # And every table that follows from what is stored.
    derived = set(DAILY) - {"impressions", "outcome_events"}
    assert changed_stages(before, fingerprints(settings, instance)) == derived | set(names(step=RETRAIN_STEP))
    days = [date(2026, 1, 4), date(2026, 1, 6)]
    assert days_with_tag(instance, "impressions", days, TAG, "a") == {date(2026, 1, 6)}


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package that may be edited, and that the digests look at."""
    copy = tmp_path / "ctr_pipeline"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "PACKAGE", copy)
    return copy


@pytest.mark.parametrize(
    ("edited", "stale", "fresh"),
    [
        ("ranker/model.py", {"ranker", "serving_bundle"}, {*DAILY, "examples", "training_dataset", "evaluation"}),
        ("features/exact_windows.sql", {"history", "profile", *names(step=RETRAIN_STEP)}, {"impressions", "labels"}),
        ("sources/impressions.py", {*DAILY, "examples"}, set()),
        ("orchestration/assets/release.py", {"champion"}, {*DAILY, "ranker", "evaluation"}),
        ("spec/tasks.py", {found.name for found in STAGES}, set()),
        ("commands/report.py", set(), {found.name for found in STAGES}),
    ],
)
def test_what_an_edited_file_decides_is_made_anew(
    settings: Deployment, instance: dg.DagsterInstance, checkout: Path, edited: str, stale: set[str], fresh: set[str]
) -> None:
    read_again(settings, instance)
    before = fingerprints(settings, instance)
    with (checkout / edited).open("a", encoding="utf-8") as file:
        file.write("\n")
    if "impressions" in changed_stages(before, fingerprints(settings, instance)):
        read_again(settings, instance)
    changed = changed_stages(before, fingerprints(settings, instance))
    assert stale <= changed
    assert not fresh & changed


def test_an_edited_checkout_fits_the_days_that_were_read_before(settings: Deployment, checkout: Path) -> None:
    contract, ingest = contract_fingerprint(settings), ingest_fingerprint(settings)
    (checkout / "sources" / "rows.py").write_text("", encoding="utf-8")
    assert ingest_fingerprint(settings) != ingest
    assert contract_fingerprint(settings) == contract


def test_the_digest_sees_every_file_of_a_part_and_no_generated_one(checkout: Path) -> None:
    whole, features = code_digest(()), code_digest(("features",))
    (checkout / "features" / "__pycache__").mkdir()
    (checkout / "features" / "__pycache__" / "layout.cpython-311.pyc").write_bytes(b"x")
    assert (code_digest(()), code_digest(("features",))) == (whole, features)
    with (checkout / "features" / "exact_windows.sql").open("a", encoding="utf-8") as file:
        file.write(" ")
    assert code_digest(()) != whole
    assert code_digest(("features",)) != features
    with pytest.raises(FileNotFoundError):
        code_digest(("no_such_package",))


def test_the_declared_code_of_every_asset_covers_what_it_imports() -> None:
    """A package that an asset imports, however indirectly, decides its content: it must be in its fingerprint.

    Left out are the packages that bring assets together, and import them all.
    """
    graph = grimp.build_graph("ctr_pipeline")
    modules = {found.name: f"ctr_pipeline.{_module(found)}" for found in STAGES}
    missing = set()
    for found in STAGES:
        waiting = [modules[found.name]]
        if found.name == "ranker":  # The trainer is a process of its own.
            waiting += [name for name in graph.modules if name.startswith("ctr_pipeline.training.")]
        reached: set[str] = set()
        while waiting:
            name = waiting.pop()
            reached.add(name)
            imported = graph.find_modules_directly_imported_by(name) - reached
            waiting += [other for other in imported if _package(other) not in BRING_TOGETHER]
        # The imports of a module are those of all the assets in it.
        together = [other for other in STAGES if modules[other.name] == modules[found.name]]
        declared = {part.split("/")[0].removesuffix(".py") for other in together for part in other.code}
        missing |= {(found.name, package) for package in {_package(name) for name in reached} - declared}
    assert missing == set()


BRING_TOGETHER = {"ctr_pipeline", "orchestration", "deployment", "provenance", "definitions", "commands", "cli"}


def _package(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def _module(found: AssetStage) -> str:
    # Further files of assets, which its own imports, come after it.
    file = next(part for part in found.code if part.startswith("orchestration/assets/"))
    return file.removesuffix(".py").replace("/", ".")


def test_each_stage_is_found_by_its_name() -> None:
    assert [stage(found.name) for found in STAGES] == list(STAGES)
