"""The check of `doctor` for a node's certificate, with Python's TLS."""

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator
from typing import Any

from .._address import Address, MemcachedHostAddress, MemcachedUnixSocketPath
from ._finding import Finding, fail, ok, warn
from ._output import printable
from ._raw import open_tcp, server_name, tls_context
from ._settings import Settings

Certificate = dict[str, Any]

SOON = 14
"""Days before the expiry from which a warning is reported."""
_DAY = 86400.0
_NO_CHECK_TIME = 0x200000
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME, to read a certificate that has expired."""

_EXPIRED, _NOT_YET = 10, 9
_SELF_SIGNED, _UNKNOWN = (18, 19), (2, 20, 21)
_NAMES = (62, 64)


async def check_tls(settings: Settings, address: Address) -> list[Finding]:
    """Do a TLS handshake, and check the certificate."""
    if not server_name(settings, address) and not settings.no_verify:
        return [
            fail("tls", "a unix socket has no name to verify", "use --server-name or --no-verify")
        ]
    try:
        async with _session(settings, address, tls_context(settings)) as session:
            return [_spoken(session), *await _accepted(settings, address, session)]
    except ssl.SSLCertVerificationError as error:
        return [await _refused(settings, address, error)]
    except (TimeoutError, EOFError, OSError) as error:
        return [_failed(error)]


@contextlib.asynccontextmanager
async def _session(
    settings: Settings, address: Address, context: ssl.SSLContext
) -> AsyncIterator[ssl.SSLObject]:
    name = server_name(settings, address)
    async with asyncio.timeout(settings.timeout):
        match address:
            case MemcachedUnixSocketPath(path):
                _, writer = await asyncio.open_unix_connection(
                    path, ssl=context, server_hostname=name
                )
            case MemcachedHostAddress(host, port):
                _, writer = await open_tcp(host, port, context, name)
    try:
        yield writer.get_extra_info("ssl_object")
    finally:
        writer.transport.abort()


def _spoken(session: ssl.SSLObject) -> Finding:
    cipher = session.cipher()
    return ok("tls", f"{session.version()}, {cipher[0] if cipher else 'no cipher'}")


async def _accepted(settings: Settings, address: Address, session: ssl.SSLObject) -> list[Finding]:
    if settings.no_verify:
        finding = warn(
            "certificate",
            "not verified; anyone on the network path can read and alter traffic",
            "remove --no-verify",
        )
        details = await _certificate(settings, address, session.getpeercert(binary_form=True))
    else:
        finding, details = None, session.getpeercert()
    findings = [] if finding is None else [finding]
    if details:
        findings.append(_expiry("certificate", details))
    return findings + _authorities(settings)


def _expiry(check: str, certificate: Certificate) -> Finding:
    days = (ssl.cert_time_to_seconds(certificate["notAfter"]) - time.time()) / _DAY
    text = f"{_subject(certificate)}, by {_common_name(certificate.get('issuer'))}"
    if days < 0:
        return fail(check, f"{text}, expired {-days:.1f} days ago", "renew it")
    if days < SOON:
        return warn(check, f"{text}, expires in {days:.1f} days", "renew it now")
    return ok(check, f"{text}, {days:.0f} days left")


def _authorities(settings: Settings) -> list[Finding]:
    """Return warnings about CAs of ``--ca`` that expire soon."""
    if settings.ca is None:
        return []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(settings.ca)
    findings = [_expiry("ca", dict(certificate)) for certificate in context.get_ca_certs()]
    return [finding for finding in findings if finding.state != "ok"]


def _common_name(names: Any) -> str:
    for part in names or ():
        for name, value in part:
            if name == "commonName":
                return printable(value)
    return "an unnamed issuer"


def _subject(certificate: Certificate) -> str:
    names = [printable(value) for _, value in certificate.get("subjectAltName", ())]
    shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    return f"for {shown or _common_name(certificate.get('subject'))}"


async def _certificate(
    settings: Settings, address: Address, encoded: bytes | None
) -> Certificate | None:
    """Decode a certificate that is not trusted, which Python does only for trusted ones."""
    if encoded is None:
        return None
    context = tls_context(settings)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VerifyFlags(_NO_CHECK_TIME)
    context.load_verify_locations(cadata=encoded)
    with contextlib.suppress(OSError, TimeoutError, EOFError):
        async with _session(settings, address, context) as session:
            return session.getpeercert()
    return None


async def _refused(
    settings: Settings, address: Address, error: ssl.SSLCertVerificationError
) -> Finding:
    details = None
    with contextlib.suppress(OSError, TimeoutError, EOFError):
        async with _session(settings, address, tls_context(settings, verify=False)) as session:
            encoded = session.getpeercert(binary_form=True)
        details = await _certificate(settings, address, encoded)
    text = error.verify_message.rstrip(".")
    if details is not None:
        text += f": it is {_subject(details)}, by {_common_name(details.get('issuer'))}"
        text += f", until {details['notAfter']}"
    return fail("certificate", text, _advice(error.verify_code))


def _advice(code: int) -> str:
    if code == _EXPIRED:
        return "renew it, or a CA above it; then run 'refresh_certs' on the server"
    if code == _NOT_YET:
        return "it is not valid yet; check the clocks"
    if code in _SELF_SIGNED:
        return "its CA is not trusted; pass it with --ca"
    if code in _UNKNOWN:
        return "a CA of its chain is unknown; pass it with --ca, or let the server send the chain"
    if code in _NAMES:
        return "use one of its names, or --server-name"
    return "see docs/security.md"


def _failed(error: Exception) -> Finding:
    if isinstance(error, TimeoutError):
        return fail("tls", "no answer to the handshake", "does it use TLS (-Z) on this port?")
    if isinstance(error, ssl.SSLError):
        reason = (error.reason or str(error)).replace("_", " ").lower()
        if "certificate" in reason:
            return fail("tls", reason, "pass a certificate that it accepts: --cert, --key")
        return fail("tls", reason, "does it use TLS (-Z) on this port, version 1.2 or later?")
    return fail(
        "tls",
        f"the connection ended in the handshake ({type(error).__name__})",
        "does it use TLS (-Z) on this port?",
    )
