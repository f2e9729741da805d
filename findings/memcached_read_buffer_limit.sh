#!/usr/bin/env bash
# A get with 20 keys, on a memcached with 32 threads and the smallest read_buf_mem_limit (MEMCACHED=program).
set -euo pipefail
memcached=${MEMCACHED:-$(command -v memcached || true)}
[ -n "$memcached" ] || { echo "memcached is needed"; exit 77; }
python3 - "$memcached" <<'PYTHON'
import socket
import subprocess
import sys
import time

program = sys.argv[1]
print("memcached", subprocess.check_output([program, "-V"], text=True).split()[1])


def ask(*options):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [program, "-l", "127.0.0.1", "-p", str(port), "-u", "nobody", *options]
    server = subprocess.Popen(command)
    try:
        for _ in range(100):
            try:
                peer = socket.create_connection(("127.0.0.1", port), timeout=10)
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
        replies = peer.makefile("rb")
        outcomes = {}
        for count in (1, 20):
            keys = [b"k%d" % number for number in range(count)]
            for key in keys:
                peer.sendall(b"set " + key + b" 0 0 1\r\nv\r\n")
                assert replies.readline() == b"STORED\r\n"
            peer.sendall(b"get " + b" ".join(keys) + b"\r\n")
            lines = [replies.readline()]
            while lines[-1].startswith(b"VALUE") or lines[-1] == b"v\r\n":
                lines.append(replies.readline())
            outcomes[count] = lines[-1].strip().decode(), sum(x.startswith(b"VALUE") for x in lines)
        return outcomes
    finally:
        server.terminate()
        server.wait()


found = {}
for options in (("-t", "32"), ("-t", "32", "-o", "read_buf_mem_limit=1")):
    found[len(options)] = outcomes = ask(*options)
    for count, (end, values) in outcomes.items():
        print(f"{' '.join(options)}: get with {count} keys: {values} values, then {end!r}")
is_refused = found[4][20][0].startswith("SERVER_ERROR")
sys.exit(not (found[2][20] == ("END", 20) and found[4][1] == ("END", 1) and is_refused))
PYTHON
