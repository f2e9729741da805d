#!/usr/bin/env bash
# A new session of django.contrib.sessions.backends.cache while no memcached listens.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check \
    django==5.2.8 pymemcache==4.0.0 || { echo "no packages"; exit 77; }
"$folder/venv/bin/python" - <<'PYTHON'
import socket
import sys
import time
from importlib.metadata import version

from django.conf import settings

with socket.socket() as sock:
    sock.bind(("127.0.0.1", 0))
    port = sock.getsockname()[1]
backend = {
    "BACKEND": "django.core.cache.backends.memcached.PyMemcacheCache",
    "LOCATION": f"127.0.0.1:{port}",
    "OPTIONS": {"ignore_exc": True},
}
settings.configure(CACHES={"default": backend})

from django.contrib.sessions.backends.cache import SessionStore
from django.core.cache.backends.memcached import PyMemcacheCache

print("Django", version("django"), "pymemcache", version("pymemcache"))
real, adds = PyMemcacheCache.add, []


def counted(self, key, *arguments, **options):
    adds.append(real(self, key, *arguments, **options))
    return adds[-1]


PyMemcacheCache.add = counted
begun = time.monotonic()
try:
    SessionStore().create()
    result = "created"
except RuntimeError as error:
    result = str(error)
print(f"{len(adds)} keys in {time.monotonic() - begun:.1f} s, add() returned {set(adds)}: {result}")
sys.exit(not (len(adds) == 10000 and set(adds) == {False} and result.startswith("Unable to create")))
PYTHON
