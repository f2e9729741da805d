#!/usr/bin/env bash
# A text with flags that meta-memcache does not use, read by meta-memcache.
set -euo pipefail
command -v memcached >/dev/null || { echo "memcached is missing"; exit 77; }
folder=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check \
    meta-memcache==4.3.0 pymemcache==4.0.0 || { echo "no packages"; exit 77; }
port=$("$folder/venv/bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
user=()
[ "$(id -u)" != 0 ] || user=(-u nobody)
memcached "${user[@]}" -l 127.0.0.1 -p "$port" -U 0 &
server=$!
memcached -V
"$folder/venv/bin/python" - "$port" <<'PYTHON'
import sys
from importlib.metadata import version

import meta_memcache
import pymemcache
from pymemcache.client.retrying import RetryingClient

port = int(sys.argv[1])
other = RetryingClient(
    pymemcache.Client(("127.0.0.1", port), default_noreply=False), attempts=50, retry_delay=0.1
)
other.version()
reader = meta_memcache.CacheClient.cache_client_from_servers(
    servers=[meta_memcache.ServerAddress("127.0.0.1", port)],
    connection_pool_factory_fn=meta_memcache.connection_pool_factory_builder(),
)
print("meta-memcache", version("meta-memcache"))
# The text of a pickle that calls a harmless function: abs(-41).
text = b"cbuiltins\nabs\n(I-41\ntR."
found = {}
for flags in (0, 16, 32, 1 << 20):
    other.set("key", text, flags=flags)
    found[flags] = reader.get("key")
    print(f"flags {flags}: {found[flags]!r}")
sys.exit(found != {0: text.decode(), 16: text, 32: 41, 1 << 20: 41})
PYTHON
