"""get, set, delete, touch, incr, decr."""

import base64
import fcntl
import json
import os
import termios
import time

import pytest

from emcache.cli._output import bytes_text, printable
from emcache.cli._values import EXPTIME
from support.cli import Terminal, document, environment, invoke, named, run
from support.memcached import memcached

BINARY = bytes(range(256)) * 4


@pytest.fixture
def name(key):
    return key.decode()


def test_a_negative_number_is_no_option(server, name):
    here = named(server)
    assert invoke("set", name, "-5", *here).exit_code == 0
    assert invoke("get", name, *here).stdout_bytes == b"-5"
    wrong = invoke("incr", name, "-1", *here)
    assert (wrong.exit_code, "-1 is not in the range" in wrong.stderr) == (2, True)
    assert invoke("touch", *here, name, "-1", "--json").exit_code == 0
    assert invoke("get", name, *here).exit_code == 1
    assert invoke("touch", name, "-1", *here).stderr == "emcache: the key does not exist\n"
    assert "No such option" in invoke("touch", name, "-x", *here).stderr


def test_the_time_that_is_left(server, name):
    here = named(server)
    assert invoke("ttl", name, *here).exit_code == 1
    assert document("ttl", name, *here, code=1)["found"] is False
    invoke("set", name, "x", *here)
    assert invoke("ttl", name, *here).output == "never\n"
    assert document("ttl", name, *here)["ttl"] is None
    invoke("touch", name, "2h", *here)
    assert 7100 < int(invoke("ttl", name, *here).output) <= 7200
    assert 7100 < document("ttl", name, *here)["ttl"] <= 7200


def test_the_time_that_is_left_at_a_silent_server():
    """It does not say that the server lacks the command."""
    with memcached() as silent:
        silent.pause()
        failed = invoke("ttl", "k", *named(silent), "--timeout", "0.3")
        silent.resume()
    assert (failed.exit_code, "0.3 s" in failed.stderr) == (3, True), failed.stderr


def test_a_value_there_and_back(server, name):
    here = named(server)
    assert invoke("set", name, "hello", *here).output == ""
    got = invoke("get", name, *here)
    assert (got.exit_code, got.stdout_bytes) == (0, b"hello")
    assert invoke("delete", name, *here).exit_code == 0
    missed = invoke("get", name, *here)
    assert (missed.exit_code, missed.stdout_bytes, missed.stderr) == (
        1,
        b"",
        f"{name}: not found\n",
    )


@pytest.mark.parametrize("value", [BINARY, b"", b"a\r\n", b"\n"])
def test_bytes_are_piped_as_they_are(server, name, tmp_path, value):
    here = named(server)
    assert invoke("set", name, "-", *here, input=value).exit_code == 0
    assert invoke("get", name, *here).stdout_bytes == value
    (tmp_path / "value").write_bytes(value + b"!")
    assert invoke("set", name, "--file", str(tmp_path / "value"), *here).exit_code == 0
    assert invoke("get", name, *here).stdout_bytes == value + b"!"


def test_an_argument_that_looks_like_an_option(server, name):
    assert invoke("set", *named(server), "--", name, "--json").exit_code == 0
    assert invoke("get", name, *named(server)).stdout_bytes == b"--json"


def test_json(server, name):
    here = named(server)
    assert document("set", name, "5", "--flags", "7", *here) == {
        "key": name,
        "key_encoding": "utf-8",
        "stored": True,
        "size": 1,
    }
    got = document("get", name, *here)
    assert got.pop("cas") > 0
    assert got == {
        "key": name,
        "key_encoding": "utf-8",
        "found": True,
        "flags": 7,
        "size": 1,
        "value": "5",
        "value_encoding": "utf-8",
    }
    assert document("incr", name, "3", *here)["number"] == 8
    assert document("touch", name, "60", *here)["touched"] is True
    invoke("set", name, "-", *here, input=BINARY)
    got = document("get", name, *here)
    assert got["value_encoding"] == "base64"
    assert base64.b64decode(got["value"]) == BINARY
    assert document("delete", name, name, *here, code=1)["keys"] == [
        {"key": name, "key_encoding": "utf-8", "deleted": True},
        {"key": name, "key_encoding": "utf-8", "deleted": False},
    ]
    assert set(document("get", name, *here, code=1)) == {*got}


def test_errors_are_json_too(server, name):
    invoke("set", name, "text", *named(server))
    error = document("incr", name, *named(server), code=4)["error"]
    assert (error["type"], error["exit_code"]) == ("ArithmeticCommandError", 4)
    error = document("get", name, "-s", "127.0.0.1:1", code=3)["error"]
    assert (error["type"], error["node"]) == ("NodeUnavailableError", "127.0.0.1:1")
    assert document("get", "a b", *named(server), code=2)["error"]["type"] == "InvalidKeyError"


def test_numbers(server, name):
    here = named(server)
    assert invoke("incr", name, *here).exit_code == 1
    assert invoke("set", name, "10", *here).exit_code == 0
    assert invoke("incr", name, *here).stdout == "11\n"
    assert invoke("decr", name, "100", *here).stdout == "0\n"
    assert invoke("incr", name, str(2**64), *here).exit_code == 2


def test_conditions(server, name):
    here = named(server)
    assert invoke("set", name, "a", "--replace", *here).exit_code == 1
    assert invoke("set", name, "a", "--add", *here).exit_code == 0
    refused = invoke("set", name, "b", "--add", *here)
    assert (refused.exit_code, "not stored" in refused.stderr) == (1, True)
    assert invoke("set", name, "c", "--replace", *here).exit_code == 0
    assert invoke("get", name, *here).stdout == "c"


def left(server, name):
    """The seconds that an item has, by the server."""
    reply = server.command(b"mg %b t\r\nbogus\r\n" % name.encode())
    return int(reply.split(b" t")[1].split(b"\r")[0])


def test_a_time_is_kept(server, name):
    assert invoke("set", name, "v", "-e", "31d", *named(server)).exit_code == 0
    # The server's clock counts whole seconds.
    assert abs(left(server, name) - 31 * 86400) <= 10
    assert invoke("touch", name, "100", *named(server)).exit_code == 0
    assert abs(left(server, name) - 100) <= 10
    assert invoke("touch", name + "?", "100", *named(server)).exit_code == 1


@pytest.mark.driver_independent
@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("90", 90), ("90s", 90), ("10m", 600), ("2h", 7200), ("30d", 2592000), ("-1", -1)],
)
def test_times(text, seconds):
    assert EXPTIME.convert(text, None, None) == seconds


@pytest.mark.driver_independent
def test_times_above_30_days_are_dates():
    now = int(time.time())
    assert now <= EXPTIME.convert("31d", None, None) - 31 * 86400 <= now + 5
    assert EXPTIME.convert(str(now + 10**7), None, None) == now + 10**7


def test_a_value_that_is_too_large(server, name):
    refused = invoke("set", name, "-", *named(server), input=b"x" * 2_000_000)
    assert (refused.exit_code, "too large" in refused.stderr) == (4, True)


@pytest.mark.driver_independent
def test_nothing_acts_on_the_terminal():
    assert printable("a\x1b[31m\u200b\u202e\n") == "a\\x1b[31m\\u200b\\u202e\\n"
    assert bytes_text("café".encode()) == "café"
    assert bytes_text(b"\xff\x9b1m\x00") == "\\xff\\x9b1m\\x00"


def test_a_terminal_gets_text_and_no_escapes(server, name):
    here = named(server)
    for value, shown in [
        (b"caf\xc3\xa9\nau lait\n", "café\r\nau lait\r\n"),
        (b"\x1b[2Jgone", "(8 bytes with control characters; pipe them, or use --json)\r\n"),
    ]:
        server.command(b"set %b 0 0 %d\r\n%b\r\n" % (name.encode(), len(value), value))
        with Terminal("get", name, *here) as terminal:
            assert terminal.end() == 0
            assert terminal.raw.decode() == shown


def test_a_real_pipe(server, name):
    server.command(b"set %b 0 0 3\r\na\x00b\r\n" % name.encode())
    done = run("get", name, *named(server))
    assert (done.returncode, done.stdout, done.stderr) == (0, "a\0b", "")
    assert json.loads(run("get", name, *named(server), "--json").stdout)["value"] == "a\0b"


def test_a_value_that_does_not_come(server, name, tmp_path):
    """Ctrl-C ends it, although it waits for its input."""
    os.mkfifo(tmp_path / "fifo")
    with Terminal("set", name, "--file", str(tmp_path / "fifo"), *named(server)) as terminal:
        with (tmp_path / "fifo").open("wb", buffering=0) as fifo:
            fifo.write(b"half")
            while fcntl.ioctl(fifo, termios.FIONREAD, bytes(4)) != bytes(4):
                time.sleep(0.01)
            assert terminal.end(press=b"\x03") == 130
        assert "Traceback" not in terminal.text
    assert invoke("get", name, *named(server)).exit_code == 1


def test_an_output_of_few_letters(server, name):
    server.command(f"set {name} 0 0 8\r\n\u03bb\U0001f600ab\r\n".encode())
    variables = environment(PYTHONIOENCODING="ascii", EMCACHE_SERVERS=named(server)[1])
    done = run("get", name, "--json", env=variables)
    assert json.loads(done.stdout)["value"] == "\u03bb\U0001f600ab"
    assert run("node-for", "\u03bb", "k", env=variables).returncode == 0
    assert run("get", "\u03bb", env=variables).returncode == 1
