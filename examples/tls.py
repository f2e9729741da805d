"""TLS: certificates for the server and for the client (mTLS).

Usage: python examples/tls.py
"""

import asyncio
import ssl
import subprocess
import tempfile
from pathlib import Path

import emcache
from servers import Address, memcached_cluster

SERVER_NAMES = "subjectAltName=DNS:localhost,IP:127.0.0.1"


def openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def make_certificates(folder: Path) -> None:
    """Create a CA, and sign certificates for a server and a client. Do this once for your own."""
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    ca, ca_key = folder / "ca.pem", folder / "ca.key"
    name = ("-subj", "/CN=our CA", "-days", "3650")
    openssl("req", "-x509", *new_key, *name, "-keyout", ca_key, "-out", ca)
    for who, extension in (("server", SERVER_NAMES), ("client", "extendedKeyUsage=clientAuth")):
        request, key = folder / f"{who}.csr", folder / f"{who}.key"
        extensions = folder / f"{who}.ext"
        extensions.write_text(extension)
        openssl("req", *new_key, "-subj", f"/CN={who}", "-keyout", key, "-out", request)
        signed = ("-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "365")
        certificate = folder / f"{who}.pem"
        openssl(
            *("x509", "-req", "-in", request, *signed),
            *("-extfile", extensions, "-out", certificate),
        )
        key.chmod(0o644)  # memcached runs as another user; in production, use a group


async def main(node: Address, folder: Path) -> None:
    async with emcache.create_client(
        [node],
        ssl=True,
        ssl_extra_ca=folder / "ca.pem",
        ssl_certfile=folder / "client.pem",
        ssl_keyfile=folder / "client.key",
        ssl_min_version="TLSv1.3",
    ) as client:
        await client.set(b"greeting", b"hello over TLS")
        item = await client.get(b"greeting")
        print(item.value.decode() if item else "missed")

    async with emcache.create_client([node], ssl=True, timeout=5.0) as stranger:
        try:
            await stranger.get(b"greeting")
        except emcache.ConnectionFailedError as error:
            print("without the CA:", str(error).partition("TLS: ")[2])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        home.chmod(0o755)
        make_certificates(home)
        options = f"ssl_chain_cert={home}/server.pem,ssl_key={home}/server.key,"
        # 2: clients must present a certificate of this CA.
        options += f"ssl_ca_cert={home}/ca.pem,ssl_verify_mode={ssl.CERT_REQUIRED.value}"
        with memcached_cluster(tcp=1, options=("-Z", "-o", options)) as nodes:
            asyncio.run(main(nodes[0], home))
