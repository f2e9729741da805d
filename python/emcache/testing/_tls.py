"""Certificates for tests. Creating them needs `cryptography`; existing files do not."""

import datetime
import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .._checks import check_bools

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

HERE = ("localhost", "127.0.0.1")
_DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Identity:
    """A certificate and its key as PEM files, and a third file with both."""

    certificate: Path
    key: Path
    both: Path


@dataclass(frozen=True)
class Tls:
    """The TLS settings of a :class:`MemcachedServer`.

    Args:
        identity: the server's certificate and key.
        ca: the CA that clients must trust, for ``client_options``; None for a CA of the system.
        client_ca: require client certificates that this CA issued.
        client: the client's certificate, for ``client_options`` and the helper's own connections.
        min_version: the oldest TLS version that the server accepts.
    """

    identity: Identity
    ca: Path | None = None
    client_ca: Path | None = None
    client: Identity | None = None
    min_version: Literal["TLSv1.2", "TLSv1.3"] | None = None

    def __post_init__(self) -> None:
        for name in ("identity", "client"):
            value = getattr(self, name)
            if not isinstance(value, Identity) and (name == "identity" or value is not None):
                raise TypeError(f"{name} must be an Identity, not {type(value).__name__}")
        if self.min_version not in (None, "TLSv1.2", "TLSv1.3"):
            raise ValueError("min_version must be 'TLSv1.2' or 'TLSv1.3'")

    def _arguments(self) -> list[str]:
        options = [f"ssl_chain_cert={self.identity.certificate}", f"ssl_key={self.identity.key}"]
        if self.client_ca:
            options += [f"ssl_ca_cert={self.client_ca}", "ssl_verify_mode=2"]
        if self.min_version:
            options.append(f"ssl_min_version={2 if self.min_version == 'TLSv1.2' else 3}")
        return ["-Z", "-o", ",".join(options)]

    def _client_options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"ssl": True}
        if self.ca:
            options["ssl_extra_ca"] = str(self.ca)
        if self.client:
            options["ssl_certfile"] = str(self.client.certificate)
            options["ssl_keyfile"] = str(self.client.key)
        return options


class CertificateAuthority:
    """A CA that issues certificates for tests, valid for a day.

    Args:
        folder: the folder of the files. The server must be able to read them; if the user is root,
            it runs as nobody.
        name: the common name of the CA; its certificate is ``<name>.pem``.

    Raises:
        ModuleNotFoundError: `cryptography` is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str], name: str = "ca") -> None:
        _need_cryptography()
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        self.folder: Path = Path(folder)
        self._name = _common(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _builder(self._name, self._name, self._key, expired=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.pem: bytes = certificate.public_bytes(serialization.Encoding.PEM)
        self.file: Path = self.folder / f"{name}.pem"
        self.file.write_bytes(self.pem)

    def issue(
        self,
        file: str,
        *names: str,
        common_name: str = "localhost",
        expired: bool = False,
        self_signed: bool = False,
    ) -> Identity:
        """Issue a certificate for host names and addresses (subjectAltName).

        Args:
            file: the prefix of the file names; existing files are overwritten.
            names: the names and addresses; without any the certificate has only the common name.
            common_name: the subject.
            expired: make it expire yesterday.
            self_signed: sign it with its own key instead of this CA's.
        """
        check_bools(expired=expired, self_signed=self_signed)
        return self._write(file, *self._certify(names, common_name, expired, self_signed)[:2])

    def _certify(
        self, names: tuple[str, ...], common_name: str, expired: bool, self_signed: bool
    ) -> "tuple[x509.Certificate, ec.EllipticCurvePrivateKey, ec.EllipticCurvePrivateKey]":
        """Return a certificate, its key, and the key that signed it."""
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID as Usage

        key = ec.generate_private_key(ec.SECP256R1())
        subject = _common(common_name)
        issuer, issuer_key = (subject, key) if self_signed else (self._name, self._key)
        usage = x509.ExtendedKeyUsage([Usage.SERVER_AUTH, Usage.CLIENT_AUTH])
        builder = (
            _builder(issuer, subject, key, expired=expired)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=False)
        )
        if names:
            alternatives = x509.SubjectAlternativeName([_alternative(name) for name in names])
            builder = builder.add_extension(alternatives, critical=False)
        return builder.sign(issuer_key, hashes.SHA256()), key, issuer_key

    def _write(
        self, file: str, certificate: "x509.Certificate", key: "ec.EllipticCurvePrivateKey"
    ) -> Identity:
        from cryptography.hazmat.primitives import serialization

        pem = certificate.public_bytes(serialization.Encoding.PEM)
        secret = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        files = [self.folder / f"{file}.{kind}.pem" for kind in ("certificate", "key", "both")]
        for path, text in zip(files, (pem, secret, pem + secret), strict=True):
            path.write_bytes(text)
            # The server may run as another user.
            path.chmod(0o644)
        return Identity(*files)


def create_tls(folder: Path) -> Tls:
    """Create a CA and a server certificate for this machine."""
    authority = CertificateAuthority(folder)
    return Tls(authority.issue("server", *HERE), ca=authority.file)


def _need_cryptography() -> None:
    try:
        import cryptography  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "certificates for tests need cryptography: pip install cryptography",
            name="cryptography",
        ) from error


def _common(name: str) -> "x509.Name":
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(
    issuer: "x509.Name", subject: "x509.Name", key: "ec.EllipticCurvePrivateKey", *, expired: bool
) -> "x509.CertificateBuilder":
    from cryptography import x509

    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder(issuer, subject, key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 10 * _DAY)
        .not_valid_after(now - _DAY if expired else now + _DAY)
    )


def _alternative(name: str) -> "x509.GeneralName":
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
