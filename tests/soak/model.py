"""What a key may hold, and programs of random calls that check it.

Each key has one writer, whose calls follow one another. A call of which it is not known whether it
happened ends the life of the key: after one more look the writer goes on with a new one. So each
state is exact, and a reader in another process never sees the numbers in a key's values decrease.
"""

import dataclasses
import random
import zlib
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import emcache

Call = tuple[str, tuple[Any, ...], dict[str, Any]]
Program = Generator[Call, Any, None]

ABSENT = None


class WrongError(AssertionError):
    """Something that no healthy server and no fault explains."""


@dataclass
class Unknown:
    """The result of a call that may have happened, or may still happen."""

    error: BaseException


@dataclass
class Counts:
    """What a program has done."""

    keys: int = 0
    calls: int = 0
    unknown: int = 0
    lost: int = 0


def value_of(key: bytes, number: int, size: int) -> bytes:
    """Return a value that names its key and its number, and shows if bytes are missing."""
    head = b"%b %d " % (key, number)
    body = (b"\r\nEND\r\nVALUE " * (size // 13 + 1))[:size]
    return b"%b%b %08x" % (head, body, zlib.crc32(head + body))


def number_in(key: bytes, value: bytes) -> int:
    """Return the number of a value, which must be whole and of this key."""
    content, _, checksum = value.rpartition(b" ")
    name, _, rest = content.partition(b" ")
    if name != key or checksum != b"%08x" % zlib.crc32(content):
        raise WrongError(f"{key!r} has the value {value[:80]!r}")
    return int(rest.split(b" ", 1)[0])


@dataclass
class Own:
    """A key with its only writer."""

    name: bytes
    life: int = 0
    number: int = 0
    value: bytes | None = ABSENT
    flags: int = 0
    counter: int | None = None

    @property
    def key(self) -> bytes:
        return b"%b:%d" % (self.name, self.life)

    @property
    def counter_key(self) -> bytes:
        return b"n%b" % self.key

    def end_life(self) -> None:
        self.life += 1
        self.number = 0
        self.value = ABSENT
        self.counter = None


@dataclass
class Programs:
    """Endless programs of one process.

    Args:
        lossy: items may vanish, because servers are killed.
        peers: the names of the keys of other processes.
        only_newer: values of other processes never become older. With failover they may, until the
            writer has deleted them at the node that returns.
    """

    rng: random.Random
    lossy: bool
    peers: list[bytes]
    only_newer: bool = True
    counts: Counts = field(default_factory=Counts)
    seen: dict[bytes, int] = field(default_factory=dict)
    lives: dict[bytes, int] = field(default_factory=dict)

    def program(self, names: list[bytes]) -> Program:
        """Yield calls and check their results, without end."""
        own = [Own(name) for name in names]
        actions = [
            (30, self._get), (14, self._set), (6, self._many), (5, self._cas), (4, self._delete),
            (4, self._add), (4, self._replace), (4, self._increment), (3, self._touch),
            (3, self._noreply), (3, self._meta), (20, self._look_at_others),
        ]  # fmt: skip
        weights = [weight for weight, _ in actions]
        while True:
            (_, action) = self.rng.choices(actions, weights)[0]
            yield from action(own)

    def _value(self, key: Own) -> bytes:
        key.number += 1
        size = self.rng.choice((0, 20, 100, 1_000, 1_000, 20_000))
        return value_of(key.key, key.number, size)

    def _check(self, key: Own, item: Any, *also: bytes | None) -> None:
        """Compare what was read with what the key holds."""
        self.counts.keys += 1
        got = ABSENT if item is None else bytes(item.value)
        if got == key.value or got in also:
            return
        if got is ABSENT and self.lossy:
            # With failover it may be there again later.
            self.counts.lost += 1
            return
        raise WrongError(
            f"{key.key!r} has {got and got[:60]!r}, not {key.value and key.value[:60]!r}"
        )

    def _write(self, key: Own, call: Call, new: bytes | None) -> Generator[Call, Any, bool]:
        """Change a key; return whether it happened."""
        self.counts.keys += 1
        result = yield call
        if isinstance(result, Unknown):
            self.counts.unknown += 1
            found = yield "get", (key.key,), {}
            if not isinstance(found, Unknown):
                self._check(key, found, new)
            key.end_life()
            return False
        if isinstance(result, Exception):
            raise WrongError(f"{call[0]} of {key.key!r}: {result!r}") from result
        key.value = new
        return True

    def _get(self, own: list[Own]) -> Program:
        key = self.rng.choice(own)
        verb = self.rng.choice(("get", "get", "gets"))
        found = yield verb, (key.key,), {}
        if not isinstance(found, Unknown):
            self._check(key, found)

    def _set(self, own: list[Own]) -> Program:
        key = self.rng.choice(own)
        value = self._value(key)
        yield from self._write(key, ("set", (key.key, value), {"exptime": 3600}), value)

    def _noreply(self, own: list[Own]) -> Program:
        key = self.rng.choice(own)
        value = self._value(key)
        result = yield "set", (key.key, value), {"noreply": True}
        found = yield "get", (key.key,), {}
        if isinstance(result, Unknown) or isinstance(found, Unknown):
            self.counts.unknown += 1
            key.end_life()
            return
        got = ABSENT if found is None else bytes(found.value)
        if got != value:
            # A connection that is lost takes such writes with it.
            self._check(key, found)
            self.counts.unknown += 1
            key.end_life()
            return
        key.value = value

    def _many(self, own: list[Own]) -> Program:
        keys = self.rng.sample(own, self.rng.randint(1, len(own)))
        found = yield "get_many", ([key.key for key in keys],), {}
        if isinstance(found, Unknown):
            return
        if set(found) - {key.key for key in keys}:
            raise WrongError(f"get_many returned other keys: {set(found)}")
        for key in keys:
            self._check(key, found.get(key.key))

    def _cas(self, own: list[Own]) -> Program:
        key = self.rng.choice(own)
        found = yield "gets", (key.key,), {}
        if isinstance(found, Unknown):
            return
        self._check(key, found)
        if found is None:
            return
        value = self._value(key)
        call = "cas", (key.key, value, found.cas), {}
        result = yield call
        if self.lossy and isinstance(result, emcache.StorageCommandError):
            return
        yield from self._take(key, call, result, value)

    def _take(self, key: Own, call: Call, result: Any, new: bytes | None) -> Program:
        """Do what `_write` does with a result that is there already."""
        inner = self._write(key, call, new)
        next(inner)
        try:
            request = inner.send(result)
            while True:
                request = inner.send((yield request))
        except StopIteration:
            pass

    def _delete(self, own: list[Own]) -> Program:
        key = self.rng.choice(own)
        call = "delete", (key.key,), {}
        result = yield call
        if isinstance(result, emcache.NotFoundCommandError):
            if key.value is not ABSENT and not self.lossy:
                raise WrongError(f"{key.key!r} was not found")
            result = None
        yield from self._take(key, call, result, ABSENT)

    def _add(self, own: list[Own]) -> Program:
        key = self.rng.choice(own)
        value = self._value(key)
        call = "add", (key.key, value), {}
        result = yield call
        if isinstance(result, emcache.NotStoredStorageCommandError):
            if key.value is ABSENT:
                raise WrongError(f"{key.key!r} exists") from result
            return
        if result is None and key.value is not ABSENT and not self.lossy:
            raise WrongError(f"{key.key!r} was added although it exists")
        yield from self._take(key, call, result, value)

    def _replace(self, own: list[Own]) -> Program:
        key = self.rng.choice(own)
        value = self._value(key)
        call = "replace", (key.key, value), {}
        result = yield call
        if isinstance(result, emcache.NotStoredStorageCommandError):
            if key.value is not ABSENT and not self.lossy:
                raise WrongError(f"{key.key!r} was not found") from result
            return
        if result is None and key.value is ABSENT:
            raise WrongError(f"{key.key!r} was replaced although it does not exist")
        yield from self._take(key, call, result, value)

    def _increment(self, own: list[Own]) -> Program:
        key = self.rng.choice(own)
        self.counts.keys += 1
        if key.counter is None:
            call = "set", (key.counter_key, b"0"), {}
            new = 0
        else:
            step = self.rng.randint(1, 9)
            call = "increment", (key.counter_key, step), {}
            new = key.counter + step
        result = yield call
        if isinstance(result, Unknown):
            self.counts.unknown += 1
            key.end_life()
        elif isinstance(result, emcache.NotFoundCommandError) and self.lossy:
            self.counts.lost += 1
            key.end_life()
        elif key.counter is not None and result != new:
            raise WrongError(f"{key.counter_key!r} is {result!r}, not {new}")
        else:
            key.counter = new

    def _touch(self, own: list[Own]) -> Program:
        key = self.rng.choice(own)
        if self.rng.random() < 0.5:
            found = yield "gat", (3600, key.key), {}
            if not isinstance(found, Unknown):
                self._check(key, found)
            return
        self.counts.keys += 1
        result = yield "touch", (key.key, 3600), {}
        if isinstance(result, emcache.NotFoundCommandError):
            if key.value is not ABSENT and not self.lossy:
                raise WrongError(f"{key.key!r} was not found") from result
        elif result is None and key.value is ABSENT:
            raise WrongError(f"{key.key!r} exists")

    def _meta(self, own: list[Own]) -> Program:
        key = self.rng.choice(own)
        found = yield "meta_get", (key.key,), {}
        if not isinstance(found, Unknown):
            self._check(key, found)

    def _look_at_others(self, _: list[Own]) -> Program:
        """Read keys of other processes: values are whole, and never become older."""
        names = self.rng.sample(self.peers, min(8, len(self.peers)))
        lives = {name: self.lives.get(name, 0) for name in names}
        keys = {b"%b:%d" % (name, life + n): name for name, life in lives.items() for n in (0, 1)}
        before = {key: self.seen.get(key, 0) for key in keys}
        found = yield "get_many", (list(keys),), {}
        if isinstance(found, Unknown):
            return
        for key, item in found.items():
            self.counts.keys += 1
            number = number_in(key, bytes(item.value))
            # Another task may have seen a newer one while this one waited.
            if number < before[key] and self.only_newer:
                raise WrongError(f"{key!r} went back from {before[key]} to {number}")
            self.seen[key] = max(number, self.seen.get(key, 0))
            name, life = keys[key], int(key.rsplit(b":", 1)[1])
            self.lives[name] = max(life, self.lives.get(name, 0))


def as_dict(counts: Counts) -> dict[str, int]:
    """Return the counts for JSON."""
    return dataclasses.asdict(counts)
