#!/usr/bin/env bash
# Commands that are sent in one piece to `memcached -Y` before a login: how many are answered.
set -euo pipefail
command -v memcached >/dev/null || { echo "no memcached"; exit 77; }
folder=$(mktemp -d)
trap 'kill "$pid" 2>/dev/null || true; rm -rf "$folder"' EXIT
pid=
echo "user:password" >"$folder/users"
chmod -R a+rX "$folder"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
memcached -l 127.0.0.1 -p "$port" -U 0 -u nobody -Y "$folder/users" &
pid=$!
memcached --version
python3 - "$port" <<'PYTHON'
import socket
import sys
import time

address = ("127.0.0.1", int(sys.argv[1]))


def connect():
    for _ in range(100):
        try:
            return socket.create_connection(address, timeout=1)
        except OSError:
            time.sleep(0.05)
    raise SystemExit("memcached does not listen")


def answers(sock):
    lines = b""
    try:
        while data := sock.recv(4096):
            lines += data
    except TimeoutError:
        pass
    return lines.decode().split("\r\n")[:-1]


together, apart = connect(), connect()
together.sendall(b"get a\r\nget b\r\nget c\r\n")
for line in (b"get a\r\n", b"get b\r\n", b"get c\r\n"):
    apart.sendall(line)
    time.sleep(0.1)
one, three = answers(together), answers(apart)
print("three commands in one piece:", one)
print("three commands, one by one:", three)
sys.exit((len(one), len(three)) != (1, 3))
PYTHON
