"""A local S3 server for tests, and a server before it that breaks what passes through."""

import http.client
import logging
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import parse_qs
from urllib.request import Request, urlopen
from xml.sax.saxutils import escape

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

BUCKET = "shoplogs"
"""Without a hyphen, which Google's clients encode and the local server does not decode."""


WITHOUT = {"no tag": ("etag", "last-modified"), "date only": ("etag",), "no range": ("content-range",)}
"""Headers that some servers do not send."""

SIGNED = "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request, Signature=0"
SECRET = "wJalrXUtnFEMI-secret"


def environment(endpoint: str) -> dict[str, str]:
    """The variables that lead to a server."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "NO_PROXY": "127.0.0.1",
        # Where roles would be looked for, were there no key: nothing listens there.
        "AWS_METADATA_ENDPOINT": "http://127.0.0.1:9",
    }


class Bucket:
    """A bucket of a local S3 server."""

    def __init__(self, endpoint: str, name: str = BUCKET) -> None:
        self.endpoint = endpoint
        self.name = name

    def __str__(self) -> str:
        return f"s3://{self.name}"

    def put(self, key: str, content: bytes) -> None:
        import obstore

        obstore.put(self.store(), key, content)

    def put_folder(self, folder: Path, key: str = "") -> None:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            self.put(f"{key}/{path.relative_to(folder).as_posix()}".strip("/"), path.read_bytes())

    def delete(self, key: str) -> None:
        import obstore

        obstore.delete(self.store(), key)

    def publish(self, key: str = "") -> None:
        """Lets anyone read an object, or list the bucket where no key is given."""
        headers = {"Authorization": SIGNED, "x-amz-acl": "public-read"}
        urlopen(
            Request(f"{self.endpoint}/{self.name}/{key}".rstrip("/") + "?acl", method="PUT", headers=headers)
        ).close()

    def clear(self) -> None:
        import obstore

        obstore.delete(self.store(), [meta["path"] for meta in obstore.list(self.store()).collect()])

    def store(self):  # type: ignore[no-untyped-def]
        from obstore.store import S3Store

        return S3Store(self.name, endpoint=self.endpoint, access_key_id="key", secret_access_key=SECRET,
                       region="us-east-1", client_options={"allow_http": True})  # fmt: skip


@contextmanager
def s3_server() -> Iterator[Bucket]:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    bucket = Bucket(f"http://{host}:{port}")
    urlopen(Request(f"{bucket.endpoint}/{bucket.name}", method="PUT", headers={"Authorization": SIGNED})).close()
    try:
        yield bucket
    finally:
        server.stop()


class Faults:
    """What happens to the next answers of a server to requests whose line has a text."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.kind = ""
        self.where = ""
        self.left = 0
        self.seen: list[str] = []

    def next(self, kind: str, where: str, times: int = 1_000) -> None:
        self.kind, self.where, self.left = kind, where, times

    def of(self, line: str) -> str:
        self.seen.append(line)
        if self.left == 0 or self.where not in line:
            return ""
        self.left -= 1
        return self.kind


@contextmanager
def faulty_server(bucket: Bucket, tls: ssl.SSLContext | None = None) -> Iterator[Faults]:
    """A server that passes requests on to that of ``bucket``, and breaks some of the answers.

    It lists the bucket to Azure's clients too.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            fault = faults.of(f"{self.path} {self.headers.get('Range', '')}")
            status, headers, body = 200, {}, b""
            if fault[:3].isdigit():
                status, _, code = fault.partition(" ")  # type: ignore[assignment]
                body = f"<Error><Code>{code}</Code><Message>{SECRET}</Message></Error>".encode() if code else b""
            elif "comp=list" in self.path:
                body = _listed_as_azure_does(bucket, parse_qs(self.path).get("prefix", [""])[0])
            else:
                client = http.client.HTTPConnection(bucket.endpoint.removeprefix("http://"))
                client.request("GET", self.path, headers=dict(self.headers))
                answer = client.getresponse()
                status, headers, body = answer.status, dict(answer.getheaders()), answer.read()
                client.close()
            without = WITHOUT.get(fault, ())
            headers = {name: value for name, value in headers.items() if name.lower() not in without}
            status = 200 if fault == "no range" else status
            self.send_response(int(status))
            for name, value in headers.items():
                if name.lower() not in ("content-length", "connection", "date", "server", "transfer-encoding"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if fault in ("truncate", "reset"):
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                if fault == "reset":
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                else:
                    self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    faults = Faults(f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield faults
    finally:
        server.shutdown()
        server.server_close()


def _listed_as_azure_does(bucket: Bucket, prefix: str) -> bytes:
    import obstore

    blobs = [
        f"<Blob><Name>{escape(meta['path'])}</Name><Properties><Content-Length>{meta['size']}</Content-Length>"
        f"<Last-Modified>{meta['last_modified']:%a, %d %b %Y %H:%M:%S GMT}</Last-Modified><Content-Type></Content-Type>"
        f"<Etag>{str(meta['e_tag']).strip(chr(34))}</Etag></Properties></Blob>"
        for meta in obstore.list(bucket.store(), prefix.strip("/") or None).collect()
    ]
    return f"<EnumerationResults><Blobs>{''.join(blobs)}</Blobs><NextMarker/></EnumerationResults>".encode()


def certificate(folder: Path) -> ssl.SSLContext:
    """A certificate for this machine that nobody knows; it lies in ``folder/certificate.pem``."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "certificate.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, *private))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return context
