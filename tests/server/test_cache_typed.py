"""Values of one type: the serializer, and the return annotations of cached functions."""

import asyncio
import dataclasses
import datetime
import decimal
import enum
import functools
import sys
import typing
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import msgspec
import pydantic
import pydantic.dataclasses
import pytest

from emcache import Cache, SerializationError, cached
from emcache.cache import Json, MsgPack, Pickle, Raw, Typed, Utf8, cached_many
from emcache.cache._return_types import ReturnType
from emcache.cache._values import _kind
from support.calls import outcomes

if TYPE_CHECKING:
    from somewhere import Unknown


class Color(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


class Model(pydantic.BaseModel):
    x: int


@attrs.define
class Place:
    name: str
    at: Point


class Struct(msgspec.Struct):
    x: int


@pydantic.dataclasses.dataclass
class PydanticPoint:
    x: int


class Aliased(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    user_id: int = pydantic.Field(alias="userId")
    other: int = pydantic.Field(validation_alias="in", serialization_alias="out")

    @pydantic.computed_field
    @property
    def double(self) -> int:
        return 2 * self.user_id


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rich:
    when: datetime.datetime
    day: datetime.date
    uuid: uuid.UUID
    price: decimal.Decimal
    color: Color
    data: bytes
    pair: tuple[int, str]
    tags: frozenset[str]
    by_id: dict[int, Point]
    parent: "Rich | None" = None


@pytest.fixture
def cache(client, key):
    return Cache(client, prefix=key)


T = typing.TypeVar("T")


@dataclasses.dataclass
class Page(typing.Generic[T]):
    items: list[T]


class RichModel(pydantic.BaseModel):
    when: datetime.datetime
    point: Point
    models: list[Model]
    color: Color


RICH = Rich(
    when=datetime.datetime(2026, 1, 2, 3, 4, 5, 6789, datetime.UTC),
    day=datetime.date(2026, 1, 2),
    uuid=uuid.UUID(int=7),
    price=decimal.Decimal("1.50"),
    color=Color.RED,
    data=b"\xff\0",
    pair=(1, "a"),
    tags=frozenset("ab"),
    by_id={1: Point(1)},
)

VALUES = {
    "dataclass": (Point, Point(1, 2)),
    "model": (Model, Model(x=1)),
    "attrs": (Place, Place("home", Point(1))),
    "struct": (Struct, Struct(1)),
    "pydantic dataclass": (PydanticPoint, PydanticPoint(1)),
    "aliases": (Aliased, Aliased(userId=1, **{"in": 2})),
    "all fields": (Rich, RICH),
    "recursive": (Rich, dataclasses.replace(RICH, parent=RICH)),
    "model of models": (
        RichModel,
        RichModel(when=RICH.when, point=Point(1), models=[Model(x=1)], color=Color.RED),
    ),
    "list": (list[Point], [Point(1), Point(2)]),
    "list of models": (list[Model], [Model(x=1)]),
    "dict": (dict[str, Point], {"a": Point(1)}),
    "optional": (Point | None, None),
    "Optional": (typing.Optional[Model], Model(x=1)),  # noqa: UP045
    "tuple": (tuple[Point, int], (Point(1), 2)),
    "generic": (Page[Point], Page([Point(1)])),
    "annotated": (Annotated[Point, "doc"], Point(1)),
    "no model": (list[datetime.date], [RICH.day]),
    "union": (Struct | list[Struct] | int, [Struct(1)]),
}


@pytest.mark.parametrize(("kind", "value"), VALUES.values(), ids=VALUES)
async def test_values_are_read_back(client, key, kind, value):
    cache = Cache(client, serializer=Typed(kind))
    await cache.set(key, value)
    found = await cache.get(key, "miss")
    assert found == value
    assert type(found) is type(value)


async def test_other_caches_read_plain_json(client, key):
    await Cache(client, serializer=Typed(Point)).set(key, Point(1, 2))
    assert await Cache(client).get(key) == {"x": 1, "y": 2}
    await Cache(client).set(key, {"x": 3})
    assert await Cache(client, serializer=Typed(Point)).get(key) == Point(3)


async def test_values_of_other_flags_or_fields_are_refused(client, key):
    cache = Cache(client, serializer=Typed(Point, flags=7))
    await cache.set(key, Point(1))
    assert (await client.get(key, return_flags=True)).flags == 7
    with pytest.raises(SerializationError):
        await Cache(client, serializer=Typed(Point)).get(key)
    await Cache(client).set(key, {"x": "secret"})
    for kind in (Point, Model):
        with pytest.raises(SerializationError, match="cannot be read") as caught:
            await Cache(client, serializer=Typed(kind)).get(key)
        assert "secret" not in str(caught.value)


@dataclasses.dataclass
class SubPoint(Point):
    z: int = 0


class SubModel(Model):
    y: int = 0


class Secret(pydantic.BaseModel):
    password: pydantic.SecretStr


class Excluded(pydantic.BaseModel):
    x: int
    y: int = pydantic.Field(0, exclude=True)


@attrs.define
class Hidden:
    x: int
    _y: int = 0


@dataclasses.dataclass
class Loose:
    any: Any
    number: float | None = None


@dataclasses.dataclass(eq=False)
class ByIdentity:
    x: int


LOSSES = {
    "another class": (Point, {"x": 1, "y": 2}),
    "another model": (Model, {"x": 1}),
    "wrong field": (Point, Point("secret")),
    "wrong field of a model": (Model, Model.model_construct(x="secret")),
    "subclass": (Point, SubPoint(1, 2, 3)),
    "subclass of a model": (Model, SubModel(x=1, y=2)),
    "subclass inside": (list[Point], [SubPoint(1)]),
    "secret": (Secret, Secret(password="secret")),
    "excluded": (Excluded, Excluded(x=1, y=2)),
    "private": (Hidden, Hidden(1, 2)),
    "tuple": (Sequence[Point], (Point(1),)),
    "tuple in any": (Loose, Loose((1, 2))),
    "nan": (Loose, Loose(1, float("nan"))),
    "none": (Point, None),
    "alike": (Model | PydanticPoint, PydanticPoint(1)),
    "by identity": (ByIdentity, Point(1)),
}


@pytest.mark.parametrize(("kind", "value"), LOSSES.values(), ids=LOSSES)
async def test_what_would_be_read_back_as_something_else_is_refused(client, key, kind, value):
    cache = Cache(client, serializer=Typed(kind))
    with pytest.raises(SerializationError, match=r"cannot be stored: .*read back") as caught:
        await cache.set(key, value)
    assert "secret" not in str(caught.value)
    assert await client.get(key) is None


async def test_classes_without_equality_are_compared_by_class(client, key):
    cache = Cache(client, serializer=Typed(list[ByIdentity]))
    await cache.set(key, [ByIdentity(7)])
    assert [each.x for each in await cache.get(key)] == [7]


class Plain:
    pass


@dataclasses.dataclass
class WithPlain:
    inside: list[Plain]


class WithConnection(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    inside: Plain


@dataclasses.dataclass
class WithModel:
    inside: Model


@dataclasses.dataclass
class WithInitVar:
    x: dataclasses.InitVar[int]


@pytest.mark.parametrize(
    "kind", [Plain, WithPlain, list[Plain], WithModel, WithInitVar, Point | Hidden, Model | Place]
)
def test_types_that_cannot_be_stored(kind):
    with pytest.raises(TypeError, match=r"Typed cannot store .* does not support it .* use Json"):
        Typed(kind)


async def test_msgspec_is_needed(monkeypatch, cache):
    monkeypatch.setitem(sys.modules, "msgspec", None)
    with pytest.raises(ImportError, match=r"Typed\(Point\) needs msgspec: pip install 'emcache\["):
        Typed(Point)
    Typed(Model)
    with pytest.raises(TypeError, match=r"cannot be cached: .*pip install"):

        @cached(cache, key="k")
        async def point() -> Point: ...


def test_kinds_are_equal_for_equal_types():
    assert _kind(Typed(Point)) == _kind(Typed(Point))
    assert _kind(Typed(list[Point])) == _kind(Typed(list[Point]))
    others = [Typed(Point), Typed(SubPoint), Typed(list[Point]), Typed(Point, flags=7), Json()]
    assert len(set(map(_kind, others))) == len(others)


# -- @cached -----------------------------------------------------------------------------------


async def twice(function, *args):
    """The result of a computation and of a hit."""
    return [await function(*args), await function(*args)]


@pytest.mark.parametrize("source", ["cache", "function"])
async def test_results_are_stored_as_their_annotation(cache, source):
    calls = []

    @cached(cache if source == "cache" else lambda: cache, key="point:{x}")
    async def point(x: int) -> Point:
        calls.append(x)
        return Point(x)

    assert await twice(point, 1) == [Point(1), Point(1)]
    assert calls == [1]
    assert await point.refresh(1) == Point(1)
    assert await cache.get("point:1") == {"x": 1, "y": 0}
    assert await point.invalidate(1)
    assert await point(1) == Point(1)
    assert calls == [1, 1, 1]


async def test_annotations_of_all_forms(cache):
    @cached(cache, key="a")
    async def optional() -> Point | None:
        return None

    @cached(cache, key="b")
    async def text() -> "list[Model]":
        return [Model(x=1)]

    @cached(cache, key="c:{x}")
    async def other_unknown(x: "Unknown") -> "Point":
        return Point(x)

    class Shop:
        @cached(cache, key=lambda self: "d")
        async def price(self) -> Struct:
            return Struct(1)

        @classmethod
        @cached(cache, key="e:{cls.__name__}")
        async def name(cls) -> Point:
            return Point(5)

    def logged(function):
        @functools.wraps(function)
        async def wrapper(*args):
            return await function(*args)

        return wrapper

    @cached(cache, key="f")
    @logged
    async def wrapped() -> Point:
        return Point(1)

    class Loader:
        async def __call__(self, x) -> Point:
            return Point(x)

    partial = cached(cache, key="g")(functools.partial(other_unknown.__wrapped__, 3))
    assert await twice(optional) == [None] * 2
    assert await twice(text) == [[Model(x=1)]] * 2
    assert await twice(other_unknown, 2) == [Point(2)] * 2
    assert await twice(Shop().price) == [Struct(1)] * 2
    assert await twice(Shop.name) == [Point(5)] * 2
    assert await twice(wrapped) == [Point(1)] * 2
    assert await twice(partial) == [Point(3)] * 2


async def test_without_a_model_results_are_plain_json(cache):
    @cached(cache, key="a")
    async def plain() -> dict[str, list[int]]:
        return {"a": [1]}

    @cached(cache, key="b")
    async def unknown() -> "Unknown":
        return 5

    @cached(cache, key="c")
    async def strange() -> "not a type":  # noqa: F722
        return 5

    @cached(cache, key="d")
    async def none() -> None:
        return None

    assert await twice(plain) == [{"a": [1]}] * 2
    assert await twice(unknown) == [5, 5]
    assert await twice(strange) == [5, 5]
    assert await twice(none) == [None, None]


@pytest.mark.parametrize("source", ["cache", "function"])
async def test_a_class_that_is_defined_below(cache, monkeypatch, source):
    @cached(cache if source == "cache" else lambda: cache, key="k")
    async def later() -> "Later":  # noqa: F821
        return globals()["Later"](1)

    defined = dataclasses.make_dataclass("Later", [("x", int)])
    monkeypatch.setitem(globals(), "Later", defined)
    assert await twice(later) == [defined(1)] * 2


async def test_functions_of_many_elements(cache):
    calls = []

    @cached_many(lambda: cache, key="k:{id}")
    async def points(ids: list[int]) -> dict[int, Point]:
        calls.append(ids)
        return {each: Point(each) for each in ids}

    assert [await points([1, 2]), await points([2, 3])] == [
        {1: Point(1), 2: Point(2)},
        {2: Point(2), 3: Point(3)},
    ]
    assert calls == [[1, 2], [3]]
    with pytest.raises(TypeError, match="cannot be cached"):

        @cached_many(cache, key="k:{id}")
        async def plain(ids: list[int]) -> dict[int, WithPlain]: ...


async def test_serializers_that_take_models_are_left_alone(client, key):
    for serializer in (
        Pickle(),
        Typed(Point),
        Json(dumps=lambda value: str(value.x), loads=lambda data: Point(int(data))),
    ):
        cache = Cache(
            client, serializer=serializer, prefix=key + type(serializer).__name__.encode()
        )

        @cached(cache, key="k")
        async def point() -> Point:
            return Point(1)

        assert ReturnType(point.__wrapped__).cache_for(cache) is cache
        assert await twice(point) == [Point(1)] * 2


@pytest.mark.parametrize("serializer", [Raw(), Utf8(), MsgPack()])
async def test_serializers_that_cannot_take_models_are_refused(client, serializer):
    cache = Cache(client, serializer=serializer)
    match = (
        r"returns Point, which .* cannot store; use a cache with serializer=None, Typed\(Point\)"
    )

    async def point() -> Point: ...

    with pytest.raises(TypeError, match=match):
        cached(cache, key="k")(point)
    with pytest.raises(TypeError, match=match):
        await cached(lambda: cache, key="k")(point)()


async def test_models_that_cannot_be_stored_are_refused(cache):
    async def connection() -> list[WithPlain]: ...

    match = r"the results of .*connection cannot be cached: Typed cannot store"
    with pytest.raises(TypeError, match=match):
        cached(cache, key="k")(connection)
    with pytest.raises(TypeError, match=match):
        await cached(lambda: cache, key="k")(connection)()


async def test_a_result_that_is_not_of_its_annotation_is_an_error(cache):
    @cached(cache, key="k")
    async def point() -> Point:
        return {"x": 1}

    for error in await outcomes(point(), point()):
        assert isinstance(error, SerializationError)
        assert "of type dict, cannot be stored: TypeError: it would be read back as Point" in str(
            error
        )


async def test_a_value_of_an_older_class_is_computed_again(cache):
    await cache.set("k", {"renamed": 1})

    @cached(cache, key="k")
    async def point() -> Point:
        return Point(1)

    assert await twice(point) == [Point(1)] * 2
    assert await cache.get("k") == {"x": 1, "y": 0}


async def test_functions_of_one_type_share_a_computation(cache):
    calls = []

    async def point() -> Point:
        calls.append(1)
        await asyncio.sleep(0.01)
        return Point(1)

    first, second = cached(cache, key="k")(point), cached(lambda: cache, key="k")(point)
    assert await asyncio.gather(first(), second()) == [Point(1)] * 2
    assert calls == [1]


async def test_a_write_of_the_cache_stops_the_store_of_a_typed_result(cache):
    started, go = asyncio.Event(), asyncio.Event()

    @cached(cache, key="k")
    async def point() -> Point:
        started.set()
        await go.wait()
        return Point(1)

    task = asyncio.create_task(point())
    await started.wait()
    await cache.delete("k")
    go.set()
    assert await task == Point(1)
    assert await cache.get("k") is None
