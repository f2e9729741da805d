#!/usr/bin/env bash
# A key with a space through pylibmc with its default behaviors, on one memcached.
set -euo pipefail
command -v memcached >/dev/null || { echo "memcached is missing"; exit 77; }
folder=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check \
    --only-binary pylibmc pylibmc==1.6.3 || { echo "no wheel of pylibmc"; exit 77; }
port=$("$folder/venv/bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
user=()
[ "$(id -u)" != 0 ] || user=(-u nobody)
memcached "${user[@]}" -l 127.0.0.1 -p "$port" -U 0 &
server=$!
memcached -V
"$folder/venv/bin/python" - "$port" <<'PYTHON'
import sys
import time
from importlib.metadata import version

import pylibmc

address = f"127.0.0.1:{sys.argv[1]}"
print("pylibmc", version("pylibmc"))
client = pylibmc.Client([address])
for _ in range(50):
    try:
        client.set("secret", "of another user")
        break
    except pylibmc.Error:
        time.sleep(0.1)
        client = pylibmc.Client([address])
client.set("a", "value of a")
print("get('name secret'):", read := client.get("name secret"))

client = pylibmc.Client([address])
client.get("a")
try:
    client.set("a key", "x")
except pylibmc.Error as error:
    print("set('a key'):", type(error).__name__)
later = []
for key in ("a", "secret") * 3:
    try:
        later.append((key, client.get(key)))
    except pylibmc.Error as error:
        later.append((key, type(error).__name__))
for key, value in later:
    print(f"get({key!r}):", value)
try:
    pylibmc.Client([address], behaviors={"verify_keys": True}).get("name secret")
except pylibmc.Error as error:
    print("with verify_keys:", type(error).__name__)
is_shifted = later[-2:] == [("a", "of another user"), ("secret", "value of a")]
sys.exit(not (read == "of another user" and is_shifted))
PYTHON
