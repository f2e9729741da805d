"""Authentication: `memcached -Y` with a file of users, and the error for a wrong password.

For servers with SASL see examples/sasl.py. Without TLS (examples/tls.py) the password is sent in
clear text.

Usage: python examples/login.py
"""

import asyncio
import os
import tempfile
from pathlib import Path

import emcache
from servers import Address, memcached_cluster


async def main(node: Address, password: str) -> None:
    async with emcache.create_client([node], username="app", password=password) as client:
        await client.set(b"greeting", b"hello, app")
        item = await client.get(b"greeting")
        print(item.value.decode() if item else "missed")

    async with emcache.create_client([node], username="app", password="guessed") as client:
        try:
            await client.get(b"greeting")
        except emcache.AuthenticationError as error:
            print("refused:", error)


if __name__ == "__main__":
    # Real programs read the password from their environment or from a file.
    secret = os.environ.get("EMCACHE_PASSWORD", "correct-horse-battery-staple")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        users = Path(folder) / "users"
        users.write_text(f"app:{secret}\n")
        users.chmod(0o644)  # memcached runs as another user; in production, use a group
        with memcached_cluster(tcp=1, options=("-Y", str(users))) as nodes:
            asyncio.run(main(nodes[0], secret))
