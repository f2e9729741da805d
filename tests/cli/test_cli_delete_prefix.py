"""delete --prefix: what is counted, confirmed, and deleted."""

import pytest

from emcache.cli import _prefix
from support.cli import Terminal, document, invoke, named, start
from support.memcached import free_port, memcached


@pytest.fixture
def users():
    """A server with 60 keys that begin with ``user:``, and another one."""
    with memcached() as server:
        sets = [b"set user:%d 0 0 1\r\nx\r\n" % number for number in range(60)]
        server.command(b"".join(sets) + b"set kept 0 0 1\r\nx\r\n")
        yield server


def count(server):
    return int(server.stats()["curr_items"])


def test_a_dry_run_deletes_nothing(users):
    done = invoke("delete", "--prefix", "user:", "--dry-run", *named(users))
    node, number, size = done.stdout.split("\t")
    assert (node, number, int(size) > 60 * 50) == (f"127.0.0.1:{users.port}", "60", True)
    answer = document("delete", "--prefix", "user:", "--dry-run", *named(users))
    assert answer["nodes"][0]["matched"] == 60
    assert count(users) == 61


@pytest.mark.parametrize(("typed", "code", "left"), [(b"y\n", 0, 1), (b"\n", 1, 61)])
def test_it_asks_with_the_number_of_keys(users, typed, code, left):
    with Terminal("delete", "--prefix", "user:", *named(users)) as terminal:
        terminal.until(lambda text: "Delete 60 keys that begin with 'user:'?" in text)
        assert count(users) == 61
        terminal.press(typed)
        assert terminal.end() == code
    assert count(users) == left


def test_nothing_to_delete_is_not_asked(users):
    with Terminal("delete", "--prefix", "nothing", *named(users)) as terminal:
        assert terminal.end() == 0
        assert terminal.text == "deleted 0\r\n"


def test_ctrl_c_while_it_deletes(users):
    """It says how many it has deleted until then."""
    arguments = ("delete", "--prefix", "user:", "--rate", "20", *named(users))
    with Terminal(*arguments) as terminal:
        terminal.until(lambda text: "Delete 60 keys" in text)
        terminal.press(b"y\n")
        terminal.until(lambda text: "of 60" in text)
        assert terminal.end(press=b"\x03") == 130
        assert "Traceback" not in terminal.text
        deleted = int(terminal.text.split("deleted ")[-1].split()[0])
    assert count(users) == 61 - deleted


def test_the_rate(users, monkeypatch):
    """The deletes are spread: the pauses add up to the time that the rate needs."""
    pauses = []

    async def sleep(seconds):
        pauses.append(seconds)

    monkeypatch.setattr(_prefix.asyncio, "sleep", sleep)
    monkeypatch.setattr(_prefix.time, "monotonic", lambda: 100.0 + sum(pauses))
    invoke("delete", "--yes", "--prefix", "user:", "--rate", "20", *named(users))
    assert sum(pauses) == pytest.approx(58 / 20)
    assert count(users) == 1


def test_an_error_of_a_server_hides_no_deletes(users, monkeypatch):
    """A refused delete ends the work at that node; those before it are counted."""
    command = _prefix._command
    refused = b"get x\r\n"
    monkeypatch.setattr(
        _prefix, "_command", lambda key: refused if key == b"user:30" else command(key)
    )
    done = invoke("delete", "--yes", "--prefix", "user:", *named(users))
    assert done.exit_code == 4
    deleted = int(done.stdout.split()[1])
    assert 0 <= deleted < 60
    assert "to the delete of 'user:30'" in done.stderr


def test_a_pipe_that_is_closed(users):
    process = start("delete", "--yes", "--json", "--prefix", "user:", *named(users))
    process.stdout.close()
    assert process.wait(20) in (0, 141)
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()


def test_delete_by_prefix():
    with memcached() as a, memcached() as b, memcached() as c:
        servers = [a, b, c]
        for server in servers:
            # On all nodes, wherever this client would look for it.
            for key in (b"user:1", b"user:2", b"other"):
                server.command(b"set %b 0 0 1\r\nx\r\n" % key)
        done = invoke("delete", "--yes", "--prefix", "user:", *named(*servers))
        assert (done.exit_code, done.stdout) == (0, "deleted 6\n")
        assert invoke("keys", *named(*servers)).stdout == "other\n" * 3
        answer = document("delete", "--yes", "--prefix", "other", *named(*servers))
        assert [each["key"] for each in answer["keys"]] == ["other"] * 3
        assert all(each["deleted"] for each in answer["keys"])
        assert len(answer["nodes"]) == 3
        assert document("delete", "--yes", "--prefix", "other", *named(*servers))["keys"] == []


def test_delete_by_prefix_of_many_and_odd_keys():
    with memcached() as server:
        sets = [b"set k:%d 0 0 1 noreply\r\nx\r\n" % number for number in range(5000)]
        # "k: \n", in base64.
        odd = b"ms azogCg== 1 b\r\nx\r\n"
        server.command(b"".join(sets) + odd + b"set kept 0 0 1\r\nx\r\n")
        done = invoke("delete", "--yes", "--rate", "0", "--prefix", "k:", *named(server))
        assert done.stdout == "deleted 5001\n"
        assert invoke("keys", *named(server)).stdout == "kept\n"


def test_delete_by_prefix_where_a_node_is_dead(cluster):
    cluster[0].command(b"set user:1 0 0 1\r\nx\r\n")
    dead = f"127.0.0.1:{free_port()}"
    done = invoke("delete", "--yes", "--prefix", "user:", *named(cluster[0]), "-s", dead)
    assert (done.exit_code, done.stdout) == (3, "deleted 1\n")
    assert dead in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--prefix", ""], "must not be empty"),
        (["key", "--prefix", "k"], "or --prefix"),
        ([], "or --prefix"),
        (["--prefix", "k"], "use --yes, or --dry-run"),
        (["key", "--yes"], "need --prefix"),
        (["key", "--dry-run"], "need --prefix"),
    ],
)
def test_delete_wants_keys_or_a_prefix(server, arguments, says):
    done = invoke("delete", *arguments, *named(server))
    assert done.exit_code == 2
    assert says in done.stderr
