"""What a user reads when a file is no spec at all."""

from pathlib import Path

import pytest

from ctr_pipeline.spec import SpecError, load_spec, parse_spec


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ("expected a mapping", "found nothing")),
        ("- a\n- b\n", ("expected a mapping", "found a list")),
        ("just words", ("expected a mapping", "found 'just words'")),
        ("name: [unclosed", ("not valid YAML", "line 1")),
        ("name: shop\n\tversion: 1\n", ("not valid YAML", "line 2")),
        ("name: shop\nversion: 1\nname: store\n", ("not valid YAML", "key `name` stands twice, first in line 1")),
        ("a: 1\n---\nb: 2\n", ("not valid YAML", "document")),
        ("when: !!python/object/apply:os.getcwd []\n", ("not valid YAML", "python")),
    ],
)
def test_text_that_is_no_spec(text: str, parts: tuple[str, ...]) -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec(text, where="shop.yaml")
    assert str(caught.value).startswith("shop.yaml: ")
    for part in parts:
        assert part in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"absent\.yaml: no such file\. Name an existing spec"):
        load_spec(tmp_path / "absent.yaml")


def test_folder_is_no_spec(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be read"):
        load_spec(tmp_path)


def test_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "impressions.parquet"
    path.write_bytes(b"PAR1\xff\xfe\x00")
    with pytest.raises(SpecError, match=r"impressions\.parquet: cannot be read as UTF-8 text"):
        load_spec(path)
