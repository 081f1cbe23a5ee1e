"""docs/spec.md documents every field, in its section, with its default; and its examples are valid specs."""

import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ctr_pipeline.spec import Spec, parse_spec
from ctr_pipeline.spec.attribute import Attribute
from ctr_pipeline.spec.balancing import DwaBalance, GradientBalance, StaticBalance, UncertaintyBalance
from ctr_pipeline.spec.branches import Branch, Fusion
from ctr_pipeline.spec.calibration import Beta, CrossValidated, Identity, Isotonic, Platt
from ctr_pipeline.spec.canary import Canary
from ctr_pipeline.spec.cold_start import ColdStart
from ctr_pipeline.spec.encodings import Bucket, Cyclic, PiecewiseLinear, Standard
from ctr_pipeline.spec.evaluation import Evaluation, EvaluationCost, EvaluationSlice
from ctr_pipeline.spec.exposure import Arm, Traffic
from ctr_pipeline.spec.features import (
    CategoricalFeature,
    Features,
    Missing,
    NumericFeature,
    Values,
)
from ctr_pipeline.spec.fields import DAY_US, format_duration
from ctr_pipeline.spec.heads import Aitm, Mmoe, Ple, SharedBottom, TaskTowers
from ctr_pipeline.spec.history import (
    HistoryCount,
    HistoryFirstSeen,
    HistoryRate,
    HistoryRecency,
    HistorySequence,
    HistoryTop,
)
from ctr_pipeline.spec.interactions import INTERACTIONS
from ctr_pipeline.spec.limits import Promotion, Quality
from ctr_pipeline.spec.losses import BinaryCrossEntropy, DfmDiscrete, DfmWeibull, Focal, Fsiw
from ctr_pipeline.spec.model import Model
from ctr_pipeline.spec.objectives import Binary
from ctr_pipeline.spec.position import AdditivePosition, Examination, NoPosition
from ctr_pipeline.spec.ranking import RankingTerm
from ctr_pipeline.spec.row_filters import RowFilter
from ctr_pipeline.spec.scope import Days, Privacy
from ctr_pipeline.spec.sequence_modules import TargetAttention, Transformer
from ctr_pipeline.spec.serving import Serving, ServingLog
from ctr_pipeline.spec.simulator import (
    BotCampaign,
    ClickLogOutage,
    DuplicatedDelivery,
    LateBurst,
    NewCategory,
    SimulatedExperiment,
    SimulatorSettings,
    TrafficShift,
    UnitChange,
    UnnormalisedFeature,
    UserDrift,
)
from ctr_pipeline.spec.source import (
    EventLog,
    ImpressionColumns,
    LabelLog,
    LogFiles,
    Order,
    SideTable,
    Source,
    TimeOffset,
)
from ctr_pipeline.spec.split import Slice, Split
from ctr_pipeline.spec.tasks import Label, Task
from ctr_pipeline.spec.training import Training
from ctr_pipeline.spec.variants import Variant
from ctr_pipeline.spec.weighting import LabelQuality, Propensity

HEADINGS: dict[type[BaseModel], str] = {
    Spec: "spec",
    Source: "source",
    LogFiles: "source.impressions",
    RowFilter: "source.impressions.rows[]",
    EventLog: "source.events[]",
    Attribute: "source.events[].attribute",
    SideTable: "source.tables[]",
    LabelLog: "source.labels[]",
    SimulatorSettings: "source.simulator",
    UserDrift: "source.simulator.user_drift",
    SimulatedExperiment: "source.simulator.experiment",
    **dict.fromkeys(
        (
            ClickLogOutage,
            LateBurst,
            DuplicatedDelivery,
            UnitChange,
            UnnormalisedFeature,
            BotCampaign,
            TrafficShift,
            NewCategory,
        ),
        "source.simulator.incidents[]",
    ),
    ImpressionColumns: "impression",
    Order: "impression.order",
    TimeOffset: "impression.time_offset",
    Traffic: "impression.traffic",
    Arm: "impression.arm",
    Days: "days",
    Privacy: "privacy",
    Features: "features",
    NumericFeature: "features.dense[]",
    Missing: "features.dense[].missing",
    **dict.fromkeys((Standard, PiecewiseLinear, Bucket, Cyclic), "features.dense[].encoding"),
    CategoricalFeature: "features.categorical[]",
    ColdStart: "features.categorical[].cold_start",
    Values: "features.categorical[].list",
    HistoryRate: "features.history[]",
    HistoryCount: "features.history[]",
    HistoryRecency: "features.history[]",
    HistoryFirstSeen: "features.history[]",
    HistorySequence: "features.history[]",
    HistoryTop: "features.history[]",
    Task: "tasks[]",
    Binary: "tasks[].objective",
    BinaryCrossEntropy: "tasks[].objective.loss",
    **dict.fromkeys((Focal, DfmDiscrete, DfmWeibull, Fsiw), "tasks[].objective.loss"),
    Label: "tasks[].label",
    Split: "split",
    Slice: "split.test",
    Propensity: "propensity",
    LabelQuality: "label_quality",
    Model: "model",
    **dict.fromkeys((NoPosition, AdditivePosition, Examination), "model.position"),
    # Those of this project: other tests of the same process may have registered more.
    **{
        section: "model.interactions[]"
        for section in INTERACTIONS.sections.values()
        if section.__module__.startswith("ctr_pipeline.")
    },
    **dict.fromkeys((TargetAttention, Transformer), "model.sequences[]"),
    **dict.fromkeys((SharedBottom, TaskTowers, Mmoe, Ple, Aitm), "model.multi_task"),
    Branch: "model.branches[]",
    Fusion: "model.fusion",
    Training: "training",
    **dict.fromkeys((StaticBalance, UncertaintyBalance, DwaBalance, GradientBalance), "training.balance"),
    **dict.fromkeys((CrossValidated, Identity, Platt, Beta, Isotonic), "calibration"),
    Evaluation: "evaluation",
    EvaluationCost: "evaluation.costs[]",
    EvaluationSlice: "evaluation.slices[]",
    Quality: "quality",
    Promotion: "quality.promotion",
    Serving: "serving",
    ServingLog: "serving.log",
    Canary: "serving.canary",
    RankingTerm: "serving.score",
}
IN_WORDS = {
    ("features.dense[].encoding", "kind"),
    ("features.history[]", "kind"),
    ("features.history[]", "task"),
    ("features.history[]", "days"),
    ("features.history[]", "length"),
    ("source.simulator.incidents[]", "kind"),
    ("source.simulator.incidents[]", "share"),
    ("model.position", "kind"),
    ("model.interactions[]", "kind"),
    ("model.interactions[]", "hidden"),
    ("model.interactions[]", "blocks"),
    ("model.interactions[]", "width"),
    ("model.sequences[]", "kind"),
    ("model.multi_task", "kind"),
    ("training.balance", "kind"),
    ("model.multi_task", "tower"),
    ("calibration", "kind"),
    ("tasks[].objective", "kind"),
    ("tasks[].objective.loss", "kind"),
}
"""Fields of tagged sections whose default depends on the kind; the table says so in words."""


def sections(model: type[BaseModel]) -> set[type[BaseModel]]:
    """``model`` and every section below it; of an open union the members that are part of this project."""
    if issubclass(model, Variant) and model.__subclasses__():
        own = [kind for kind in model.__subclasses__() if kind.__module__.startswith("ctr_pipeline.")]
        return set().union(*map(sections, own))
    found = {model}
    if model is CrossValidated:
        # It holds others of its union.
        return found
    for field in model.model_fields.values():
        for inner in inner_types(field.annotation):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                found |= sections(inner)
    return found


def inner_types(annotation: Any) -> list[Any]:
    """``annotation`` and its arguments, all the way down."""
    return [annotation, *(inner for argument in get_args(annotation) for inner in inner_types(argument))]


def own_fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of ``model``; those that any log has are documented with the impression log."""
    shared = LogFiles.model_fields if model in (EventLog, LabelLog, SideTable) else {}
    return {name: field for name, field in model.model_fields.items() if name not in shared}


def shown_default(name: str, field: FieldInfo) -> str:
    """How the table writes the default of ``field``."""
    default = field.default
    if field.is_required():
        return "**required**"
    if default is None:
        return "absent"
    if isinstance(default, Slice):
        return f"`{{days: {default.days}}}`"
    if isinstance(default, BaseModel):
        return "see below"
    if name in ("ingest_lag", "max_clock_skew", "max_early", "half_life"):
        return f"`{format_duration(default)}`"
    if name == "edges":
        return f"`[{', '.join(map(format_duration, default))}]`"
    plain = list(default) if isinstance(default, tuple) else default
    return f"`{yaml.safe_dump(plain, default_flow_style=True).removesuffix('...' + chr(10)).strip()}`"


@pytest.fixture(scope="module")
def page(project: Path) -> str:
    return (project / "docs" / "spec.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tables(page: str) -> dict[str, dict[str, list[str]]]:
    """Cells of each field's row, by heading and field."""
    found: dict[str, dict[str, list[str]]] = {}
    for part in re.split(r"^### ", page, flags=re.MULTILINE)[1:]:
        heading = part.partition("\n")[0].strip("`")
        body = re.split(r"^## ", part, flags=re.MULTILINE)[0]
        lines = body[body.find("| field |") :].splitlines()
        rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line.startswith("| `")]
        found[heading] = {row[0].strip().strip("`"): [cell.strip() for cell in row] for row in rows}
    return found


FIELDS = [(model, name) for model in HEADINGS for name in own_fields(model)]


def test_every_section_has_a_heading() -> None:
    assert sections(Spec) == set(HEADINGS)


@pytest.mark.parametrize(("model", "name"), FIELDS, ids=[f"{m.__name__}.{n}" for m, n in FIELDS])
def test_field_is_documented(tables: dict[str, dict[str, list[str]]], model: type[BaseModel], name: str) -> None:
    row = tables[HEADINGS[model]].get(name)
    assert row is not None, f"docs/spec.md: section `{HEADINGS[model]}` has no row for `{name}`"
    assert len(row) == 5
    _, kind, default, meaning, _ = row
    assert kind
    assert len(meaning) > 8
    expected = shown_default(name, model.model_fields[name])
    if (HEADINGS[model], name) not in IN_WORDS:
        assert default == expected
    elif name == "kind":
        assert default == "**required**"
    else:
        assert expected in default


def test_no_row_documents_a_field_that_is_not_there(tables: dict[str, dict[str, list[str]]]) -> None:
    known: dict[str, set[str]] = {}
    for model, heading in HEADINGS.items():
        known.setdefault(heading, set()).update(own_fields(model))
    assert {heading: set(rows) for heading, rows in tables.items() if heading in known} == known


def test_examples_of_the_fields_are_yaml(tables: dict[str, dict[str, list[str]]]) -> None:
    examples = [row[4].strip("`") for heading in HEADINGS.values() for row in tables[heading].values() if row[4]]
    assert len(examples) > 80
    for example in examples:
        assert isinstance(yaml.safe_load(example), dict), example


def test_walk_throughs_are_valid_specs(page: str) -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    specs = [parse_spec(block, where="docs/spec.md") for block in blocks]
    assert [spec.name for spec in specs] == ["shop", "banners", "applications", "ordered"]
    kinds = [
        (spec.impression.order is not None, task.label.event is not None, task.label.column is not None)
        for spec in specs
        for task in spec.tasks[:1]
    ]
    assert kinds == [(False, True, False), (False, False, True), (False, False, False), (True, False, True)]


def test_numbers_of_the_text_are_those_of_the_specs(page: str, project: Path) -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    hours = {"click": 25, "purchase": 8 * 24 + 1}
    shop = parse_spec(blocks[0], where="docs/spec.md")
    assert {task.name: shop.maturity(task.name) / 3.6e9 for task in shop.tasks} == hours
    assert "settled after 8 days and 1 hour" in page
    gap = -(-shop.longest_maturity // DAY_US)
    assert f"2 × {gap} d + 5 d + 2 d + 1 d, or {2 * gap + 5 + 2 + 1} days" in page
    ads = parse_spec((project / "specs" / "ads.yaml").read_text(encoding="utf-8"), where="ads")
    slices = [part.days for part in (ads.split.test, ads.split.calibration, ads.split.validation)]
    assert (ads.longest_maturity / 86.4e9, slices) == (15, [5, 2, 1])
    assert "| 15 d | 8 d | 38 d | 52 d |" in page


def test_links_within_the_page_lead_somewhere(page: str) -> None:
    headings = re.findall(r"^#+ (.*)$", page, flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
    for target in re.findall(r"\]\(#([^)]+)\)", page):
        assert target in anchors, target


def test_reasons_of_the_quarantine_are_those_of_the_code(page: str, project: Path) -> None:
    code = "\n".join(path.read_text(encoding="utf-8") for path in (project / "ctr_pipeline" / "sources").glob("*.py"))
    table = page[page.index("### Quarantine") : page.index("### What is hashed")]
    documented = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) - {"reason"}
    assert len(documented) >= 12
    assert {reason for reason in documented if f'"{reason}"' not in code} == set()
    assert set(re.findall(r'reason="(\w+)"', code)) <= documented
