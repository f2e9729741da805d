#!/usr/bin/env bash
# str and bytes through python-binary-memcached and pymemcache, on one memcached.
set -euo pipefail
command -v memcached >/dev/null || { echo "memcached is missing"; exit 77; }
folder=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check \
    python-binary-memcached==0.33.0 pymemcache==4.0.0 || { echo "no packages"; exit 77; }
port=$("$folder/venv/bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
user=()
[ "$(id -u)" != 0 ] || user=(-u nobody)
memcached "${user[@]}" -l 127.0.0.1 -p "$port" -U 0 &
server=$!
memcached -V
"$folder/venv/bin/python" - "$port" <<'PYTHON'
import sys
from importlib.metadata import version

import bmemcached
import pymemcache
from pymemcache.client.retrying import RetryingClient

port = int(sys.argv[1])
one = bmemcached.Client([f"127.0.0.1:{port}"])
other = RetryingClient(
    pymemcache.Client(
        ("127.0.0.1", port), serde=pymemcache.serde.pickle_serde, default_noreply=False
    ),
    attempts=50,
    retry_delay=0.1,
)
other.version()
print("python-binary-memcached", version("python-binary-memcached"))
print("pymemcache", version("pymemcache"))


def seen(read):
    try:
        return repr(read("key"))
    except Exception as error:
        return type(error).__name__


found = {}
for value in ("text", b"bytes", b"\xff"):
    one.set("key", value)
    found[f"bmemcached set {value!r}, pymemcache got"] = seen(other.get)
    other.set("key", value)
    found[f"pymemcache set {value!r}, bmemcached got"] = seen(one.get)
for what, result in found.items():
    print(what, result)
expected = ["b'text'", "b'text'", "'bytes'", "'bytes'", "UnicodeDecodeError", "UnicodeDecodeError"]
sys.exit(list(found.values()) != expected)
PYTHON
