"""The decorator: keys of calls, methods, providers, and a cache that fails."""

import asyncio
import contextvars
import dataclasses
import datetime
import decimal
import enum
import functools
import inspect
import logging
import re
import sys
import uuid
from zoneinfo import ZoneInfo

import pydantic
import pytest

import emcache
from emcache import Cache, cached
from emcache.cache import Json, MsgPack, Pickle, Pymemcache, Raw, Utf8, _warnings
from support.calls import outcomes, within
from support.memcached import memcached


@pytest.fixture
def cache(client, key):
    return Cache(client, prefix=key)


@pytest.fixture(autouse=True)
def fresh_warnings():
    _warnings.LOG.reset()


def counting(cache, **options):
    """A cached function, and the arguments it was really called with."""
    calls = []

    @cached(cache, **{"key": "{number}:{text}:{flag}", **options})
    async def function(number, text="a", *, flag=False):
        calls.append((number, text, flag))
        await asyncio.sleep(0)
        return f"{number}{text}{flag}"

    return function, calls


async def test_called_once(cache):
    function, calls = counting(cache)
    for _ in range(3):
        assert await function(1) == "1aFalse"
    assert calls == [(1, "a", False)]
    assert await function(2) == "2aFalse"
    assert len(calls) == 2


async def test_ways_to_say_the_same(cache):
    function, calls = counting(cache)
    await asyncio.gather(function(1, "b"), function(number=1, text="b"), function(1, text="b"))
    await function(text="b", number=1, flag=False)
    assert calls == [(1, "b", False)]


async def test_many_at_once(cache):
    function, calls = counting(cache)
    results = await asyncio.gather(*(function(n % 3) for n in range(300)))
    assert sorted(set(results)) == ["0aFalse", "1aFalse", "2aFalse"]
    assert len(calls) == 3


async def test_invalidate_and_refresh(cache):
    function, calls = counting(cache, key="n:{number}")
    assert not await function.invalidate(1)
    await function(1)
    assert await function.invalidate(1)
    await function(1)
    assert len(calls) == 2
    assert await function.refresh(1, "z") == "1zFalse"
    assert await function(1) == "1zFalse"
    assert len(calls) == 3
    assert await cache.get(function.key_for(1)) == "1zFalse"


@within(10)
async def test_invalidated_while_it_is_computed(cache):
    go, values = asyncio.Event(), ["new", "old"]

    @cached(cache, key="k")
    async def read():
        value = values.pop()
        if value == "old":
            await go.wait()
        return value

    early = asyncio.create_task(read())
    while len(values) == 2:
        await asyncio.sleep(0.001)
    await read.invalidate()
    assert await read() == "new"
    go.set()
    assert await early == "old"
    assert await read() == "new"


async def test_ttl(client, cache):
    function, calls = counting(cache, ttl=datetime.timedelta(0))
    await function(1)
    await function(1)
    assert len(calls) == 2
    function, calls = counting(Cache(client, prefix=cache.wire_key("x")))
    await function(1)
    await function(1)
    assert len(calls) == 1


async def test_none_and_store_if(cache):
    calls = []

    @cached(cache, key="nothing")
    async def nothing():
        calls.append(1)

    @cached(cache, key="not_nothing", store_if=lambda value: value is not None)
    async def not_nothing():
        calls.append(1)

    await nothing()
    await nothing()
    assert len(calls) == 1
    await not_nothing()
    await not_nothing()
    assert len(calls) == 3


async def test_exceptions(cache):
    calls = []

    @cached(cache, key="k")
    async def fails():
        calls.append(1)
        await asyncio.sleep(0.01)
        raise LookupError(len(calls))

    first = await outcomes(fails(), fails(), fails())
    assert [type(error) for error in first] == [LookupError] * 3
    assert len(calls) == 1
    with pytest.raises(LookupError, match="2"):
        await fails()


@dataclasses.dataclass
class Point:
    x: int


class Model(pydantic.BaseModel):
    x: int


class Account:
    def __init__(self, **fields):
        vars(self).update(fields)


class Color(enum.Enum):
    RED = 1


class Permission(enum.IntFlag):
    READ = 1
    WRITE = 2


class Other:
    """Of another module, as far as anybody can tell."""

    Color = enum.Enum("Color", "RED", module="elsewhere", qualname="Color")


class Spoken:
    def __str__(self):
        return "x:y"


NAME = f"{__name__}.function"


def keys_of(signature_source, **options):
    namespace = {"__name__": __name__}
    exec(f"async def function({signature_source}): ...", namespace)
    return cached(lambda: None, **options)(namespace["function"]).key_for


@pytest.mark.driver_independent
@pytest.mark.parametrize(
    ("signature", "args", "key"),
    [
        ("", (), ":"),
        ("a, b=2", (1,), ":a=1,b=2"),
        ("a", (None,), ":a=None"),
        ("a", (True,), ":a=True"),
        ("a", (1.5,), ":a=1.5"),
        ("a", ("x",), ":a='x'"),
        ("a", ("\r\n",), r":a='\r\n'"),
        ("a", (b"x",), ":a=b'x'"),
        ("a", (Color.RED,), f":a={__name__}.Color.RED"),
        ("a", (Permission.READ,), f":a={__name__}.Permission.READ"),
        ("a", (Permission(8),), f":a={__name__}.Permission.8"),
        ("a", ((1, ("b",)),), ":a=(1,('b'))"),
        ("*a", (1, 2), ":a=(1,2)"),
        ("a", (uuid.UUID(int=5),), f":a=UUID('{uuid.UUID(int=5)}')"),
        ("a", (decimal.Decimal("1.50"),), ":a=Decimal('1.50')"),
    ],
)
def test_keys_by_themselves(signature, args, key):
    assert keys_of(signature)(*args) == NAME + key


@pytest.mark.driver_independent
@pytest.mark.parametrize(
    "value", ["two words", "ключ", "x" * 100, datetime.datetime(2026, 1, 1), b"\xff" * 99]
)
def test_keys_by_themselves_are_always_taken(value):
    key = keys_of("a")(value)
    assert re.fullmatch(re.escape(NAME) + ":#sha256:[0-9a-f]{64}", key)
    assert key != keys_of("a")("other words")


@pytest.mark.driver_independent
def test_keys_by_themselves_tell_apart():
    key_for = keys_of("a, **more")
    values = [1, "1", b"1", 1.0, True, None, "None", (1,), ("1",), "a=1", Color.RED, "Color.RED"]
    values += [Other.Color.RED, *map(Permission, range(33))]
    assert len({key_for(value) for value in values}) == len(values)
    assert key_for(1, b=2, c=3) == key_for(1, c=3, b=2) != key_for(1, b=3, c=2)


class Named(tuple):
    pass


class Text(str):
    pass


class Number(int):
    def __repr__(self):
        return "5"


def local_enum(value):
    class Local(enum.Enum):
        MEMBER = value

    return Local.MEMBER


# Two of them could have the same name.
Unnamed = enum.Enum("Named", "MEMBER")


class Zone(datetime.tzinfo):
    def utcoffset(self, when):
        return datetime.timedelta(hours=1)

    def __repr__(self):
        return "a zone"


@pytest.mark.driver_independent
@pytest.mark.parametrize(
    "value",
    [
        *([1], {1}, object(), {"a": [1]}, ([],), len, frozenset({1}), bytearray(b"a"), range(3)),
        *(Named((1,)), Text("a"), Number(6), {Text("a"): 1}, {1: 2}, 1j, Account(a=1), int, ...),
        *(local_enum(1), Unnamed.MEMBER, Point(1), Model(x=1), [], set()),
    ],
)
def test_arguments_that_are_in_no_key(value):
    with pytest.raises(TypeError, match=r"argument a is a .*pass key="):
        keys_of("a")(value)


@pytest.mark.driver_independent
def test_time_zones_in_keys():
    key_for = keys_of("a")
    zones = [None, datetime.UTC, ZoneInfo("Europe/Berlin"), ZoneInfo("Europe/Paris")]
    zones += [datetime.timezone(datetime.timedelta(hours=1)), ZoneInfo("UTC")]
    moments = [datetime.datetime(2026, 10, 25, 2, fold=f, tzinfo=z) for z in zones for f in (0, 1)]
    moments += [datetime.time(2, tzinfo=zone) for zone in zones]
    assert len({key_for(moment) for moment in moments}) == len(moments)
    for moment in (datetime.datetime(2026, 1, 1, tzinfo=Zone()), datetime.time(1, tzinfo=Zone())):
        with pytest.raises(TypeError, match=r"a has a time zone of type Zone.* or pass key="):
            key_for(moment)


@pytest.mark.driver_independent
@pytest.mark.parametrize(
    ("signature", "key", "args", "is_"),
    [
        ("user_id", "user:{user_id}", (5,), "user:5"),
        ("a, b='x'", "{a}:{b}", (1,), "1:x"),
        ("session, n", "n:{n}", (object(), 1), "n:1"),
        ("c", "{c.name}", (Color.RED,), "RED"),
        ("d", "{d[x]:03d}", ({"x": 7},), "007"),
        ("n", lambda n: f"f{n}", (3,), "f3"),
        ("", "constant", (), "constant"),
        ("a, b", "u:{a}:{b}", ("x:y", "z%"), "u:x%3Ay:z%25"),
        ("a, b", "{a}/{b}", ("x/y", "é.-_"), "x%2Fy/é.-_"),
        ("a, b", "{a}-{b}", (-1, -2.5), "%2D1-%2D2.5"),
        ("a", "{a}", (-1.5,), "-1.5"),
        ("a", "{a}", (datetime.datetime(2026, 1, 1),), "2026-01-01%2000:00:00"),
        ("a", "{a!s}", (datetime.datetime(2026, 1, 1),), "2026-01-01%2000%3A00%3A00"),
        ("a", "{a}", (datetime.timedelta(1),), "1%20day,%200:00:00"),
        ("a", "{a:5d}", (7,), "%20%20%20%207"),
        ("a, b", "{a}x{b}", ("1x2", 3), "1%782x3"),
        ("a, b", "{a:>{b}}", (7, 3), "%20%207"),
        ("a, b", "{a:%d.%m}.{b}", (datetime.date(2026, 1, 2), 3), "02%2E01.3"),
        ("a", "{a}", ("x:/",), "x%3A/"),
        ("a", "{a!r:>5}", ("x:",), " 'x%3A'"),
        ("a", "{{{a}}}", ("x}",), "{x%7D}"),
        ("a", "{a:%Y-%m-%dT%H:%M}", (datetime.datetime(2026, 1, 1),), "2026-01-01T00:00"),
    ],
)
def test_keys_as_they_are_told(signature, key, args, is_):
    assert keys_of(signature, key=key)(*args) == is_


@pytest.mark.driver_independent
def test_told_keys_tell_apart():
    texts = ["", ":", "%", "%3A", "x", "x:", ":x", "x%3A", "/", "%2F", b":", Spoken()]
    for template in ("u:{a}:{b}", "{a}/{b}", "{a}:/{b}"):
        key_for = keys_of("a, b", key=template)
        assert len({key_for(a, b) for a in texts for b in texts}) == len(texts) ** 2


VALUES = [
    *(1, -1, 0, 10, 1.5, -1.5, 2.25, 5.2, 1e22, 1e-7, True, None, decimal.Decimal("-7.50")),
    *("", "1.5x", "-1x", "x", "a", "%", "%2E", "1x2", "2026-01-01x", "day,", "T", ":"),
    datetime.date(2026, 1, 1),
    datetime.datetime(2026, 1, 1),
    datetime.datetime(2026, 1, 1, 0, 0, 1, 5),
    datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone(-datetime.timedelta(hours=5))),
    datetime.time(1, 2),
    datetime.time(1, 2, 3),
    datetime.timedelta(days=-1),
    datetime.timedelta(days=1, seconds=2),
    uuid.UUID(int=5),
    Color.RED,
    b"x",
    (1, 2),
    (1, (2, 3)),
]
SEPARATORS = [
    ".",
    "-",
    ":",
    "/",
    "T",
    "x",
    "Z",
    "--",
    "-T-",
    "%:",
    "_",
    ",",
    "e",
    "+",
    " ",
    "1.",
    "ü",
]


@pytest.mark.driver_independent
@pytest.mark.parametrize("separator", SEPARATORS)
@pytest.mark.parametrize(
    "form",
    [
        "k{separator}{{a}}{separator}{{b}}",
        "{{a}}{separator}{{b}}%",
        "{{a!s}}{separator}{{b!r}}",
        "{{a}}{separator}{{c.b}}",
        "{{c.a}}{separator}{{d[b]}}",
        "{{d[a]!s:s}}{separator}{{c.b}}",
    ],
)
def test_told_keys_tell_all_values_apart(form, separator):
    key_for = keys_of("a, b, c, d", key=form.format(separator=separator))
    keys = {}
    for a in VALUES:
        for b in VALUES:
            key = key_for(a, b, Account(a=a, b=b), {"a": a, "b": b})
            keys.setdefault(key, []).append((a, b))
    assert [pairs for pairs in keys.values() if len(pairs) > 1] == []


@pytest.mark.driver_independent
@pytest.mark.parametrize("key", ["{a}", "x:{a!r}", "{a!s}:{b}", "{b}:{c[0]}", "{c}"])
@pytest.mark.parametrize("value", [object(), Account(a=1), lambda: 1, local_enum, [object()]])
def test_told_keys_have_no_addresses(key, value):
    key_for = keys_of("a, b, c", key=key)
    with pytest.raises(TypeError, match=r"is its memory address.* use one of its attributes"):
        key_for(value, 1, [value])
    assert key_for("<x at 0x12>", 1, ["x"])


TIMES = [value for value in VALUES if type(value).__module__ == "datetime"]


@pytest.mark.parametrize("template", ["day:{a}", "{a}.{b}", "{a}-{b}", "{a!s}:{b}"])
async def test_keys_of_times_are_taken(cache, template):
    @cached(cache, key=template)
    async def function(a, b=-1.5):
        return str(a)

    for time in TIMES:
        assert await function(time) == str(time) == await function(time)


@pytest.mark.driver_independent
@pytest.mark.parametrize(
    "key", ["{a}{b}", "{a}1{b}", "{a}F{b}", "{a}%{b}", "k:{a}{b}", "{a}:{b}{a}", "{a}%20{b}"]
)
def test_told_keys_that_could_not_tell_apart(key):
    with pytest.raises(
        TypeError, match=r"put a separator such as ':' between \{[ab]\} and \{[ab]\}"
    ):
        keys_of("a, b", key=key)


@pytest.mark.driver_independent
def test_wrong_decorations():
    for key in ("{b}", "{0}", "{}", "{self.id}", "{a:{b}}"):
        with pytest.raises(TypeError, match="has no parameter"):
            keys_of("a", key=key)
    for parameters in ("a", "self", "*args", "a=1, **kwargs"):
        with pytest.raises(TypeError, match=r"key 'k' gives all calls .* add fields for "):
            keys_of(parameters, key="k")
    assert keys_of("", key="k")() == keys_of("a", key=lambda a: "k")(1) == "k"
    with pytest.raises(TypeError, match="is a method"):
        keys_of("self, a")
    for function in (lambda: 5, "f", functools.partial(print)):
        with pytest.raises(
            TypeError, match=r"needs an async function.*emcache\.sync\.cached is for"
        ):
            cached(lambda: None)(function)
    for source in (5, Cache, int):
        with pytest.raises(TypeError, match=r"must be an emcache\.Cache"):
            cached(source)
    with pytest.raises(TypeError, match=r"write @cached\(cache\)"):

        @cached
        async def without_a_cache():
            pass

    with pytest.raises(TypeError, match="key must be a str or a function, not int"):
        cached(lambda: None, key=5)
    with pytest.raises(TypeError, match="store_if must be a function, not bool"):
        cached(lambda: None, store_if=True)
    with pytest.raises(TypeError, match="'ttl' has incorrect type"):
        cached(lambda: None, ttl="60")
    with pytest.raises(ValueError, match="on_error"):
        cached(lambda: None, on_error="ignore")
    with pytest.raises(ValueError, match="time zone"):
        cached(lambda: None, ttl=datetime.datetime(2026, 1, 1))


async def test_a_source_that_gives_no_cache(client):
    function, calls = counting(lambda: client)
    for call in (function, function.refresh, function.invalidate):
        with pytest.raises(TypeError, match=r"an emcache\.Cache or None, not emcache\.Client"):
            await call(1)
    assert calls == []


async def test_wrong_arguments_are_as_wrong_as_without(cache):
    @cached(cache)
    async def by_itself(number):
        raise AssertionError

    told, calls = counting(cache)
    for function in (told, by_itself):
        with pytest.raises(TypeError):
            await function()
        with pytest.raises(TypeError):
            await function(1, wrong=1)
    assert calls == []


async def test_an_unsafe_key_is_an_error_unless_hashed(client, key):
    function, calls = counting(Cache(client, prefix=key), key="{text}")
    with pytest.raises(emcache.InvalidKeyError):
        await function(1, "two words")
    function, calls = counting(Cache(client, prefix=key, keys="hash"), key="{text}")
    assert await function(1, "two words") == await function(1, "two words")
    assert len(calls) == 1


@pytest.mark.driver_independent
def test_it_looks_like_the_function():
    async def documented(a: int) -> str:
        """What it does."""

    function = cached(lambda: None)(documented)
    assert function.__name__ == "documented"
    assert function.__doc__ == "What it does."
    assert function.__wrapped__ is documented
    assert inspect.signature(function) == inspect.signature(documented)
    assert "documented" in repr(function)
    assert inspect.iscoroutinefunction(function.__call__)
    if hasattr(inspect, "markcoroutinefunction"):
        assert inspect.iscoroutinefunction(function)
    if sys.version_info < (3, 12):
        assert asyncio.iscoroutinefunction(function)  # what Django asks


class Shop:
    def __init__(self, number, cache):
        self.number = number
        self.cache = cache
        self.asked = []

    @cached(lambda: Shop.current, key="shop:{self.number}:{item}")
    async def price(self, item):
        """The price."""
        self.asked.append(item)
        return len(item)

    current = None


async def test_methods(cache, monkeypatch):
    monkeypatch.setattr(Shop, "current", cache)
    one, other = Shop(1, cache), Shop(2, cache)
    for _ in range(2):
        assert await one.price("tea") == 3
        assert await Shop.price(one, "tea") == 3
        assert await other.price(item="milk") == 4
    assert (one.asked, other.asked) == (["tea"], ["milk"])
    assert one.price.key_for("tea") == Shop.price.key_for(one, "tea") == "shop:1:tea"
    assert await one.price.invalidate("tea")
    assert not await other.price.invalidate("tea")
    assert await one.price.refresh("tea") == 3
    assert one.asked == ["tea", "tea"]
    assert one.price.__doc__ == "The price."


async def test_a_cache_of_the_moment(client, key):
    current = contextvars.ContextVar("current", default=None)
    function, calls = counting(current.get)
    for _ in range(2):
        await function(1)
        assert await function.refresh(1) == "1aFalse"
        assert not await function.invalidate(1)
    assert len(calls) == 4
    current.set(Cache(client, prefix=key))
    await function(1)
    await function(1)
    assert len(calls) == 5
    # A new one for each call is as good.
    fresh, calls = counting(lambda: Cache(client, prefix=key + b":fresh:"))
    await asyncio.gather(*(fresh(1) for _ in range(50)))
    assert len(calls) == 1


def test_one_function_in_two_loops(server, key):
    current = []
    function, calls = counting(lambda: current[-1])

    async def main():
        async with emcache.create_client([server.address]) as client:
            current.append(Cache(client, prefix=key))
            return await function(1)

    assert asyncio.run(main()) == asyncio.run(main()) == "1aFalse"
    assert len(calls) == 1


@within(20)
async def test_a_dead_cache(key, caplog):
    with memcached() as own:
        async with emcache.create_client([own.address], timeout=2) as client:
            cache = Cache(client, prefix=key)
            function, calls = counting(cache)
            strict, _ = counting(cache, on_error="raise")
            await function(1)
            own.kill()
            with caplog.at_level(logging.WARNING, "emcache"):
                results = await asyncio.gather(*(function(1) for _ in range(20)))
                await function(1)
            assert set(results) == {"1aFalse"}
            assert len(calls) == 3
            said = [r for r in caplog.records if "counts as a miss" in r.getMessage()]
            assert 1 <= len(said) <= 2
            with pytest.raises(emcache.ConnectionFailedError):
                await strict(1)
            # What is old may still be there: nobody is to believe that it is not.
            with pytest.raises(emcache.ConnectionFailedError):
                await function.invalidate(1)
            assert await function.refresh(1) == "1aFalse"
        assert await function(1) == "1aFalse"  # after close(), too


def secret(point):
    raise TypeError("secret")


class OwnSerializer:
    def dumps(self, value):
        raise KeyError("secret")

    def loads(self, data, flags):
        raise AssertionError


RESULTS = {
    "dataclass": (Json(), Point(1), "Object of type Point is not JSON serializable; Json accepts"),
    "model": (Json(), Model(x=1), "Object of type Model is not JSON serializable; Json accepts"),
    "in a list": (
        Json(),
        [Point(1)],
        "of type list, cannot be stored: TypeError: Object of type P",
    ),
    "a key": (Json(), {(1, 2): 3}, "keys must be str, int, float, bool or None, not tuple"),
    "not a number": (Json(), float("nan"), "ValueError: Out of range float values"),
    "an int as text": (Utf8(), 5, "int is not str; Utf8 accepts str; pass"),
    "text as bytes": (Raw(), "text", "str is not bytes; Raw accepts bytes; pass"),
    "half a character": (Utf8(), "\ud800", "UnicodeEncodeError; Utf8 accepts"),
    "msgpack": (MsgPack(), Point(1), "'Point' object; MsgPack accepts dict, list"),
    "pickle": (Pickle(), lambda: None, "Pickle accepts objects whose class"),
    "pymemcache": (Pymemcache(), Point(1), "pass pickle=True to allow it"),
    "dumps": (
        Json(dumps=secret, loads=str),
        Point(1),
        "TypeError; Json accepts the values that its dumps",
    ),
    "no bytes": (Json(dumps=len, loads=str), "abc", "dumps must return str or bytes, not int"),
    "own": (OwnSerializer(), 5, "KeyError; pass a value that OwnSerializer accepts"),
}


@pytest.mark.parametrize(("serializer", "value", "says"), RESULTS.values(), ids=RESULTS)
@pytest.mark.parametrize("on_error", ["miss", "raise"])
async def test_a_result_that_the_serializer_does_not_take(
    client, key, caplog, serializer, value, says, on_error
):
    cache = Cache(client, serializer=serializer, prefix=key)

    @cached(cache, key="{number}", on_error=on_error)
    async def function(number):
        await asyncio.sleep(0.01)
        return value

    # Each refresh would keep those before it from being stored.
    for call, times in ((function, 3), (function.refresh, 1)):
        errors = await outcomes(*(call(1) for _ in range(times)))
        for error in errors:
            assert isinstance(error, emcache.SerializationError), error
            assert f"of type {type(value).__name__}, cannot be stored: " in str(error)
            assert says in str(error)
            assert "secret" not in str(error)
        assert len(set(map(id, errors))) == times
    assert caplog.records == []


async def test_a_result_that_is_not_to_be_stored_may_be_anything(cache):
    @cached(cache, key="k", store_if=lambda value: False)
    async def function():
        return Point(1)

    assert await function() == Point(1)
