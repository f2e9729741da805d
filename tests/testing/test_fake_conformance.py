"""The fake server and a real memcached, which get the same commands and must answer the same."""

import os
import random
import re
import time

import pytest

from emcache.testing import FakeServer, MemcachedServer
from emcache.testing._fake._session import Session

pytestmark = pytest.mark.driver_independent

CAS = b"%CAS%"
_VALUE_CAS = re.compile(rb"^(VALUE \S+ \d+ \d+) (\d+)", re.MULTILINE)
_META_CAS = re.compile(rb" c(\d+)")


@pytest.fixture(scope="module")
def real():
    with MemcachedServer("-m", "64", "-t", "1") as server:
        yield server


@pytest.fixture
def fake():
    server = FakeServer()
    yield server
    server.close()


def answers(server, script):
    """Send a script, in which `%CAS%` is the last CAS that was answered."""
    server.flush()
    token, found = b"0", []
    for line in script:
        answer = server.command(line.replace(CAS, token) + b"\r\n")
        for pattern, group in ((_VALUE_CAS, 2), (_META_CAS, 1)):
            for match in pattern.finditer(answer):
                if match[group] != b"0":
                    token = match[group]
        found.append((line, comparable(answer)))
    return found


def comparable(answer):
    """Without the tokens, which are no longer the same, and what a second may change."""
    answer = _VALUE_CAS.sub(rb"\1 CAS", answer)
    answer = re.sub(rb" c[1-9]\d*", b" cCAS", answer)
    answer = re.sub(rb" t[1-9]\d*", b" tTTL", answer)
    return re.sub(rb" l\d+", b" lAGO", answer)


SCRIPTS = {
    "storage": b"""get k
set k 5 0 5|hello
get k
gets k other k
add k 0 0 1|x
add n 1 0 1|x
replace k 7 0 3|abc
replace gone 0 0 1|x
append k 9 9 2|de
prepend k 9 9 2|__
append gone 0 0 1|x
prepend gone 0 0 1|x
get k n
set empty 0 0 0|
get empty
set big 4294967295 0 1|x
get big""",
    "cas": b"""cas k 0 0 1 1|x
set k 0 0 1|a
gets k
cas k 3 0 1 %CAS%|b
cas k 0 0 1 %CAS%|c
get k
cas k 0 0 1 999999999|d
cas k 0 0 1 0|d
get k
ms k 1 C0|x
ms k 1 MA C0|y
get k
ma k C0
md k C0
cas gone 0 0 1 0|d
ms gone 1 C0|x
cas k 0 0 1 0|d
get k
md k C0
ms k 1 C0|x
ms k 1 C0|y
get k
cas gone 0 0 1 0|d
cas k 0 0 1|d""",
    "counters": b"""incr n 1
set n 0 0 1|9
incr n 1
decr n 1
decr n 100
incr n 18446744073709551615
incr n 1
get n
set text 0 0 3|abc
incr text 1
incr n -1
incr n abc
incr n
set long 0 0 21|000000000000000000001
incr long 1
set spaced 0 0 2|1%SPACE%
incr spaced 1
set max 0 0 20|18446744073709551616
incr max 1""",
    "a counter gets shorter": b"""set n 0 0 2|10
decr n 1
get n""",
    "delete and touch": b"""delete k
set k 1 100 1|x
touch k 200
touch gone 1
touch k abc
touch k
delete k
get k
delete
gat 100 k
set k 1 0 1|x
gat 100 k gone
gats 100 k
gat abc k
gat 100
set k 0 -1 1|x
get k
set k 0 0 1|x
touch k -1
get k
set k 0 2592001 1|x
get k""",
    "noreply": b"""set k 0 0 1 noreply|x
get k
add k 0 0 1 noreply|y
append k 0 0 1 noreply|z
get k
incr k 1 noreply
delete k noreply
get k
touch k 1 noreply
set n 0 0 1 noreply|1
incr n 5 noreply
get n
flush_all noreply
get n""",
    "errors": b"""nonsense
get
gets
get %LONG%
touch %LONG% 0
delete %LONG%
incr %LONG% 1
set k 0 0
set k 0 0 abc
verbosity 1
cache_memlimit 1
cache_memlimit 64
stats nonsense
flush_all abc
flush_all 0""",
    "too large": b"""set k 0 0 1|x
set k 0 0 1048577|%HUGE%
get k
set k 0 0 1|x
add k 0 0 1048577|%HUGE%
get k
ms k 1048577|%HUGE%
get k
append k 0 0 1048577|%HUGE%""",
    "meta get": b"""mg k
mg k v
mg k v q
mg k k Oabc v
set k 7 100 5|hello
mg k
mg k v
mg k v f s t c k O1
mg k O1 k c t s f
mg k h l t
mg k h
mg k T200 t
mg k t T0
mg k t
mg k u h
mg k q v
mg k z
mg k v v
mg k Tabc
mg %LONG% v
mg""",
    "vivify and recache": b"""mg k N30 v c
mg k N30 v c
get k
gets k
ms k 1 C%CAS% T100|x
mg k N30 v
mg k R30 v t
mg k R200 v t
mg k R200 v t
set k 0 0 1|x
mg k R200 v
mg gone v N0 t
mg gone v N0 t""",
    "stale": b"""ms k 5 T100|hello
md k I T30
mg k v t c
mg k v t
get k
gets k
ms k 3 C%CAS%|new
mg k v
md k I
mg k v c
ms k 3 C1 I|old
mg k v
md k I
mg k v
touch k 100
mg k v""",
    "meta set": b"""ms k 2|ab
mg k v f t
ms k 2 F5 T100|cd
mg k v f t
ms k 1 ME|x
ms k 1 ME k Oabc|x
ms k 1 MR F9|y
mg k v f
ms gone 1 MR|y
ms k 2 MA|zz
ms k 2 MP F1|aa
mg k v f
ms gone 1 MA|x
ms gone 1 MP|x
ms k 1 MS q|x
ms k 1 ME q|x
ms k 1 c k O7|x
gets k
ms k 1 C%CAS% c|y
ms k 1 C5|y
ms nothing 1 C5|y
ms k 1 z|y
ms k 1 F1 F1|y
ms k abc
ms k
ms
mg k v""",
    "meta delete": b"""md k
md k q
md k k Oabc
set k 0 0 1|x
md k C1
gets k
md k C%CAS% k O5
mg k v
set k 0 0 1|x
md k q
mg k v
set k 0 0 1|x
md k T30
get k
md k T30 q""",
    "meta arithmetic": b"""ma n
ma n N100 J5 v
ma n v
ma n D10 v t
ma n MD D3 v
ma n MD D100 v
ma n M+ v
ma n M- D1 v
ma n MI v c k O3
ma n q v
get n
ma n C1
gets n
ma n C%CAS% v
ma n T200 t v
ma n D18446744073709551615 v
ma n Dabc
ma n z
ma other N0 t v
set text 0 0 3|abc
ma text""",
    "base64": b"""ms AGEg 2 b|ab
mg AGEg b v k
mg AGEg v
md AGEg b k
set plain 0 0 1|x
mg cGxhaW4= b v k
ms cGxhaW4= 1 b T0|y
mg plain v k
ma AGFi b N0 v k
me AGEg""",
    "stub": b"""mg k N30 v
add k 0 0 1|x
ms k 1 ME|x
incr k 1
append k 0 0 1|x
mg k v t
mg j N30 v
replace j 0 0 1|y
mg j v""",
}


def lines(script):
    for word, text in ((b"LONG", b"k" * 251), (b"SPACE", b" "), (b"HUGE", b"x" * 1048577)):
        script = script.replace(b"%%%s%%" % word, text)
    return [line.replace(b"|", b"\r\n") for line in script.splitlines()]


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts(real, fake, name):
    script = lines(SCRIPTS[name])
    assert answers(fake, script) == answers(real, script)


NEWER = [
    (b"ms k 2 s E500 c|ab", b"HD s2 c500\r\n"),
    (b"ms new 2 MA N0|ab", b"HD\r\n"),
    (b"mg new v", b"VA 2\r\nab\r\n"),
    (b"mg k v C500 f", b"HD f0\r\n"),
    (b"mg k v C501", b"VA 2\r\nab\r\n"),
    (b"md k x E600", b"HD\r\n"),
    (b"mg k v c", b"VA 0 c600\r\n\r\n"),
    (b"ma n N0 J5 E700 c v", b"VA 1 c700\r\n5\r\n"),
    (b"ma gone N0 q", b""),
    (b"mg viv N30 E800 c v", b"VA 0 c800 W\r\n\r\n"),
    (b"set k x 0 5|hello", b"CLIENT_ERROR bad command line format\r\n"),
    (b"ms k 1 Mx|y", b"CLIENT_ERROR invalid mode\r\n"),
]
"""Commands that memcached 1.6.18 does not know or answers differently, with later answers."""


def test_commands_of_later_versions(real, fake):
    version = real.command(b"version\r\n").split()[1].decode()
    is_new = tuple(map(int, re.findall(r"\d+", version)[:3])) >= (1, 6, 40)
    for server in (fake, real) if is_new else (fake,):
        for command, answer in NEWER:
            sent = command.replace(b"|", b"\r\n") + b"\r\n"
            assert server.command(sent) == answer, (server, command)


def test_a_delayed_flush(real, fake):
    for server in (real, fake):
        server.command(b"set k 0 0 1\r\nx\r\n")
        assert server.command(b"flush_all 2\r\n") == b"OK\r\n"
        assert server.command(b"get k\r\n").startswith(b"VALUE")
    fake.advance(2)
    time.sleep(2.1)
    deadline = time.monotonic() + 5
    while real.command(b"get k\r\n") != b"END\r\n" and time.monotonic() < deadline:
        time.sleep(0.05)
    for server in (real, fake):
        assert server.command(b"get k\r\n") == b"END\r\n"


def an_item_command(rng):
    """A random command about few keys, of those that no version of memcached does differently."""
    key = rng.choice([b"a", b"b", b"c"])
    value = rng.choice([b"", b"x", b"7", b"99", b"hello world"])
    exptime, flags = rng.choice([0, 0, 1000, -1]), rng.choice([0, 5])
    meta_flags = b" ".join(rng.sample([b"v", b"t", b"f", b"s", b"c", b"k", b"O9", b"q", b"h"], 4))
    mode = rng.choice([b"", b" ME", b" MR", b" MA", b" MP"])
    cas = rng.choice([b"", b"", b" C%CAS%", b" C999999999"])
    verb = rng.choice([b"set", b"add", b"replace", b"append", b"prepend"])
    return rng.choice(
        [
            b"%s %s %d %d %d\r\n%s" % (verb, key, flags, exptime, len(value), value),
            b"cas %s %d %d %d %%CAS%%\r\n%s" % (key, flags, exptime, len(value), value),
            b"ms %s %d F%d T%d%s%s\r\n%s" % (key, len(value), flags, exptime, mode, cas, value),
            b"get a b c",
            b"gets %s" % key,
            b"gat %d %s" % (exptime, key),
            b"touch %s %d" % (key, exptime),
            b"delete %s" % key,
            b"mg %s %s" % (key, meta_flags),
            b"mg %s N1000 v c" % key,
            b"mg %s R2000 v c" % key,
            b"md %s I%s" % (key, rng.choice([b"", b" T500"])),
            b"md %s%s" % (key, cas),
        ]
    )


def a_counter_command(rng):
    """Without reads: a memcached that is still sending a counter makes a copy to change it."""
    key, delta = rng.choice([b"a", b"b"]), rng.choice([0, 1, 7, 1000, 2**64 - 1])
    value = rng.choice([b"0", b"9", b"1000", b"12 ", b"x", b""])
    exptime = rng.choice([0, 1000, -1])
    return rng.choice(
        [
            b"set %s 0 %d %d\r\n%s" % (key, exptime, len(value), value),
            b"incr %s %d" % (key, delta),
            b"decr %s %d" % (key, delta),
            b"delete %s" % key,
            b"touch %s %d" % (key, exptime),
            b"ma %s D%d v t%s" % (key, delta, rng.choice([b"", b" N0 J5", b" MD", b" C9"])),
        ]
    )


@pytest.mark.parametrize("a_command", [an_item_command, a_counter_command])
@pytest.mark.parametrize("number", range(2))
def test_random_commands(real, fake, number, a_command):
    seed = int(os.environ.get("EMCACHE_TEST_SEED", time.time_ns() % 1_000_000)) + number
    rng = random.Random(seed)
    script = [a_command(rng) for _ in range(300)]
    fake_answers, real_answers = answers(fake, script), answers(real, script)
    for step, (found, true) in enumerate(zip(fake_answers, real_answers, strict=True)):
        assert found == true, f"seed {seed}, step {step}: {script[max(step - 12, 0) : step + 1]}"


@pytest.mark.parametrize("name", SCRIPTS)
def test_split_at_every_byte(fake, name):
    """The same answers, however the bytes arrive."""
    script = lines(SCRIPTS[name].replace(b"1048577|%HUGE%", b"1|x"))
    split = FakeServer()
    session = Session(split._text, split._meta, lambda _: [])
    split.close()
    for line in script:
        data = line.replace(CAS, b"1") + b"\r\n"
        pieces = [session.receive(data[at : at + 1])[0] for at in range(len(data))]
        assert comparable(b"".join(pieces)) == comparable(fake.command(data))
