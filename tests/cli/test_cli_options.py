"""How servers, TLS and logins are named, and what is said of a mistake."""

import re
import subprocess
import sys

import click
import pytest

import emcache
from emcache._memcached.addresses import format_address, parse_address
from emcache.cli._app import app
from emcache.cli._commands import SECTIONS
from emcache.cli._settings import node_name, parse_servers
from support.cli import document, environment, invoke, invoke_beside, named, one_loop, run
from support.sasl import PASSWORD, USER, file_memcached, sasl_memcached
from support.scripted import scripted

COMMANDS = [
    "ping",
    "version",
    "stats",
    "get",
    "set",
    "delete",
    "touch",
    "ttl",
    "incr",
    "decr",
    "keys",
    "hot",
    "watch",
    "node-for",
    "top",
    "bench",
    "doctor",
    "flush",
]
Host = emcache.MemcachedHostAddress
Unix = emcache.MemcachedUnixSocketPath


@pytest.mark.driver_independent
@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("cache1", Host("cache1", 11211)),
        ("cache1:11212", Host("cache1", 11212)),
        ("10.0.0.5:1", Host("10.0.0.5", 1)),
        ("[::1]", Host("::1", 11211)),
        ("[fe80::1%eth0]:11212", Host("fe80::1%eth0", 11212)),
        ("unix:/run/memcached/sock", Unix("/run/memcached/sock")),
        ("/run/memcached/sock", Unix("/run/memcached/sock")),
    ],
)
def test_a_server_is_read(text, address):
    assert parse_servers([text]) == [address]


@pytest.mark.driver_independent
@pytest.mark.parametrize(
    "address", [Host("a", 1), Host("127.0.0.1", 2), Host("fe80::1%eth0", 3), Unix("/run/sock")]
)
def test_what_is_shown_is_read_again(address):
    shown = format_address(address)
    assert node_name(address) == shown
    assert parse_servers([shown]) == [parse_address(shown)] == [address]


@pytest.mark.driver_independent
@pytest.mark.parametrize(
    "text",
    [
        "::1",
        "a:b",
        "a:0",
        "a:65536",
        "a:99999999999",
        "a:-1",
        "[::1",
        "[::1]1",
        "unix:",
        ":1",
        "a b:1",
    ],
)
def test_what_is_no_server_is_refused(text):
    with pytest.raises(click.UsageError, match="is not a node address"):
        parse_servers([text])
    assert invoke("ping", "-s", text).exit_code == 2


@pytest.mark.driver_independent
def test_servers_are_separated_and_repeated():
    assert parse_servers(["a, b:2", "/c"]) == [Host("a", 11211), Host("b", 2), Unix("/c")]
    for texts in ([" , "], ["a:1,a:1"]):
        with pytest.raises(click.UsageError):
            parse_servers(texts)


def test_options_before_and_after_the_command(server):
    for arguments in ([*named(server), "ping", "--json"], ["--json", "ping", *named(server)]):
        result = invoke(*arguments)
        assert (result.exit_code, result.stdout[0]) == (0, "{")


def test_servers_are_repeated_in_one_command(cluster):
    a, b, c = cluster
    answer = document(*named(a), "ping", *named(b), *named(c))
    assert len(answer["nodes"]) == 3


def test_what_is_typed_goes_before_the_environment(server):
    assert invoke("ping", EMCACHE_SERVERS=f"127.0.0.1:{server.port}").exit_code == 0
    assert invoke("ping", *named(server), EMCACHE_SERVERS="127.0.0.1:1").exit_code == 0
    assert invoke(*named(server), "ping", EMCACHE_SERVERS="127.0.0.1:1").exit_code == 0
    assert invoke("ping", EMCACHE_SERVERS="127.0.0.1:1").exit_code == 3


@pytest.mark.driver_independent
def test_a_password_among_servers_is_not_shown():
    for options in (["-s", "user:s3cr3t,2@a"], ["-s", "memcached://user:s3cr3t,2@a"]):
        result = invoke("ping", *options)
        assert result.exit_code != 0
        assert "s3cr3t" not in result.output + result.stderr


@pytest.mark.driver_independent
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["bogus"], "No such command"),
        (["get"], "Missing argument"),
        (["get", "k", "--ca", "/nowhere/ca.pem"], "does not exist"),
        (["get", "k", "--timeout", "0"], "not in the range"),
        (["ping", "-s", "u:pw@a"], "no login"),
        (["get", "k", "--username", "me"], "EMCACHE_PASSWORD"),
        (["get", "k", "--auth", "sasl"], "--username"),
        (["get", "k", "-s", "a", "--discovery", "b"], "not both"),
        (["get", "a b"], "forbidden byte"),
        (["get", "k" * 251], "250"),
        (["get", "k", "-s", "/run/x", "--tls"], "--server-name, or --no-verify"),
        (["get", "k", "--ca", __file__], "--ca contains no PEM certificate"),
        (["get", "k", "--cert", __file__], "--cert contains no PEM certificate"),
        (["get", "k", "--key", __file__], "--key needs --cert"),
        (["set", "k"], "VALUE"),
        (["set", "k", "v", "--file", __file__], "VALUE"),
        (["set", "k", "v", "--exptime", "soon"], "is not a time"),
        (["set", "k", "v", "--exptime", "2592001"], "30 days"),
        (["set", "k", "v", "--exptime", "99999d"], "too far"),
        (["incr", "k", "x"], "not a valid integer"),
        (["stats", "reset"], "only reads"),
        (["keys", "--limit", "0"], "not in the range"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(arguments, says):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert says in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.driver_independent
def test_help_names_everything():
    text = invoke("--help").stdout
    assert [command for command in COMMANDS if f"  {command} " not in text] == []
    assert max(map(len, text.splitlines())) <= 80
    for command in COMMANDS:
        text = invoke(command, "-h").stdout
        assert "--servers" in text
        assert "--help-connection" in text
        assert "--ca " not in text
        assert len(text.splitlines()) < 45
        connection = invoke(command, "--help-connection").stdout
        assert max(map(len, connection.splitlines())) <= 80
        assert {"--servers", "--ca", "--failover", "--timeout", "EMCACHE_PASSWORD"} <= set(
            re.findall(r"--[a-z]+|EMCACHE_PASSWORD", connection)
        )
        assert "--password " not in connection  # everybody reads the arguments of processes


@pytest.mark.driver_independent
def test_the_help_has_every_command():
    listed = [name for names in SECTIONS.values() for name in names]
    assert sorted(listed) == sorted(app.commands)
    assert invoke("--help-connection").exit_code == 0


@pytest.mark.driver_independent
def test_without_the_extra():
    """Click and rich are looked for, and not found."""
    program = "import sys; sys.modules['{}'] = None; from emcache.cli import main; sys.exit(main())"
    for missing in ("click", "rich"):
        command = [sys.executable, "-c", program.format(missing)]
        done = subprocess.run([*command, "ping"], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stderr == (
            f"emcache: the command line needs the module {missing}: pip install 'emcache[cli]'\n"
        )
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, f"emcache {emcache.__version__}\n")


@pytest.mark.driver_independent
def test_as_a_program():
    assert run("--version").stdout == f"emcache {emcache.__version__}\n"
    assert run("get").returncode == 2


@pytest.mark.driver_independent
def test_the_package_imports_none_of_it():
    program = "import sys, emcache; print({'click', 'rich', 'emcache.cli'} & set(sys.modules))"
    command = [sys.executable, "-c", program]
    assert subprocess.check_output(command, text=True).strip() == "set()"


@pytest.mark.parametrize("kind", [file_memcached, sasl_memcached])
def test_a_login(kind, tmp_path):
    file = tmp_path / "password"
    file.write_text(PASSWORD + "\n")
    with kind() as server:
        auth = server.login.get("auth", "ascii")
        login = [*named(server), "--username", USER, "--auth", auth]
        assert invoke("set", "k", "v", *login, EMCACHE_PASSWORD=PASSWORD).exit_code == 0
        result = invoke("get", "k", *login, "--password-file", str(file))
        assert result.stdout == "v"
        if kind is file_memcached:
            result = invoke("get", "k", *named(server))
            assert (result.exit_code, "--username" in result.stderr) == (4, True)
        for command in (["get", "k"], ["ping"], ["doctor"], ["stats"], ["bench"], ["keys"]):
            refused = invoke(*command, *login, EMCACHE_PASSWORD="wrong.and.secret")
            assert refused.exit_code == (1 if command == ["doctor"] else 4)
            assert "wrong.and.secret" not in refused.output
            assert "login" in refused.output or "text protocol" in refused.output


@pytest.mark.driver_independent
def test_a_password_file_that_is_no_text(tmp_path):
    file = tmp_path / "password"
    file.write_bytes(b"\xff\xfe")
    result = invoke("ping", "--username", "me", "--password-file", str(file))
    assert (result.exit_code, "not UTF-8" in result.stderr) == (2, True)


def test_a_server_that_asks_for_no_login(server):
    done = run(
        "ping",
        *named(server),
        *("--username", "app"),
        env=environment(EMCACHE_PASSWORD="correct.horse.battery"),
    )
    assert done.returncode == 4
    assert "refused the login" in done.stdout
    assert "battery" not in done.stdout + done.stderr


@pytest.mark.driver_independent
@one_loop
async def test_words_of_a_server_are_not_taken_for_options():
    async def script(connection):
        while await connection.line():
            await connection.send(b"SERVER_ERROR ssl=True and ssl_extra_ca\r\n")

    async with scripted(script) as server:
        result = await invoke_beside("get", "k", *named(server))
    assert result.exit_code == 4
    assert "ssl=True and ssl_extra_ca" in result.stderr


@pytest.mark.driver_independent
def test_a_node_that_is_down_is_named_once():
    result = invoke("ping", "-s", "127.0.0.1:1")
    assert result.exit_code == 3
    assert result.stdout.startswith("127.0.0.1:1  down  Connection refused")
