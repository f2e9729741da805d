"""Certificates made for the tests, and memcached servers that speak TLS with them."""

import contextlib
import datetime
import ipaddress
import socket
import ssl
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from .memcached import Memcached, memcached

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)
HERE = ("localhost", "127.0.0.1")
PEM = serialization.Encoding.PEM
DER = serialization.Encoding.DER


@dataclass(frozen=True)
class Identity:
    """A certificate and its key, as files that everybody may read, and together in a third."""

    certificate: Path
    key: Path
    both: Path


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


class Authority:
    """A CA that certifies whatever a test wants."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = _name(name)
        self.key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            x509.CertificateBuilder(self.name, self.name, self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - DAY)
            .not_valid_after(NOW + DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        self.pem = certificate.public_bytes(PEM)
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(self.pem)

    def issue(
        self,
        file: str,
        *names: str,
        common_name: str = "localhost",
        expired: bool = False,
        self_signed: bool = False,
        v1: bool = False,
    ) -> Identity:
        """Certify `names` (subjectAltName); without any there is the common name alone."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(common_name)
        issuer, issuer_key = (subject, key) if self_signed else (self.name, self.key)
        builder = (
            x509.CertificateBuilder(issuer, subject, key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - 10 * DAY)
            .not_valid_after(NOW - DAY if expired else NOW + DAY)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage(
                    [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
                ),
                critical=False,
            )
        )
        if names:
            alternatives = x509.SubjectAlternativeName([_alternative(name) for name in names])
            builder = builder.add_extension(alternatives, critical=False)
        certificate = builder.sign(issuer_key, hashes.SHA256())
        if v1:
            certificate = _as_v1(certificate, issuer_key)
        return self.write(file, certificate, key)

    def write(
        self, file: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
    ) -> Identity:
        """Write the files of an identity, over those of an earlier one if there are."""
        pem = certificate.public_bytes(PEM)
        secret = key.private_bytes(
            PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        files = [self.folder / f"{file}.{kind}.pem" for kind in ("certificate", "key", "both")]
        for path, text in zip(files, (pem, secret, pem + secret), strict=True):
            path.write_bytes(text)
            path.chmod(0o644)
        return Identity(*files)


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
        self.v1 = issue("v1", v1=True)
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


@dataclass
class TlsMemcached(Memcached):
    """A memcached with -Z; the tests' own connections to it verify nothing."""

    identity: Identity | None = None
    """Who the tests' own connections are."""

    def connect(self) -> socket.socket:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if self.identity:
            context.load_cert_chain(self.identity.certificate, self.identity.key)
        return context.wrap_socket(super().connect())


@contextlib.contextmanager
def tls_memcached(
    identity: Identity,
    *args: str,
    client_ca: Path | None = None,
    client: Identity | None = None,
    min_version: int | None = None,
    environment: dict[str, str] | None = None,
) -> Iterator[TlsMemcached]:
    """Run a memcached that is `identity`.

    With `client_ca` it wants certificates of its clients; `min_version` is 2 (TLS 1.2) or 3.
    """
    said = [f"ssl_chain_cert={identity.certificate}", f"ssl_key={identity.key}"]
    if client_ca:
        said += [f"ssl_ca_cert={client_ca}", "ssl_verify_mode=2"]
    if min_version:
        said.append(f"ssl_min_version={min_version}")
    server = TlsMemcached(identity=client, environment=environment or {})
    with memcached("-Z", "-o", ",".join(said), *args, server=server):
        yield server
