"""What a user is told when object storage or a web server refuses, and what must not be told."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctr_pipeline.errors import UserError
from ctr_pipeline.sources import list_files
from ctr_pipeline.spec.source import LogFiles
from ctr_pipeline_tests.sources.storage_servers import SECRET, Bucket, Faults, certificate, faulty_server
from ctr_pipeline_tests.sources.test_object_reading import content, listed

Maker = Callable[..., Any]
TOKEN = "X-Amz-Signature=5d672d79c15b13162d9279b0855cfba6"
LIBRARY_TEXT = re.compile(r"Debug source|RetryError|Generic|reqwest|hyper|xml|Error performing|127\.0\.0\.1:\d+/latest")


def refusal(address: str) -> str:
    with pytest.raises(UserError) as caught:
        list_files(LogFiles(), Path("/nowhere"), [address])
    text = str(caught.value)
    assert SECRET not in text
    assert TOKEN not in text
    assert not LIBRARY_TEXT.search(text), text
    return text


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("403 AccessDenied", r"may not be read \(AccessDenied\).*Ask for permission"),
        ("403", r"may not be read \(403\)"),
        (
            "403 InvalidAccessKeyId",
            r"the credentials are not valid there \(InvalidAccessKeyId\). Set AWS_ACCESS_KEY_ID",
        ),
        ("403 SignatureDoesNotMatch", r"not valid there \(SignatureDoesNotMatch\)"),
        ("400 ExpiredToken", r"the credentials have expired \(ExpiredToken\). Sign in again"),
        ("403 RequestTimeTooSkewed", "the clock of this machine is wrong"),
        ("301 PermanentRedirect", "lies in another region than is set. Set AWS_REGION"),
        ("301", "lies in another region"),
        ("400 AuthorizationHeaderMalformed", "lies in another region"),
        ("404 NoSuchBucket", r"there is no s3://[a-z-]+\. Correct the address"),
        ("400 Odd", r"the request was refused \(Odd\)"),
        ("503 SlowDown", r"answers with error 503 \(SlowDown\); tried 8 times"),
    ],
)
@pytest.mark.parametrize("key", ["logs/a.csv", "logs/"])
def test_each_refusal_has_its_remedy(faults: Faults, bucket: Bucket, answer: str, words: str, key: str) -> None:
    bucket.put("logs/a.csv", b"x")
    faults.next(answer, "/")
    assert re.search(words, refusal(f"{bucket}/{key}"))


def test_no_server_no_key_and_no_setting(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert re.search(r"cannot be reached .*; tried 8 times", refusal(f"{bucket}/a.csv"))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    assert re.search(
        r"no usable credentials were found for s3://\S+\. Set AWS_ACCESS_KEY_ID", refusal(f"{bucket}/a.csv")
    )


@pytest.mark.parametrize(
    ("address", "variables", "words"),
    [
        ("gs://shop/logs", {"GOOGLE_APPLICATION_CREDENTIALS": "/nowhere/key.json"}, "gs://shop. Set GOOGLE_APPLICATION_CREDENTIALS"),
        ("gcs://shop/a.csv", {"GOOGLE_APPLICATION_CREDENTIALS": "/nowhere/key.json"}, "gs://shop. Set GOOGLE_APPLICATION_CREDENTIALS"),
        ("az://shop/logs", {}, "az://shop. Set AZURE_STORAGE_ACCOUNT_NAME"),
        ("abfss://logs@shop.dfs.core.windows.net/a", {"AZURE_STORAGE_ACCOUNT_KEY": "no base 64"}, "Set AZURE_STORAGE_ACCOUNT_NAME"),
    ],
)  # fmt: skip
def test_other_storages_without_credentials(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, address: str, variables: dict[str, str], words: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert f"no usable credentials were found for {words}" in refusal(address) or words in refusal(address)


def test_a_web_server_gives_one_file_by_a_signed_address(
    make_spec: Maker, make_log: Maker, read: Maker, faults: Faults, bucket: Bucket
) -> None:
    from datetime import timedelta

    import obstore

    for name in ("log.parquet", "log.csv.gz"):
        bucket.put(f"item=1/{name}", content(make_log(rows=40, item=None), name))
        signed = obstore.sign(bucket.store(), "GET", f"item=1/{name}", timedelta(hours=1))
        address = signed.replace(bucket.endpoint, faults.endpoint)
        assert "X-Amz-Signature" in address
        files = listed(address)
        assert [str(file.path) for file in files] == [f"{faults.endpoint}/{bucket.name}/item%3D1/{name}"]
        assert [file.label for file in files] == [name]
        faults.next("truncate", name, times=3)
        found = read(make_spec(), *files)
        assert found.kept.height == 40
        assert found.kept["item"].unique().to_list() == ["1"]
        assert "Signature" not in f"{files} {found.files}"
        faults.next("truncate", name)
        with pytest.raises(UserError, match="breaks off") as caught:
            read(make_spec(), *files)
        assert "Signature" not in str(caught.value)
        faults.next("", "", 0)


def test_what_a_web_server_refuses(faults: Faults, bucket: Bucket) -> None:
    bucket.put("a.csv", b"x" * 10)
    address = f"{faults.endpoint}/{bucket.name}/a.csv?{TOKEN}"
    faults.next("403 AccessDenied", "a.csv")
    assert "may not be read (AccessDenied)" in refusal(address)
    faults.next("404", "a.csv")
    assert "/a.csv: no such file. Correct the address." in refusal(address)
    faults.next("no tag", "a.csv")
    assert "a change of it would go unseen" in refusal(address)
    faults.next("no range", "a.csv")
    assert "the server does not give parts of a file. Download it" in refusal(address)


def test_a_file_of_a_web_server_that_has_a_date_and_no_tag(
    make_spec: Maker, make_log: Maker, read: Maker, faults: Faults, bucket: Bucket
) -> None:
    bucket.put("log.csv", content(make_log(rows=24), "log.csv"))
    bucket.publish("log.csv")
    faults.next("date only", "log.csv")
    files = listed(f"{faults.endpoint}/{bucket.name}/log.csv")
    assert read(make_spec(), *files).kept.height == 24
    bucket.put("log.csv", content(make_log(rows=24, price=[7.5] * 24), "log.csv"))
    bucket.publish("log.csv")
    with pytest.raises(UserError, match="was written to"):
        read(make_spec(), *files)


def test_https_needs_a_certificate_that_is_trusted(
    make_spec: Maker, make_log: Maker, read: Maker, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put("log.csv.gz", content(make_log(rows=24), "log.csv.gz"))
    bucket.publish("log.csv.gz")
    with faulty_server(bucket, certificate(tmp_path)) as server:
        address = f"{server.endpoint}/{bucket.name}/log.csv.gz"
        assert "cannot be reached (no connection, or its certificate is not trusted)" in refusal(address)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
        assert read(make_spec(), *listed(address)).kept.height == 24
