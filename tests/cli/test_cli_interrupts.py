"""Ctrl-C while a server is silent: one line, and exit code 130."""

import contextlib
import select
import signal
import socket

import pytest

from support.cli import start

pytestmark = pytest.mark.driver_independent
COMMANDS = [
    ["get", "k"],
    ["set", "k", "v"],
    ["ttl", "k"],
    ["ping"],
    ["stats"],
    ["keys", "--sort", "size"],
    ["delete", "--prefix", "x", "--yes"],
    ["hot"],
    ["watch"],
    ["doctor"],
    ["top", "--once"],
    ["node-for", "k", "--failover", "next"],
]


def test_every_command():
    """All at once, each at a server of its own, which accepts and says nothing."""
    with contextlib.ExitStack() as stack:
        running = {}
        for command in COMMANDS:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            where = f"127.0.0.1:{listener.getsockname()[1]}"
            process = start(*command, "-s", where, "--timeout", "60")
            stack.callback(process.kill)
            running[listener] = (command, process)
        waiting = set(running)
        while waiting:
            connected, _, _ = select.select(waiting, (), (), 60)
            assert connected, [running[each][0] for each in waiting]
            for listener in connected:
                stack.enter_context(listener.accept()[0])
                running[listener][1].send_signal(signal.SIGINT)
            waiting.difference_update(connected)
        for command, process in running.values():
            out, err = process.communicate(timeout=30)
            assert (process.returncode, "Traceback" in err) == (130, False), (command, err)
            assert out.strip() in ("", "deleted 0"), command
