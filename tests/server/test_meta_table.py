"""What each version of memcached does with meta commands, by raw bytes.

The client relies on every row. They hold on all versions that the suite runs on; where versions
differ, a row says from which one on.
"""

import base64
import re
import socket

import pytest

pytestmark = pytest.mark.driver_independent


@pytest.fixture(scope="module")
def version(server) -> int:
    """The last number of the version, as all are 1.6."""
    found = re.match(r"1\.6\.(\d+)", server.stats()["version"])
    assert found is not None
    return int(found[1])


@pytest.fixture
def ask(server):
    """Send bytes on a connection of its own and return the reply, up to the fence behind it."""

    def ask(request: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
            connection.sendall(request + b"\r\nmn\r\n")
            reply = b""
            while not reply.endswith(b"MN\r\n"):
                received = connection.recv(65536)
                assert received, reply
                reply += received
        return reply.removesuffix(b"MN\r\n")

    return ask


@pytest.fixture
def name(key) -> str:
    return key.decode()


def asked(ask, line: str) -> str:
    return ask(line.encode()).decode()


# -- syntax and replies --------------------------------------------------------------------------


def test_words_of_replies(ask, name, version):
    space = " " if version < 18 else ""
    assert asked(ask, f"mg {name} v") == "EN\r\n"
    assert asked(ask, f"ms {name} 1\r\nx") == f"HD{space}\r\n"
    assert asked(ask, f"ms {name} 1 ME\r\nx") == f"NS{space}\r\n"
    assert asked(ask, f"ms {name} 1 C5\r\nx") == f"EX{space}\r\n"
    assert asked(ask, f"ms {name}2 1 C5\r\nx") == f"NF{space}\r\n"
    assert asked(ask, f"md {name}") == f"HD{space}\r\n"
    assert asked(ask, f"md {name}") == f"NF{space}\r\n"
    assert asked(ask, f"ma {name}") == f"NF{space}\r\n"


def test_a_read_without_flags(ask, name, version):
    asked(ask, f"ms {name} 1\r\nx")
    if version < 18:
        assert asked(ask, f"mg {name}").startswith("CLIENT_ERROR bad command line format")
    else:
        assert asked(ask, f"mg {name}") == "HD\r\n"


def test_a_miss_repeats_opaque_and_key(ask, name, version):
    expected = "EN\r\n" if version < 18 else f"EN Oq1 k{name}\r\n"
    assert asked(ask, f"mg {name} Oq1 k") == expected


def test_keys_in_base64(ask, name):
    raw = name.encode() + b" \xff\0"
    text = base64.b64encode(raw).decode()
    assert asked(ask, f"ms {text} 1 b\r\nx").startswith("HD")
    reply = asked(ask, f"mg {text} b v")
    assert reply.startswith("VA 1")
    assert reply.endswith("\r\nx\r\n")
    # Without another word behind it, `b` of `me` is ignored from 1.6.40 on.
    assert asked(ask, f"me {text} b x").startswith(f"ME {text} exp=")
    longest = base64.b64encode(bytes(186)).decode()
    assert asked(ask, f"mg {longest} b v") == "EN\r\n"
    too_long = base64.b64encode(bytes(189)).decode()
    assert asked(ask, f"mg {too_long} b v").startswith("CLIENT_ERROR")


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("mg {} Y", "CLIENT_ERROR invalid flag"),
        ("mg {} v v", "CLIENT_ERROR duplicate flag"),
        ("ma {} N", "CLIENT_ERROR"),
    ],
)
def test_errors(ask, name, line, error):
    assert asked(ask, line.format(name)).startswith(error)


@pytest.mark.parametrize("line", ["mg {} I v", "ms {} 1 v\r\nx", "md {} c"])
def test_flags_of_other_commands_are_ignored(ask, name, line):
    """So the client refuses them."""
    asked(ask, f"ms {name} 1\r\nx")
    assert asked(ask, line.format(name))[:2] in ("HD", "VA")


def test_ms_knows_no_size(ask, name, version):
    reply = asked(ask, f"ms {name} 3 s\r\nxyz")
    assert reply.rstrip() == ("HD" if version < 20 else "HD s3")


def test_append_creates(ask, name, version):
    reply = asked(ask, f"ms {name} 1 MA N30\r\nx")
    assert reply.rstrip() == ("NS" if version < 20 else "HD")


@pytest.mark.parametrize("line", ["ms {} 1 E5\r\nx", "md {} x", "md {} I E5", "ma {} E5"])
def test_explicit_cas_and_cleared_items(ask, name, version, line):
    asked(ask, f"ms {name} 1\r\n5")
    reply = asked(ask, line.format(name))
    assert reply.startswith("CLIENT_ERROR" if version < 27 else "HD")


def test_explicit_cas_of_a_read_applies_to_creation(ask, name, version):
    reply = asked(ask, f"mg {name} N30 E77 c")
    if version < 27:
        assert reply.startswith("CLIENT_ERROR")
    else:
        assert "c77" in reply
        assert "c78" not in asked(ask, f"mg {name} E78 c")


def test_cas_of_a_read(ask, name, version):
    asked(ask, f"ms {name} 1\r\nx")
    cas = asked(ask, f"mg {name} c").split()[1]
    reply = asked(ask, f"mg {name} v C{cas[1:]}")
    assert reply.startswith("HD" if version >= 40 else "VA 1")


def test_flags_of_proxies_are_ignored(ask, name, version):
    asked(ask, f"ms {name} 1\r\nx")
    for flag in "PL":
        assert asked(ask, f"mg {name} v {flag}").startswith("VA" if version >= 14 else "CLIENT")


def test_a_modifier_in_words(ask, name, version):
    reply = asked(ask, f"ms {name} 1 Mappend\r\nx")
    expected = "invalid mode" if version >= 40 else "incorrect length for M token"
    assert reply.startswith("CLIENT_ERROR")
    assert expected in reply


@pytest.mark.parametrize("flag", ["F4294967296", "T2147483648"])
def test_numbers_out_of_range(ask, name, version, flag):
    """The client refuses them."""
    reply = asked(ask, f"ms {name} 1 {flag}\r\nx")
    if version >= 40:
        assert reply.startswith("CLIENT_ERROR")
        return
    assert reply.startswith("HD")
    assert asked(ask, f"mg {name} f v") == (
        "VA 1 f0\r\nx\r\n" if flag.startswith("F") else "EN\r\n"
    )


def test_the_value_behind_a_bad_line(ask, name, version):
    """It runs as commands, or is swallowed; so the client closes the connection."""
    long = "k" * 251
    reply = asked(ask, f"ms {long} 8\r\nmg {name} v")
    assert reply.startswith("CLIENT_ERROR")
    assert reply.endswith("\r\nEN\r\n") == (version < 40)


# -- time ----------------------------------------------------------------------------------------


def test_me(ask, name, version):
    assert asked(ask, f"me {name}") == "EN\r\n"
    asked(ask, f"ms {name} 1 T1000\r\nx")
    sign = "" if version >= 24 else "-"
    assert re.match(
        rf"ME {name} exp={sign}\d+ la=\d+ cas=\d+ fetch=no cls=\d+ size=\d+\r\n",
        asked(ask, f"me {name}"),
    )
    asked(ask, f"ms {name} 1\r\nx")
    assert " exp=-1 " in asked(ask, f"me {name}")


def test_a_time_in_the_past(ask, name):
    asked(ask, f"ms {name} 1\r\nx")
    reply = asked(ask, f"mg {name} T-1 t")
    # Wrapped around, or what the suite would be told by a version that is not known yet.
    assert int(reply.split()[1][1:]) not in range(1, 1000)
    assert asked(ask, f"mg {name} v") == "EN\r\n"


def test_a_time_without_the_mark_deletes(ask, name):
    asked(ask, f"ms {name} 1\r\nx")
    assert asked(ask, f"md {name} T30").startswith("HD")
    assert asked(ask, f"mg {name} v") == "EN\r\n"


def test_a_mark_with_time_0_never_expires(ask, name):
    asked(ask, f"ms {name} 1 T100\r\nx")
    asked(ask, f"md {name} I T0")
    assert " t-1" in asked(ask, f"mg {name} t")


# -- leases --------------------------------------------------------------------------------------


def test_flags_are_executed_from_left_to_right(ask, name):
    asked(ask, f"ms {name} 1 T10\r\nx")
    assert " W" not in asked(ask, f"mg {name} T300 R30 t")
    asked(ask, f"ms {name} 1 T10\r\nx")
    reply = asked(ask, f"mg {name} R30 T300 t")
    assert " W" in reply
    assert int(reply.split()[1][1:]) > 100
    # The time of a new item: `N` last, but a later reader's `T` prolongs it.
    assert int(asked(ask, f"mg {name}2 N30 T3000 t").split()[1][1:]) > 1000


def test_the_time_of_a_created_item_is_known_behind_n(ask, name):
    assert " t-1" in asked(ask, f"mg {name} t N30")
    assert int(re.search(r" t(-?\d+)", asked(ask, f"mg {name}2 N30 t"))[1]) in range(1, 31)


def test_a_missing_item_is_won_once(ask, name):
    assert asked(ask, f"mg {name} v N30") == "VA 0 W\r\n\r\n"
    assert asked(ask, f"mg {name} v N30") == "VA 0 Z\r\n\r\n"
    assert asked(ask, f"get {name}") == f"VALUE {name} 0 0\r\n\r\nEND\r\n"


def test_quiet_mode_does_not_hide_a_win(ask, name):
    assert asked(ask, f"mg {name} v N30 q").startswith("VA 0 W")
    assert asked(ask, f"mg {name}2 v q") == ""


def test_an_item_is_refreshed_once(ask, name):
    asked(ask, f"ms {name} 1 T100\r\nx")
    assert asked(ask, f"mg {name} v R2000") == "VA 1 W\r\nx\r\n"
    assert asked(ask, f"mg {name} v R2000") == "VA 1 Z\r\nx\r\n"
    asked(ask, f"ms {name} 1\r\nx")
    assert asked(ask, f"mg {name} v R2000") == "VA 1\r\nx\r\n"


def test_a_stale_item_is_won_by_any_mg_and_by_nothing_else(ask, name):
    asked(ask, f"ms {name} 1\r\nx")
    asked(ask, f"md {name} I")
    for line in ("get {}", "gets {}", "gat 0 {}", "me {}"):
        asked(ask, line.format(name))
    assert re.match(r"HD t-1 (W X|X W)", asked(ask, f"mg {name} t u"))
    assert re.match(r"VA 1 (Z X|X Z)\r\nx", asked(ask, f"mg {name} v"))


def test_a_win_is_given_back(ask, name, version):
    cas = re.search(r"c(\d+)", asked(ask, f"mg {name} c N30"))[1]
    reply = asked(ask, f"md {name} C{cas}")
    assert reply.startswith("HD" if version >= 13 else "EX")


def test_an_invalidation_beats_the_winner(ask, name):
    cas = re.search(r"c(\d+)", asked(ask, f"mg {name} c N30"))[1]
    asked(ask, f"md {name} I")
    assert asked(ask, f"ms {name} 1 C{cas}\r\nx").startswith("EX")


def test_the_stub_for_classic_commands(ask, name):
    asked(ask, f"mg {name} N30")
    assert asked(ask, f"add {name} 0 0 1\r\nx") == "NOT_STORED\r\n"
    assert asked(ask, f"ms {name} 1 ME\r\nx").startswith("NS")
    assert asked(ask, f"incr {name} 1").startswith("CLIENT_ERROR")
    assert asked(ask, f"append {name} 0 0 1\r\nx") == "STORED\r\n"
    assert asked(ask, f"mg {name} v") == "VA 1\r\nx\r\n"


def test_a_counter_is_created_whatever_its_cas(ask, name):
    assert asked(ask, f"ma {name} C5 N30 J7 v").startswith("VA 1")


def test_a_value_that_is_too_large_deletes_the_old_one(ask, name):
    asked(ask, f"ms {name} 1\r\nx")
    reply = asked(ask, f"ms {name} {2 * 2**20} ME\r\n" + "x" * 2 * 2**20)
    assert reply.startswith("SERVER_ERROR object too large")
    assert asked(ask, f"mg {name} v") == "EN\r\n"
