"""The servers that the runs need: each kind is started when it is first asked for."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

TESTS = Path(__file__).parents[2] / "tests"


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def start_memcached(*options):
    port = free_port()
    command = ["memcached", "-l", "127.0.0.1", "-p", str(port), "-c", "4096", "-I", "2m", *options]
    if os.geteuid() == 0:
        command += ["-u", "nobody"]
    return start(command, port), port


def start_redis():
    """A redis-server as its package configures it, without saving to disk."""
    port = free_port()
    options = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
    return start(["redis-server", *options], port), port


def start(command, port):
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
        else:
            return process
    raise RuntimeError(f"{command[0]} did not start")


class Servers:
    """A context: what was started is stopped at its end."""

    def __init__(self, threads=2):
        self.threads = str(threads)
        self.ports, self.processes = {}, []
        self.ca = ""
        self.stack = contextlib.ExitStack()

    def __enter__(self):
        if shutil.which("memcached") is None:
            sys.exit("memcached is not installed (Debian: apt-get install memcached)")
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait()
        self.stack.close()

    def of(self, nodes=1, tls=False):
        """The ports of so many nodes, and what a client of theirs must trust ("" without TLS)."""
        kind = (nodes, tls)
        if kind not in self.ports:
            options = ["-t", self.threads, "-m", "1024" if nodes == 1 else "64"]
            if tls:
                options += self._tls_options()
            self.ports[kind] = [self._start(*options) for _ in range(nodes)]
        return self.ports[kind], self.ca if tls else ""

    def redis(self):
        """The port of a redis-server, in a list."""
        if "redis" not in self.ports:
            if shutil.which("redis-server") is None:
                sys.exit("redis-server is not installed (Debian: apt-get install redis-server)")
            process, port = start_redis()
            self.processes.append(process)
            self.ports["redis"] = [port]
        return self.ports["redis"]

    def pids(self):
        return [process.pid for process in self.processes]

    def _start(self, *options):
        process, port = start_memcached(*options)
        self.processes.append(process)
        return port

    def _tls_options(self):
        sys.path.insert(0, str(TESTS))
        from support.tls import certificates  # needs `cryptography`, which only TLS is to need

        made = self.stack.enter_context(certificates())
        self.ca = str(made.ca.file)
        return ["-Z", "-o", f"ssl_chain_cert={made.good.certificate},ssl_key={made.good.key}"]
