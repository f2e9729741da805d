#!/usr/bin/env bash
# How twemproxy with `distribution: ketama` spreads keys over five servers, by hash function.
set -euo pipefail
for program in memcached nutcracker; do
    command -v "$program" >/dev/null || { echo "no $program"; exit 77; }
done
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
nutcracker -V 2>&1 | head -n 1
python3 - "$folder" <<'PYTHON'
import pathlib
import socket
import subprocess
import sys
import time

KEYS, SERVERS = 2000, 5
folder = pathlib.Path(sys.argv[1])
processes = []


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def connect(port):
    for _ in range(100):
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=10)
        except ConnectionRefusedError:
            time.sleep(0.05)
    raise SystemExit("a server does not listen")


def start(*command):
    processes.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))


def items(port):
    with connect(port) as server:
        server.sendall(b"stats\r\n")
        lines = iter(server.makefile("rb").readline, b"END\r\n")
        return next(int(line.split()[2]) for line in lines if b" curr_items " in line)


def spread(hash_name):
    ports = [free_port() for _ in range(SERVERS)]
    for port in ports:
        start("memcached", "-l", "127.0.0.1", "-p", str(port), "-u", "nobody")
        connect(port).close()
    proxy, stats = free_port(), free_port()
    servers = "".join(f"    - 127.0.0.1:{port}:1 node{at}\n" for at, port in enumerate(ports))
    config = folder / f"{hash_name}.yml"
    config.write_text(
        f"pool:\n  listen: 127.0.0.1:{proxy}\n  hash: {hash_name}\n  distribution: ketama\n"
        f"  servers:\n{servers}"
    )
    start("nutcracker", "-c", str(config), "-s", str(stats))
    with connect(proxy) as peer:
        replies = peer.makefile("rb")
        for number in range(KEYS):
            peer.sendall(b"set key:%d 0 0 1\r\nx\r\n" % number)
            assert replies.readline() == b"STORED\r\n"
    return [items(port) for port in ports]


try:
    found = {name: spread(name) for name in ("crc32", "crc32a", "fnv1a_64")}
finally:
    for process in processes:
        process.terminate()
        process.wait()
for name, counts in found.items():
    print(f"hash: {name}: keys by server {counts}")
largest = {name: max(counts) / KEYS for name, counts in found.items()}
is_as_seen = largest["crc32"] > 0.9 and largest["crc32a"] < 0.3 and largest["fnv1a_64"] > 0.4
sys.exit(not is_as_seen)
PYTHON
