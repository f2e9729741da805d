"""`emcache.Cache` and `emcache.cached` as users write them, for `mypy --strict` and pytest."""

import dataclasses
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

import pytest
import pytest_asyncio

import emcache
from emcache import Cache, cached
from emcache.cache import (
    CachedFunction,
    CacheInfo,
    Json,
    Lock,
    MsgPack,
    Options,
    Pickle,
    Pymemcache,
    RateLimitResult,
    Raw,
    Serializer,
    TagSnapshot,
    Typed,
    Utf8,
    Zlib,
    cached_many,
)
from emcache.cache._counts import Reason


@dataclasses.dataclass
class User:
    name: str
    age: int


class Users:
    """A serializer without a base class."""

    def dumps(self, value: User) -> tuple[bytes, int]:
        return f"{value.name},{value.age}".encode(), 1

    def loads(self, data: bytes, flags: int) -> User:
        if flags != 1:
            raise ValueError("no user")
        name, age = data.decode().split(",")
        return User(name, int(age))


def encode_user(user: User) -> str:
    return json.dumps(dataclasses.asdict(user))


def decode_user(data: bytes) -> User:
    return User(**json.loads(data))


@pytest_asyncio.fixture
async def client(server: Any) -> AsyncIterator[emcache.Client]:
    node = emcache.MemcachedHostAddress("127.0.0.1", server.port)
    async with emcache.create_client([node]) as running:
        yield running


async def test_what_a_cache_is_of(client: emcache.Client, key: bytes) -> None:
    assert_type(Cache(client), Cache[Any])
    assert_type(Cache(client, serializer=Json()), Cache[Any])
    assert_type(Cache(client, serializer=MsgPack(), compression=Zlib()), Cache[Any])
    assert_type(Cache(client, serializer=Pickle()), Cache[Any])
    assert_type(Cache(client, serializer=Pymemcache(pickle=True)), Cache[Any])
    assert_type(Cache(client, serializer=Raw()), Cache[bytes])
    assert_type(Cache(client, serializer=Utf8()), Cache[str])
    assert_type(Cache(client, serializer=Users()), Cache[User])
    assert_type(Cache(client, serializer=Typed(User)), Cache[User])
    users: Typed[list[User]] = Typed(list[User])
    assert_type(Cache(client, serializer=users), Cache[list[User]])
    assert_type(Json(dumps=encode_user, loads=decode_user), Json[User])
    cache: Cache[User] = Cache(client, prefix=key)
    assert_type(cache, Cache[User])
    serializer: Serializer[str] = Utf8(flags=0)
    assert_type(Cache(client, serializer=serializer, ttl=timedelta(minutes=1)), Cache[str])


async def test_commands(client: emcache.Client, key: bytes) -> None:
    cache = Cache(client, serializer=Users(), prefix=key, keys="hash")
    ada = User("Ada", 36)
    assert_type(await cache.set("ada", ada, ttl=60), None)
    assert_type(await cache.get("ada"), User | None)
    assert_type(await cache.get("ada", ada), User)
    assert_type(await cache.get(b"ada", "nobody"), User | str)
    assert_type(await cache.get_many(["ada", "bob"]), dict[str, User])
    assert_type(await cache.get_many({b"ada"}), dict[bytes, User])
    partial = await cache.get_many(["ada"], on_error="partial")
    assert_type(partial, emcache.PartialResult[str, User])
    assert_type(partial.errors, dict[str, Exception])
    assert_type(await cache.get_with_cas("ada"), tuple[User, int] | None)
    assert_type(await cache.get_and_touch("ada", timedelta(hours=1)), User | None)
    assert_type(await cache.add("ada", ada), bool)
    assert_type(await cache.replace("ada", ada, ttl=datetime.now(UTC) + timedelta(1)), bool)
    assert_type(await cache.cas("ada", ada, 1), bool)
    assert_type(await cache.touch("ada", 60), bool)
    assert_type(await cache.set_many({"a": ada}), dict[str, Exception])
    assert_type(await cache.delete_many(["a"]), dict[str, Exception])
    assert_type(await cache.delete("ada"), bool)
    assert_type(await cache.increment("n"), int | None)
    assert_type(cache.wire_key("ada"), bytes)
    assert_type(cache.client, emcache.Client)
    with pytest.raises(emcache.SerializationError):
        await cache.set("ada", "a str")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        await cache.get(5)  # type: ignore[call-overload]


async def test_get_or_set(client: emcache.Client, key: bytes) -> None:
    cache = Cache(client, serializer=Utf8(), prefix=key)

    async def load() -> str:
        return "loaded"

    assert_type(await cache.get_or_set("k", load, ttl=5), str)
    assert_type(await cache.renew("k", load, store_if=lambda text: bool(text)), str)

    async def number() -> int:
        return 5

    with pytest.raises(emcache.SerializationError):
        await cache.get_or_set("n", number, on_error="raise")  # type: ignore[arg-type]


async def test_options(client: emcache.Client, key: bytes) -> None:
    options: Options = {"refresh": 5, "stale_for": 60, "jitter": 0.1, "ttl": lambda text: len(text)}
    cache = Cache(client, serializer=Utf8(), prefix=key, lease=10, on_lost="raise", name="texts")

    async def load() -> str:
        return "loaded"

    info = CacheInfo()
    assert_type(await cache.get_or_set("k", load, info=info, **options), str)
    assert_type(info.not_stored, Reason | None)
    assert_type(await cache.invalidate("k", stale_for=60), bool)
    with pytest.raises(TypeError):
        await cache.get_or_set("k", load, refreshed=5)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="on_lost"):
        await cache.get_or_set("k", load, on_lost="wait")  # type: ignore[arg-type]


async def test_many(client: emcache.Client, key: bytes) -> None:
    cache = Cache(client, serializer=Utf8(), prefix=key)

    async def load(keys: list[str]) -> dict[str, str]:
        return dict.fromkeys(keys, "loaded")

    assert_type(await cache.get_or_set_many(["a", "b"], load, ttl=5), dict[str, str])

    @cached_many(cache, key="user:{id}", ttl=60)
    async def names(ids: list[int], suffix: str = "") -> dict[int, str]:
        return {number: f"{number}{suffix}" for number in ids}

    assert_type(await names({1, 2}, suffix="!"), dict[int, str])
    await names.invalidate(1)
    assert_type(names.key_for(1), str)
    with pytest.raises(TypeError):
        await names([1], 2, 3)  # type: ignore[call-arg, arg-type]


async def test_cached(client: emcache.Client, key: bytes) -> None:
    cache: Cache[Any] = Cache(client, prefix=key)

    @cached(cache, ttl=60)
    async def age(name: str, *, rest: int = 0) -> int:
        return len(name) + rest

    assert_type(await age("Ada", rest=1), int)
    assert_type(await age.refresh("Ada"), int)
    assert_type(age.key_for("Ada"), str)
    assert_type(await age.invalidate("Ada"), bool)
    assert_type(await age.with_info("Ada"), tuple[int, CacheInfo])
    with pytest.raises(TypeError):
        await age()  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        await age("Ada", 1)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        await age("Ada", rest="1")  # type: ignore[arg-type]
    plain: Callable[[str], Awaitable[int]] = age
    assert await plain("Bob") == 3

    with pytest.raises(TypeError):

        @cached(cache)  # type: ignore[arg-type]
        def not_async(name: str) -> str:
            return name


async def test_methods(client: emcache.Client, key: bytes) -> None:
    current: list[Cache[Any]] = []

    class Shop:
        number = 7

        @cached(lambda: current[0] if current else None, key="shop:{self.number}:{item}")
        async def price(self, item: str) -> float:
            return 1.5

    shop = Shop()
    bound: CachedFunction[[str], float] = shop.price
    assert_type(await bound("tea"), float)
    assert_type(await shop.price("tea"), float)
    current.append(Cache(client, prefix=key))
    assert_type(await shop.price("tea"), float)
    assert await shop.price.invalidate("tea")
    assert Shop.price.key_for(shop, "tea") == "shop:7:tea"
    with pytest.raises(TypeError):
        await shop.price(1, 2)  # type: ignore[call-arg, arg-type]


async def test_tags_locks_and_limits(client: emcache.Client, key: bytes) -> None:
    cache = Cache(client, serializer=Users(), prefix=key, tags=["all"])
    ada = User("Ada", 36)
    assert_type(await cache.set("ada", ada, tags=["t"]), None)
    assert_type(await cache.get("ada", tags=["t"]), User | None)
    assert_type(await cache.get("ada", 0, tags=["t"]), User | int)
    assert_type(await cache.get_many(["ada"], tags=["t"]), dict[str, User])
    snapshot = await cache.read_tags(["t"])
    assert_type(snapshot, TagSnapshot)
    assert_type(await cache.set_many({"ada": ada}, tags=snapshot), dict[str, Exception])
    assert_type(await cache.invalidate_tag("t"), None)
    assert_type(await cache.invalidate_tags(["t", b"all"]), None)
    async with cache.lock("work", ttl=timedelta(minutes=1), wait=0.5) as lock:
        assert_type(lock, Lock)
        assert_type(lock.owned, bool)
        assert_type(await lock.extend(), bool)
    result = await cache.rate_limit("api", 5, per=60, window="sliding").hit()
    assert_type(result, RateLimitResult)

    @cached(cache, key="user:{name}", tags=["user:{name}"])
    async def load(name: str) -> User:
        return User(name, 1)

    assert_type(await load("Ada"), User)
    assert_type(load.tags_for("Ada"), list[str | bytes])
