#!/usr/bin/env bash
# A meta set whose condition does not hold, with a value over the item limit (MEMCACHED=program).
set -euo pipefail
memcached=${MEMCACHED:-$(command -v memcached || true)}
[ -n "$memcached" ] || { echo "memcached is needed"; exit 77; }
python3 - "$memcached" <<'PYTHON'
import socket
import subprocess
import sys
import time

program = sys.argv[1]
version = subprocess.check_output([program, "-V"], text=True).split()[1]
print("memcached", version)
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
server = subprocess.Popen([program, "-l", "127.0.0.1", "-p", str(port), "-u", "nobody"])
try:
    for _ in range(100):
        try:
            peer = socket.create_connection(("127.0.0.1", port), timeout=10)
            break
        except ConnectionRefusedError:
            time.sleep(0.05)
    replies = peer.makefile("rb")

    def ask(command):
        peer.sendall(command)
        return replies.readline().strip().decode()

    large = b"x" * (2 * 1024 * 1024) + b"\r\n"
    outcomes = {}
    for name, command, flags in (
        ("ms with a CAS of no item", b"ms", b" C1"),
        ("ms, only if the key is missing (ME)", b"ms", b" ME"),
        ("classic cas with a CAS of no item", b"cas", b" 1"),
        ("classic add", b"add", b""),
    ):
        assert ask(b"ms k 5 T0\r\nfirst\r\n") == "HD"
        size = b"%d" % (len(large) - 2)
        line = b"ms k " + size if command == b"ms" else command + b" k 0 0 " + size
        reply = ask(line + flags + b"\r\n" + large)
        kept = ask(b"mg k s\r\n") != "EN"
        outcomes[name] = kept
        print(f"{name}: {reply!r}, the item is {'kept' if kept else 'gone'}")
finally:
    server.terminate()
    server.wait()
sys.exit(list(outcomes.values()) != [False, False, True, True])
PYTHON
