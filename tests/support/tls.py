"""Certificates made for the tests, and memcached servers that speak TLS with them."""

import contextlib
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Tests that need it are skipped where it cannot be installed.
pytest.importorskip("cryptography")

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from emcache.testing import CertificateAuthority, Identity, Tls

from .memcached import Memcached

HERE = ("localhost", "127.0.0.1")
DER = serialization.Encoding.DER


class Authority(CertificateAuthority):
    def issue_v1(self, file: str) -> Identity:
        """Certify a common name as it was done before there were extensions."""
        certificate, key, issuer_key = self._certify((), "localhost", False, False)
        return self._write(file, _as_v1(certificate, issuer_key), key)


def _element(tag: int, body: bytes) -> bytes:
    size = len(body)
    if size < 0x80:
        return bytes([tag, size]) + body
    digits = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes([tag, 0x80 | len(digits)]) + digits + body


def _elements(encoded: bytes) -> list[bytes]:
    """The elements that a DER sequence holds, each with its tag."""

    def header(at: int) -> tuple[int, int]:
        """Where the body of the element begins, and where it ends."""
        size, body = encoded[at + 1], at + 2
        if size & 0x80:
            digits = size & 0x7F
            size, body = int.from_bytes(encoded[body : body + digits]), body + digits
        return body, body + size

    at, end = header(0)
    found = []
    while at < end:
        _, after = header(at)
        found.append(encoded[at:after])
        at = after
    return found


def _as_v1(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """The same certificate without version and extensions, which `cryptography` does not make."""
    version, extensions = 0xA0, 0xA3
    signed = _elements(certificate.tbs_certificate_bytes)
    signed = [element for element in signed if element[0] not in (version, extensions)]
    body = _element(0x30, b"".join(signed))
    algorithm = _elements(certificate.public_bytes(DER))[1]
    signature = _element(0x03, b"\0" + key.sign(body, ec.ECDSA(hashes.SHA256())))
    made = x509.load_der_x509_certificate(_element(0x30, body + algorithm + signature))
    assert made.version is x509.Version.v1
    return made


class Certificates:
    """Everything that the tests of TLS need, made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = Authority(folder, "ca")
        self.other_ca = Authority(folder, "other-ca")
        issue = self.ca.issue
        self.good = issue("good", *HERE)
        self.wrong_host = issue("wrong-host", "memcached.example", "192.0.2.1")
        self.expired = issue("expired", *HERE, expired=True)
        self.self_signed = issue("self-signed", *HERE, common_name="nobody's", self_signed=True)
        self.no_san = issue("no-san")
        self.v1 = self.ca.issue_v1("v1")
        self.client = issue("client", common_name="client")
        self.foreign_client = self.other_ca.issue("foreign-client", common_name="client")


@contextlib.contextmanager
def certificates() -> Iterator[Certificates]:
    # Not in pytest's own directory: the servers run as nobody, who may not enter that.
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield Certificates(folder)


def peer_context(identity: Identity, **versions: ssl.TLSVersion) -> ssl.SSLContext:
    """For a peer of the standard library; `minimum_version` and `maximum_version` as given."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.certificate, identity.key)
    for name, version in versions.items():
        setattr(context, name, version)
    return context


@contextlib.contextmanager
def tls_memcached(
    identity: Identity,
    *args: str,
    client_ca: Path | None = None,
    client: Identity | None = None,
    min_version: int | None = None,
    **options,
) -> Iterator[Memcached]:
    """Run a memcached that is `identity`.

    With `client_ca` it wants certificates of its clients; `min_version` is 2 (TLS 1.2) or 3.
    """
    version = {None: None, 2: "TLSv1.2", 3: "TLSv1.3"}[min_version]
    tls = Tls(identity, client_ca=client_ca, client=client, min_version=version)
    with Memcached(*args, tls=tls, **options) as server:
        yield server
