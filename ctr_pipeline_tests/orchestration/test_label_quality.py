"""The check, and the table that a person reads."""

from ctr_pipeline.labels import KeyQuality, QualityTable, TaskQuality
from ctr_pipeline.orchestration.assets.label_quality import flagged_table
from ctr_pipeline.orchestration.checks.label_quality import LabelQualityEvidence, check_advertiser_labels


def flagged_key(key: str, **changes: object) -> KeyQuality:
    fields: dict[str, object] = {
        "task": "order", "key": key, "trials": 1200, "positives": 1100, "rate": 11 / 12, "expected_rate": 0.451,
        "z": 6.31, "status": "inflated", "weight": 0.157, "delay_hours": 1.234, "delay_z": 0.1,
    }  # fmt: skip
    return KeyQuality(**(fields | changes))  # type: ignore[arg-type]


def found(*flagged: KeyQuality) -> QualityTable:
    task = TaskQuality(
        task="order", parent="click", usable=True, reason="", keys=40, evaluated=30, trials=9000, positives=5000,
        expected_rate=0.451, alpha=45.1, beta=54.9, spread=0.2, outlier_share=0.03, inflated=1, dropped=0, late=0,
        flagged_share=0.1,
    )  # fmt: skip
    return QualityTable(key="shop", tasks=(task,), flagged=flagged)


def test_the_table_has_a_line_for_each_flagged_key() -> None:
    keys = (flagged_key("s1"), flagged_key("s|2`\n", z=None, expected_rate=None), flagged_key("s3", status="late"))
    assert flagged_table(found(*keys)).splitlines() == [
        "| shop | task | outcomes | rate | expected | status |",
        "| --- | --- | --- | --- | --- | --- |",
        "| `s1` | order | 1,100/1,200 | 91.7% | 45.1% | inflated |",
        "| `s\\|2' ` | order | 1,100/1,200 | 91.7% | – | inflated |",
        "| `s3` | order | 1,100/1,200 | 91.7% | 45.1% | late by 1.2 h |",
        "",
        "With z, delay and weight: advertiser_quality.json.",
    ]
    assert flagged_table(found()) == "No key is flagged."


def test_a_long_table_says_how_many_it_leaves_out() -> None:
    text = flagged_table(found(*(flagged_key(f"s{number}") for number in range(35))), most=30)
    assert len(text.splitlines()) == 2 + 30 + 2
    assert text.endswith("With 5 more keys, and z, delay and weight: advertiser_quality.json.")


def test_the_check_warns_above_the_share_and_names_the_worst() -> None:
    shares = {"cart": (0.02, ["a"]), "order": (0.2, ["a", "b", "c", "d", "e"])}
    result = check_advertiser_labels(LabelQualityEvidence(shares, 0.05))
    assert not result.passed
    assert not result.error
    assert result.description is not None
    assert "more than 5%" in result.description
    assert "order 20.0% (a, b, c and 2 more)" in result.description
    assert "cart" not in result.description
    assert dict(result.metadata) == {
        "flagged_share/cart": 0.02,
        "flagged_share/order": 0.2,
    }


def test_the_check_passes_at_the_share_and_without_tasks() -> None:
    assert check_advertiser_labels(LabelQualityEvidence({"order": (0.05, ["a"])}, 0.05)).passed
    assert check_advertiser_labels(LabelQualityEvidence({}, 1.0)).passed
