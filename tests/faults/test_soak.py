"""The soak runs, and its oracle notices what it is there for."""

import os
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from soak.model import Programs, Unknown, WrongError, value_of

import emcache

pytestmark = pytest.mark.driver_independent

NAMES = [b"k%d" % number for number in range(6)]


class Server:
    """A memcached in memory; subclasses are wrong in one respect."""

    def __init__(self):
        self.items = {}
        self.version = 0

    def call(self, name, args, kwargs):
        return getattr(self, name)(*args)

    def get(self, key):
        return self.item(self.items.get(key))

    gets = meta_get = get

    def item(self, held):
        return held and SimpleNamespace(value=held[0], cas=held[1])

    def gat(self, _, key):
        return self.get(key)

    def get_many(self, keys):
        return {key: item for key in keys if (item := self.get(key))}

    def set(self, key, value):
        self.version += 1
        self.items[key] = value, self.version

    def add(self, key, value):
        if key in self.items:
            return emcache.NotStoredStorageCommandError("exists")
        return self.set(key, value)

    def replace(self, key, value):
        if key not in self.items:
            return emcache.NotStoredStorageCommandError("absent")
        return self.set(key, value)

    def cas(self, key, value, token):
        assert self.items[key][1] == token
        return self.set(key, value)

    def delete(self, key):
        if self.items.pop(key, None) is None:
            return emcache.NotFoundCommandError("absent")
        return None

    def touch(self, key, _):
        return None if key in self.items else emcache.NotFoundCommandError("absent")

    def increment(self, key, step):
        number = int(self.items[key][0]) + step
        self.set(key, b"%d" % number)
        return number


class Right(Server):
    def __init__(self):
        super().__init__()
        self.rng = random.Random(5)

    def call(self, name, args, kwargs):
        result = super().call(name, args, kwargs)
        # Some replies are lost after the call has happened.
        return Unknown(TimeoutError()) if self.rng.random() < 0.01 else result


class LosesItems(Right):
    def get(self, key):
        return None if self.rng.random() < 0.002 else super().get(key)


class AnswersForAnotherKey(Right):
    def get(self, key):
        other = self.rng.choice(NAMES) + b":0" if self.rng.random() < 0.01 else key
        return super().get(other)


class KeepsAnOldValue(Right):
    def set(self, key, value):
        if key not in self.items or self.rng.random() > 0.01:
            super().set(key, value)


class CutsAValue(Right):
    def item(self, held):
        found = super().item(held)
        if found and self.rng.random() < 0.005:
            found.value = found.value[:-1]
        return found


class CountsTwice(Right):
    def increment(self, key, step):
        if self.rng.random() < 0.02:
            super().increment(key, step)
        return super().increment(key, step)


class BringsBackWhatWasDeleted(Right):
    def delete(self, key):
        return None if key in self.items and self.rng.random() < 0.05 else super().delete(key)


def run(server, calls, *, lossy=False, peers=()):
    programs = Programs(random.Random(1), lossy, list(peers))
    program = programs.program(NAMES)
    request = next(program)
    for _ in range(calls):
        request = program.send(server.call(*request))
    return programs.counts


def test_the_oracle_accepts_a_right_server():
    counts = run(Right(), 20_000)
    assert counts.keys > 10_000
    assert counts.unknown > 20


@pytest.mark.parametrize(
    "server",
    [
        LosesItems, AnswersForAnotherKey, KeepsAnOldValue, CutsAValue, CountsTwice,
        BringsBackWhatWasDeleted,
    ],
)  # fmt: skip
def test_the_oracle_notices_a_wrong_server(server):
    with pytest.raises(WrongError):
        run(server(), 20_000)


def test_the_oracle_notices_a_value_that_becomes_older():
    server = Right()
    writer = Programs(random.Random(1), lossy=False, peers=[])
    reader = Programs(random.Random(2), lossy=False, peers=list(NAMES))
    writing, reading = writer.program(NAMES), reader.program([b"own"])
    to_write, to_read = next(writing), next(reading)
    for _ in range(5_000):
        to_write = writing.send(server.call(*to_write))
        to_read = reading.send(server.call(*to_read))
    assert len(reader.seen) > 6
    for key, number in reader.seen.items():
        server.set(key, value_of(key, number - 1, 10))

    def go_on():
        request = to_read
        for _ in range(500):
            request = reading.send(server.call(*request))

    with pytest.raises(WrongError, match="went back"):
        go_on()


def test_a_short_soak():
    tests = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "soak", "--minutes", "0.01", "--seconds", "3", "--faults", "resets"],
        env=os.environ | {"PYTHONPATH": str(tests)},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("; 0 wrong\n")
