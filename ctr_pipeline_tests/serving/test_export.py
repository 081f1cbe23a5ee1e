import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import polars as pl
import pytest
import torch

from ctr_pipeline.calibration import PlattCalibrator
from ctr_pipeline.features.layout import Encoding, IdColumn, Layout, NumericColumn
from ctr_pipeline.ranker import build_ranker
from ctr_pipeline.serving import Bundle, BundleError
from ctr_pipeline.serving.bundle import FILES, MANIFEST
from ctr_pipeline.serving.export import check_parity, export_bundle, reference_scores
from ctr_pipeline.spec.model import Model
from ctr_pipeline_tests.serving.shop import Shop, randomise

OTHER_PROCESS = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from ctr_pipeline_tests.serving.shop import make_shop
folder = Path(sys.argv[2])
make_shop(folder).export(folder / "bundle")
"""


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def test_bundle_has_its_files_and_scores_as_the_ranker(shop: Shop, bundle: Bundle) -> None:
    assert set(contents(bundle.directory)) == {*FILES, MANIFEST}
    numeric, ids = shop.rows(500)
    expected = reference_scores(shop.ranker, shop.calibrators, shop.layout, numeric, ids)
    found = bundle.score(numeric, ids)
    assert found.logits.std() > 1, "rows that all score alike would prove nothing"
    assert np.abs(found.logits - expected.logits).max() <= 1e-5
    assert np.abs(found.probabilities - expected.probabilities).max() <= 1e-6


def test_the_graph_holds_the_calibration(shop: Shop, bundle: Bundle) -> None:
    found = bundle.score(*shop.rows(200))
    for column, task in enumerate(shop.layout.tasks):
        calibrated = shop.calibrators[task].apply(found.logits[:, column])
        assert found.probabilities[:, column] == pytest.approx(1 / (1 + np.exp(-calibrated)), abs=1e-6)


def test_parity_on_rows_and_corners(shop: Shop, bundle: Bundle) -> None:
    parity = check_parity(bundle, shop.ranker, shop.calibrators, *shop.rows(300))
    assert parity.passed, parity
    assert parity.rows == 300 + 5 + len(shop.layout.numeric)
    parity.require()
    assert json.loads(json.dumps(parity.to_json()))["passed"] is True


def test_parity_sees_another_model(shop: Shop, bundle: Bundle) -> None:
    calibrators = {**shop.calibrators, "buy": PlattCalibrator(b=1e-3)}
    parity = check_parity(bundle, shop.ranker, calibrators, *shop.rows(50))
    assert parity.logit <= 1e-4 < parity.probability
    with pytest.raises(BundleError, match="does not score as the trained one"):
        parity.require()
    other = randomise(build_ranker(shop.layout, shop.spec.model, 1), seed=5)
    assert check_parity(bundle, other, shop.calibrators, *shop.rows(50)).logit > 0.1


def test_export_leaves_the_ranker_as_it_was(shop: Shop, tmp_path: Path) -> None:
    shop.ranker.train()
    shop.ranker.tower.eval()
    before = {name: value.clone() for name, value in shop.ranker.state_dict().items()}
    shop.export(tmp_path / "bundle")
    assert shop.ranker.training
    assert not shop.ranker.tower.training
    assert all(torch.equal(value, before[name]) for name, value in shop.ranker.state_dict().items())


def test_bytes_are_the_same_in_another_process_and_tell_no_paths(shop: Shop, bundle: Bundle, tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    done = subprocess.run(
        [sys.executable, "-c", OTHER_PROCESS, str(root), str(tmp_path)], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), "the export is to be silent"
    first, second = contents(bundle.directory), contents(tmp_path / "bundle")
    assert [name for name in first if first[name] != second[name]] == []
    forbidden = [str(root), str(Path.home()), sys.prefix, str(tmp_path), "/secret", ".py", "site-packages"]
    for name, content in first.items():
        assert [word for word in forbidden if word.encode() in content] == [], name
    spec = first["spec.yaml"].decode()
    assert "- log.parquet" in spec


def test_the_graph_is_plain_onnx(bundle: Bundle) -> None:
    model = onnx.load(str(bundle.directory / "model.onnx"), load_external_data=False)
    assert [(domain.domain, domain.version) for domain in model.opset_import] == [("", 20)]
    assert [i.name for i in model.graph.input] == ["numeric", "ids"]
    assert [o.name for o in model.graph.output] == ["logits", "probabilities"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert not any(tensor.external_data for tensor in model.graph.initializer)


def test_golden_rows_are_made_up_from_the_layout_alone(shop: Shop, bundle: Bundle, tmp_path: Path) -> None:
    other = replace(shop, ranker=randomise(build_ranker(shop.layout, shop.spec.model, 2), seed=9))
    first = json.loads((bundle.directory / "golden.json").read_text())
    second = json.loads((other.export(tmp_path / "b").directory / "golden.json").read_text())
    assert first["numeric"] == second["numeric"]
    assert first["ids"] == second["ids"]
    assert first["logits"] != second["logits"]
    assert set(first["numeric"][0]) == {None}
    assert first["ids"][:2] == [[0, 0, 0], [1, 1, 1]]


def test_an_older_bundle_is_replaced_and_other_folders_are_not(shop: Shop, bundle: Bundle, tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    shop.export(target)
    changed = replace(shop, calibrators={**shop.calibrators, "buy": PlattCalibrator(b=1.0)})
    assert changed.export(target).sha256 != bundle.sha256
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    (target / "diary.txt").write_text("mine")
    with pytest.raises(BundleError, match=r"diary\.txt"):
        shop.export(target)
    assert (target / "diary.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("heads", "wide", "inputs"),
    [
        ("chain", True, "numbers"),
        ("independent", True, "ids"),
        ("chain", False, "ids"),
        ("independent", False, "numbers"),
        ("chain", True, "encodings"),
    ],
)
def test_every_model_exports(shop: Shop, tmp_path: Path, heads: str, wide: bool, inputs: str) -> None:
    layout = replace(shop.layout, **({"numeric": ()} if inputs == "ids" else {"ids": ()}))
    if inputs == "encodings":
        plain = layout.numeric[0]
        encodings = (
            Encoding("piecewise_linear", (-50.0, 0.0, 1.0, 30.0), (0.9, 0.5, 0.2)),
            Encoding("bucket", (-30.0, 0.5, 20.0), (0.1, 0.4, 0.3, 0.2)),
            Encoding("cyclic", period=24.0),
        )
        encoded = tuple(replace(plain, name=encoding.kind, encoding=encoding) for encoding in encodings)
        layout = replace(shop.layout, numeric=(*layout.numeric, *encoded))
        shop = replace(shop, layout=layout)
    model = Model(heads=heads, wide=wide, hidden=[8] if wide else [])
    ranker = randomise(build_ranker(layout, model, 0))
    bundle = export_bundle(ranker, shop.calibrators, layout, shop.vocabulary, shop.spec, tmp_path / "bundle")
    numeric, ids = shop.rows(40)
    numeric, ids = numeric[:, : len(layout.numeric)], ids[:, : len(layout.ids)]
    parity = check_parity(bundle, ranker, shop.calibrators, numeric, ids)
    assert parity.passed, parity


def test_parity_holds_for_a_wide_model(shop: Shop, tmp_path: Path) -> None:
    layout = Layout(
        numeric=tuple(NumericColumn(f"n{i}", "dense", "signed_log1p", 0.0, True, 0.0, 1.0) for i in range(20)),
        ids=tuple(IdColumn(f"c{i}", "categorical", 500, 16) for i in range(10)),
        tasks=("click",),
        parents=(-1,),
    )
    frame = pl.DataFrame(
        [{"feature": c.name, "key": f"k{row}", "row": row} for c in layout.ids for row in range(2, 500)]
    )
    frame.write_parquet(tmp_path / "v.parquet")
    ranker = build_ranker(layout, Model(hidden=[256, 128]), 0)
    with torch.no_grad():
        ranker.tower[0].linear.weight.mul_(3)
    calibrators = {"click": PlattCalibrator()}
    bundle = export_bundle(ranker, calibrators, layout, tmp_path / "v.parquet", shop.spec, tmp_path / "bundle")
    rng = np.random.default_rng(0)
    numeric = rng.lognormal(1, 3, (1000, 20)).astype(np.float32)
    numeric[rng.random(numeric.shape) < 0.1] = np.nan
    parity = check_parity(bundle, ranker, calibrators, numeric, rng.integers(0, 500, (1000, 10)))
    assert parity.passed, parity


def test_refuses_what_cannot_be_served(shop: Shop, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="task 'buy' has no calibrator"):
        replace(shop, calibrators={"click": PlattCalibrator(), "like": PlattCalibrator()}).export(tmp_path / "b")
    broken = randomise(build_ranker(shop.layout, shop.spec.model, 1))
    with torch.no_grad():
        broken.head.bias[0] = float("nan")
    with pytest.raises(BundleError, match=r"head\.bias .* not finite"):
        replace(shop, ranker=broken).export(tmp_path / "b")
    frame = pl.read_parquet(shop.vocabulary)
    for wrong in (frame.filter(pl.col("key") != "a1"), frame.with_columns(row=pl.col("row") + 1)):
        wrong.write_parquet(tmp_path / "v.parquet")
        with pytest.raises(BundleError, match=r"feature '\w+' has \d keys; the layout has embedding rows 2 to"):
            replace(shop, vocabulary=tmp_path / "v.parquet").export(tmp_path / "b")
    with pytest.raises(BundleError, match="no vocabulary"):
        replace(shop, vocabulary=tmp_path / "absent.parquet").export(tmp_path / "b")
    assert not (tmp_path / "b").exists()
