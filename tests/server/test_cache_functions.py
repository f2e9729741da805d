"""Which functions have a key by themselves: never the same one for two of them."""

import asyncio
import contextlib
import functools
import importlib
import inspect
import runpy
import sys
import textwrap

import pytest

from emcache import Cache, cached
from emcache.cache._call_keys import NAME_LENGTH

pytestmark = pytest.mark.driver_independent

no_cache = cached(lambda: None)


def made_by(tenant):
    async def load(user_id):
        return f"user {user_id} of {tenant}"

    return load


def made_in_a_loop():
    loaders = []
    for tenant in ("north", "south"):

        async def load(user_id):
            return f"user {user_id} of {tenant}"  # noqa: B023 - that is the point

        loaders.append(load)
    return loaders[1]


def nested_without_variables():
    async def load(user_id):
        return user_id

    return load


def with_tenant(tenant):
    def decorate(function):
        @functools.wraps(function)
        async def wrapper(*args):
            return tenant, await function(*args)

        return wrapper

    return decorate


def retried(function):
    @functools.wraps(function)
    async def wrapper(*args):
        return await function(*args)

    return wrapper


def timed(function):
    @functools.wraps(function)
    async def wrapper(*args):
        started = asyncio.get_running_loop().time()
        return await function(*args), started

    return wrapper


async def plain(user_id):
    return user_id


async def plain_as_well(user_id):
    return user_id


async def decorated(user_id):
    return user_id


async def decorated_twice(user_id):
    return user_id


class Shop:
    def __init__(self, number):
        self.number = number

    async def price(self, item):
        return self.number, item

    async def named_otherwise(this, item):  # noqa: N805
        return this.number, item

    @classmethod
    async def of_class(cls, item):
        return cls.__name__, item

    @staticmethod
    async def static(item):
        return item

    async def __call__(self, item):
        return self.number, item


class MarkedShop(Shop):
    def __init__(self, number):
        super().__init__(number)
        inspect.markcoroutinefunction(self)


AMBIGUOUS = {
    "a closure": (lambda: made_by("north"), "uses tenant from the enclosing function"),
    "made in a loop": (made_in_a_loop, "uses tenant from the enclosing function"),
    "a partial": (lambda: functools.partial(plain), "a partial of .*plain is not a plain function"),
    "a bound method": (lambda: Shop(1).price, "bound method .*Shop.price is not a plain function"),
    "of a class": (lambda: Shop.of_class, "bound method .*Shop.of_class is not a plain function"),
    "a method": (lambda: Shop.price, "Shop.price is a method"),
    "decorated with arguments": (lambda: with_tenant("north")(plain), "uses tenant from"),
    "a decorated closure": (lambda: retried(made_by("north")), "uses tenant from"),
    "a decorated partial": (
        lambda: functools.wraps(functools.partial(plain))(made_by("north")),
        "wraps a partial of .*plain|uses tenant",
    ),
    "a decorated method": (lambda: retried(Shop(1).price), "wraps the bound method .*Shop.price"),
}


@pytest.mark.parametrize(("make", "why"), AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_that_cannot_be_told_apart_need_a_key(make, why):
    with pytest.raises(TypeError, match=f"{why}.*pass key="):
        no_cache(make())
    parameters = list(inspect.signature(make()).parameters)
    told = cached(lambda: None, key=f"n:{{{parameters[-1]}}}")(make())
    assert told.key_for(*range(len(parameters))) == f"n:{len(parameters) - 1}"


@pytest.mark.skipif(
    not hasattr(inspect, "markcoroutinefunction"), reason="Python 3.12 marks objects as async"
)
def test_objects_that_are_called_need_a_key():
    with pytest.raises(TypeError, match=r"a MarkedShop is not a plain function.*pass key="):
        no_cache(MarkedShop(1))


def test_objects_that_are_called_are_no_async_functions():
    for each in (Shop(1), Shop, staticmethod(plain), functools.partialmethod(plain)):
        with pytest.raises(TypeError, match="needs an async function"):
            no_cache(each)


def test_each_has_a_key_of_its_own():
    functions = [plain, plain_as_well, Shop.static, nested_without_variables()]
    keys = [no_cache(function).key_for(1) for function in functions]
    assert len(set(keys)) == len(keys)
    # Again and again, by whatever cache.
    assert [cached(lambda: None, ttl=5)(each).key_for(1) for each in functions] == keys
    assert no_cache(nested_without_variables()).key_for(1) == keys[-1]


def test_a_decorator_without_arguments_is_seen_through():
    assert no_cache(retried(decorated)).key_for(1) == f"{__name__}.decorated:user_id=1"
    assert (
        no_cache(retried(retried(decorated_twice)))
        .key_for(1)
        .endswith(".decorated_twice:user_id=1")
    )
    # These return something else, under the same name.
    for other in (timed(decorated), retried(retried(decorated)), decorated):
        with pytest.raises(TypeError, match="has the same name as another cached function"):
            no_cache(other)


def test_two_of_one_name():
    async def load(user_id):
        return 1

    first = load

    async def load(user_id):
        return 2

    no_cache(first)
    with pytest.raises(
        TypeError, match=r"load has the same name as another cached function.*pass key="
    ):
        no_cache(load)
    no_cache(first)


MODULE = """
    import emcache

    {before}
    @emcache.cached(lambda: None)
    async def load(number):
        return {result}
    {after}
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module whose source is written anew, and that is imported anew."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    name = f"cached_module_{tmp_path.name}".replace("-", "_")

    def write(before="", result="1", after="", name=name):
        source = textwrap.dedent(MODULE).format(before=before, result=result, after=after)
        (tmp_path / f"{name}.py").write_text(source)
        importlib.invalidate_caches()
        return name

    yield write
    for each in [each for each in sys.modules if each.startswith("cached_module_")]:
        del sys.modules[each]


def test_a_module_that_is_loaded_again(module):
    name = module()
    loaded = importlib.import_module(name)
    key = loaded.load.key_for(1)
    assert importlib.reload(loaded).load.key_for(1) == key
    module(before="\n# edited", result="'two'")
    assert importlib.reload(loaded).load.key_for(1) == key
    assert asyncio.run(loaded.load(1)) == "two"
    del sys.modules[name]
    module(before="\n\n\n", result="3")
    assert importlib.import_module(name).load.key_for(1) == key


TWICE = """
@emcache.cached(lambda: None)
async def load(number):
    return 2
"""
IN_A_LOOP = """
loaders = []
for tenant in ("north", "south"):
    @emcache.cached(lambda: None)
    async def load_of_tenant(number{default}):
        return number, tenant
    loaders.append(load_of_tenant)
"""


@pytest.mark.parametrize("after", [TWICE, IN_A_LOOP.format(default="")])
def test_two_of_one_name_in_a_module(module, after):
    with pytest.raises(TypeError, match=r"has the same name as another cached function.*pass key="):
        importlib.import_module(module(after=after))


def test_in_a_loop_with_what_they_differ_by(module):
    loaded = importlib.import_module(module(after=IN_A_LOOP.format(default=", tenant=tenant")))
    assert len({load.key_for(1) for load in loaded.loaders}) == 2


def test_a_module_with_a_long_or_odd_name(module):
    long = importlib.import_module(module(name="cached_module_" + "x" * NAME_LENGTH))
    odd = importlib.import_module(module(name="cached_module_ключ"))
    for loaded in (long, odd):
        assert len(loaded.load.key_for("x" * 1000).encode()) < 200
    assert long.load.key_for(1) != odd.load.key_for(1)


def test_in_the_module_that_a_program_begins_with(module, tmp_path):
    """All programs have one of this name."""
    paths = [tmp_path / f"{module(name='first')}.py", tmp_path / f"{module(name='second')}.py"]
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__main__.py").write_text(paths[0].read_text())
    (tmp_path / "package" / "task.py").write_text(paths[0].read_text())
    (tmp_path / "package" / "__init__.py").touch()
    runs = [runpy.run_path(str(path), run_name="__main__") for path in paths]
    runs.append(runpy.run_path(str(paths[0]), run_name="__mp_main__"))
    first, second, spawned = (run["load"].key_for(1) for run in runs)
    assert first == spawned != second
    for name in ("package.task", "package.__main__"):
        run = runpy.run_module(name, run_name="__main__", alter_sys=True)
        assert run["load"].key_for(1) == f"{name}.load:number=1"


def test_in_an_interactive_session():
    namespace = {"__name__": "__main__", "no_cache": no_cache}
    exec("async def load(number): ...", namespace)
    with pytest.raises(TypeError, match=r"load is defined in an interactive session.*pass key="):
        no_cache(namespace["load"])
    assert cached(lambda: None, key="n:{number}")(namespace["load"]).key_for(1) == "n:1"


class Decorated:
    current: Cache | None = None
    asked: list[object] = []

    def __init__(self, number):
        self.number = number

    @cached(lambda: Decorated.current, key="d:{self.number}:{tenant}:{item}")
    async def of_tenant(self, tenant, item):
        self.asked.append((self.number, tenant, item))
        return tenant + item

    north = functools.partialmethod(of_tenant, "north")
    south = functools.partialmethod(of_tenant, "south")

    @staticmethod
    @cached(lambda: Decorated.current)
    async def static(item):
        Decorated.asked.append(item)
        return item

    @classmethod
    @cached(lambda: Decorated.current, key="c:{cls.__name__}:{item}")
    async def of_class(cls, item):
        cls.asked.append((cls.__name__, item))
        return item + cls.__name__


class Derived(Decorated):
    pass


async def test_methods_of_all_kinds(client, key, monkeypatch):
    monkeypatch.setattr(Decorated, "current", Cache(client, prefix=key))
    monkeypatch.setattr(Decorated, "asked", [])
    one, other = Decorated(1), Decorated(2)
    for _ in range(2):
        assert [await one.north("x"), await one.south("x")] == ["northx", "southx"]
        assert [await other.north("x"), await other.south(item="x")] == ["northx", "southx"]
        assert [await Decorated.static("s"), await one.static("s")] == ["s", "s"]
        assert await Decorated.of_class("c") == await one.of_class("c") == "cDecorated"
        assert await Derived.of_class("c") == "cDerived"
    expected = [(n, tenant, "x") for n in (1, 2) for tenant in ("north", "south")]
    assert Decorated.asked == [*expected, "s", ("Decorated", "c"), ("Derived", "c")]
    assert await one.of_tenant.invalidate("north", "x")
    assert not await one.of_tenant.invalidate("north", "x")
    assert await Decorated.static.invalidate("s")


async def test_cached_above_other_decorators(client, key):
    cache = Cache(client, prefix=key)
    calls = []

    @cached(cache, key="above:{user_id}")
    @with_tenant("north")
    async def above(user_id):
        calls.append(user_id)
        return str(user_id)

    @retried
    @cached(cache, key="below:{user_id}")
    async def below(user_id):
        calls.append(user_id)
        return user_id

    for _ in range(2):
        assert list(await above(1)) == ["north", "1"]
        assert await below(2) == 2
    assert calls == [1, 2]


async def test_cached_twice(client, key):
    """A near cache before a far one."""
    near, far = Cache(client, prefix=key + b"n"), Cache(client, prefix=key + b"f")
    inner = cached(far, key="k:{user_id}")(plain)
    with contextlib.suppress(TypeError):  # Python 3.11 does not take it for an async function
        outer = cached(near, key="k:{user_id}")(inner)
        assert await outer(5) == 5
        assert await near.get("k:5") == await far.get("k:5") == 5
