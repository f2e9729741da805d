"""SASL authentication: `memcached -S` with a database of users, as on MemCachier.

Without TLS (examples/tls.py) the password is sent in clear text.

Usage: python examples/sasl.py
"""

import asyncio
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import emcache
from servers import Address, memcached_cluster


def make_users(folder: Path, username: str, password: str) -> None:
    """Write the server's SASL configuration and add a user, as an operator would."""
    database = folder / "sasldb2"
    (folder / "memcached.conf").write_text(
        "mech_list: plain\npwcheck_method: auxprop\nauxprop_plugin: sasldb\n"
        f"sasldb_path: {database}\n"
    )
    enrol = shutil.which("saslpasswd2", path=f"{os.environ['PATH']}:/usr/sbin")
    if enrol is None:
        raise SystemExit("saslpasswd2 is needed (Debian: apt-get install sasl2-bin)")
    subprocess.run(
        [enrol, "-p", "-c", "-a", "memcached", "-f", str(database), username],
        input=password.encode(),
        check=True,
    )
    database.chmod(0o644)  # memcached runs as another user; in production, use a group
    os.environ["SASL_CONF_PATH"] = str(folder)


async def main(node: Address, password: str) -> None:
    async with emcache.create_client(
        [node], username="app", password=password, auth="sasl"
    ) as client:
        await client.set(b"greeting", b"hello over SASL")
        item = await client.get(b"greeting")
        print(item.value.decode() if item else "missed")

    async with emcache.create_client(
        [node], username="app", password="guessed", auth="sasl"
    ) as client:
        try:
            await client.get(b"greeting")
        except emcache.AuthenticationError as error:
            print("refused:", error)


if __name__ == "__main__":
    # Real programs read the password from their environment or from a file.
    secret = os.environ.get("EMCACHE_PASSWORD", "correct horse battery staple")
    with tempfile.TemporaryDirectory() as home:
        Path(home).chmod(0o755)
        make_users(Path(home), "app", secret)
        with memcached_cluster(tcp=1, options=("-S",)) as nodes:
            asyncio.run(main(nodes[0], secret))
