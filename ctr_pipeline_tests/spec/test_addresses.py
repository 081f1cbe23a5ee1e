"""Addresses in `paths` and `--input`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctr_pipeline.spec.addresses import AddressError, is_address, parse_address, without_query
from ctr_pipeline.spec.source import LogFiles


@pytest.mark.parametrize(
    ("text", "shown", "name", "folders"),
    [
        ("s3://b/k/a.csv.gz", "s3://b/k/a.csv.gz", "a.csv.gz", ("k",)),
        ("S3A://b/a b%20c?.csv", "s3://b/a b%20c?.csv", "a b%20c?.csv", ()),
        ("gcs://b/day=*/x.parquet", "gs://b/day=*/x.parquet", "x.parquet", ("day=*",)),
        ("abfss://c@shop.dfs.core.windows.net/k", "abfss://c@shop.dfs.core.windows.net/k", "k", ()),
        ("az://c/k/", "az://c/k/", "k", ()),
        ("s3://b", "s3://b/", "", ()),
        ("https://h.org:8/day%3D1/a.csv?X-Amz-Signature=5d67&x=/", "https://h.org:8/day%3D1/a.csv", "a.csv", ("day=1",)),
        ("http://localhost:1/a.csv", "http://localhost:1/a.csv", "a.csv", ()),
    ],
)  # fmt: skip
def test_an_address_keeps_its_key_and_shows_no_query(
    text: str, shown: str, name: str, folders: tuple[str, ...]
) -> None:
    address = parse_address(text)
    assert (str(address), address.name, address.parent.parts) == (shown, name, folders)
    assert "5d67" not in repr(address)
    assert parse_address(shown) == address


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hdfs://namenode/logs", "hdfs://: addresses of this kind are not read. Write s3://, gs://"),
        ("file:///logs", "or the path of a file"),
        ("s3:/b/k", "s3:/: an address has two slashes here"),
        ("s3:///k", "names no bucket"),
        ("s3://AKIA:hush@b/k", "has a user or a password before the @"),
        ("abfss://c:hush@shop.dfs.core.windows.net/k", "has a user or a password before the @"),
        ("https://me:hush@h.org/a.csv", "has a user or a password before the @"),
        ("abfss://c/k", "names no account. Write abfss://CONTAINER@ACCOUNT"),
        ("http://h.org/a.csv?sig=hush", "http://h.org/a.csv: http:// sends logs in the clear"),
        ("https://h.org?sig=hush/a.csv", "names no file"),
        ("https://h.org/logs/?sig=hush", "names no file, and web servers have no listing"),
        ("https://h.org/logs/*.csv?sig=hush", "no pattern can be looked up"),
        ("https://[h.org/a.csv?sig=hush", "no address of a web server"),
    ],
)
def test_what_is_no_address_is_refused_without_its_secrets(text: str, words: str) -> None:
    with pytest.raises(AddressError) as refusal:
        parse_address(text)
    assert words in str(refusal.value)
    assert "hush" not in str(refusal.value)


@pytest.mark.parametrize(
    "path", ["logs/a.csv", "/mnt/s3/a.csv", "a:b/c.csv", "C:/logs", "day=*/x?.csv", "~/a.csv", "s3"]
)
def test_paths_are_no_addresses(path: str) -> None:
    assert not is_address(path)
    assert without_query(path) == path


@given(st.text(min_size=1).filter(lambda text: "/" not in text and "@" not in text), st.text())
def test_any_key_is_kept_as_it_is(bucket: str, key: str) -> None:
    address = parse_address(f"s3://{bucket}/{key}")
    assert (address.container, address.key, str(address)) == (bucket, key, f"s3://{bucket}/{key}")


def test_a_spec_holds_no_signed_address_and_none_that_is_not_read() -> None:
    with pytest.raises(
        ValueError, match=r"https://h.org/a.csv: this address in `paths` goes on with a query.*by --input"
    ):
        LogFiles(paths=["https://h.org/a.csv?sig=1"])
    with pytest.raises(ValueError, match="addresses of this kind are not read"):
        LogFiles(paths=["hdfs://x/y"])
    assert LogFiles(paths=["s3://b/k?.csv", "https://h.org/a.csv"]).paths == ["s3://b/k?.csv", "https://h.org/a.csv"]
