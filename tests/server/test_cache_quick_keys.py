"""The short way to a key makes the same key as the long one."""

import datetime
import inspect
import random
import string
import uuid

import pytest

from emcache import InvalidKeyError
from emcache.cache import _call_keys, _keys, _quick_keys

pytestmark = pytest.mark.driver_independent

TEMPLATES = [
    "user:{a}",
    "{a}",
    "a{a}z",
    "user:{a}:{b}",
    "{a}.{b}/{c}!",
    "{a}-{a}",
    "x{a}yz{b}",
    "{{{a}}}:{b}}}",
    "{a}ü{b}",
]
VALUES = [
    *(0, 7, 10**30, -1, True, None, 1.5, 1e20, b"bytes", "", "ada", "a:b", "%3A", "ü", "y", "yz"),
    *("a b", "x" * 100, "-", "{a}", "\0", "Ⅷ", "²", uuid.UUID(int=5), datetime.date(2026, 1, 2)),
]


class Text(str):
    """A subclass, whose text may be another one."""

    def __str__(self):
        return "other"


class Number(int):
    def __repr__(self):
        return "other"


def function(a, b=2, c="three"):
    """What the keys are for."""


def key_or_error(make):
    try:
        return make()
    except TypeError as error:
        return str(error)


def counted(monkeypatch, name):
    """Whether the short way was taken."""
    original, taken = getattr(_quick_keys, name), []

    def counting(*args):
        quick = original(*args)
        return quick and (lambda args: taken.append(quick(args)) or taken[-1])

    monkeypatch.setattr(_call_keys, name, counting)
    return taken


def without(monkeypatch, name):
    monkeypatch.setattr(_call_keys, name, lambda *args: None)


@pytest.mark.parametrize("template", [*TEMPLATES, None])
def test_both_ways_make_the_same_key(monkeypatch, template):
    name = "by_arguments" if template is None else "by_template"
    taken = counted(monkeypatch, name)
    quick = _call_keys.key_of(function, template)
    without(monkeypatch, name)
    slow = _call_keys.key_of(function, template)
    chance = random.Random(1)
    letters = string.printable + "äßк"
    for _ in range(3000):
        kinds = [*VALUES, "".join(chance.choices(letters, k=chance.randrange(9)))]
        args = tuple(
            chance.choice([*kinds, Text("a"), Number(5)]) for _ in range(chance.randrange(5))
        )
        made = key_or_error(lambda args=args: quick(args, {}))
        assert made == key_or_error(lambda args=args: slow(args, {})), (template, args)
    assert sum(key is not None for key in taken) > 300


def test_other_parameters_take_the_long_way():
    def with_rest(a, *rest):
        pass

    def with_keyword(a, *, b=1):
        pass

    for each in (with_rest, with_keyword):
        assert _quick_keys.by_arguments("f", inspect.signature(each), 64) is None
        assert _call_keys.key_of(each, "f:{a}")((5,), {}) == "f:5"
    assert _call_keys.key_of(function, "{a}:{b}")((1,), {"b": 3}) == "1:3"
    assert _call_keys.key_of(function, "{a:>5}")((1,), {}) == "%20%20%20%201"


def wire_or_error(keys, key):
    try:
        return keys.wire(key)
    except InvalidKeyError as error:
        return str(error)


@pytest.mark.parametrize("prefix", ["", "app:", "p" * 249])
@pytest.mark.parametrize("policy", ["refuse", "hash"])
def test_keys_on_the_wire(prefix, policy):
    if policy == "hash" and len(prefix) > 100:
        return
    keys = _keys.Keys(prefix, policy)
    for key in ("k", "k" * 250, "a b", "ü", "\x7f", "~!", "k\n", "", "x" * 1000, "#sha256:"):
        long_way = _keys.Keys(prefix, policy)
        long_way._is_plain_policy = False
        assert wire_or_error(keys, key) == wire_or_error(long_way, key)
