"""A process that uses a cluster during a migration and knows what each read may return.

Arguments: the number of the process, the file of the oracle, the old and the new ports, the rule of
the new nodes, and the phase: old, prepare, move, finish or new. With --plain it only reads, writes
and deletes, and with --back items move to the old nodes. Prints a line when it is ready, and its
counts as JSON when its input ends.
"""

import asyncio
import contextlib
import json
import mmap
import random
import struct
import sys
from collections import Counter
from pathlib import Path

import emcache

KEYS = 400
WRITERS = 4
"""Processes; a key is written by one of them."""
COUNTERS = 5

_BEGUN, _ACKED, _COUNTED, _LOCK = 0, KEYS, 2 * KEYS, 2 * KEYS + COUNTERS
WORDS = 2 * KEYS + COUNTERS + 1


class Oracle:
    """The versions of keys that all processes share. Only its writer writes a word."""

    words = WORDS

    def __init__(self, path: str) -> None:
        with Path(path).open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), self.words * 8)

    def _get(self, at: int) -> int:
        return struct.unpack_from("<Q", self._memory, at * 8)[0]

    def _set(self, at: int, value: int) -> None:
        struct.pack_into("<Q", self._memory, at * 8, value)

    def begin(self, key: int) -> int:
        version = self._get(_BEGUN + key) + 1
        self._set(_BEGUN + key, version)
        return version

    def acknowledge(self, key: int, version: int) -> None:
        self._set(_ACKED + key, version)

    def acknowledged(self, key: int) -> int:
        return self._get(_ACKED + key)

    def begun(self, key: int) -> int:
        return self._get(_BEGUN + key)

    def counted(self, counter: int) -> int:
        return self._get(_COUNTED + counter)

    def count(self, counter: int, value: int) -> None:
        # Another process may overwrite it with less: it is a lower bound.
        self._set(_COUNTED + counter, value)

    @property
    def holder(self) -> int:
        return self._get(_LOCK)

    @holder.setter
    def holder(self, process: int) -> None:
        self._set(_LOCK, process)


def key_name(key: int) -> bytes:
    return b"oracle:%d" % key


class Worker:
    def __init__(self, process: int, oracle: Oracle, client: emcache.Client) -> None:
        self.process, self.oracle, self.client = process, oracle, client
        self.stop = asyncio.Event()
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

    def check(self, key: int, before: int, item: emcache.Item | None) -> None:
        self.counts["reads"] += 1
        if item is None:
            # A key that was never written, or was deleted, may be missing.
            is_gone = before == 0 or before % 5 == 4 or self.oracle.begun(key) % 5 == 4
            self.counts["hits"] += is_gone
            return
        version = int(item.value.split(b":")[0])
        if not before <= version <= self.oracle.begun(key):
            self.wrong.append(f"key {key}: {version}, acknowledged before: {before}")
        self.counts["hits"] += 1

    async def read(self) -> None:
        keys = random.sample(range(KEYS), random.choice([1, 1, 1, 20]))
        before = [self.oracle.acknowledged(key) for key in keys]
        if len(keys) == 1:
            fetch = random.choice([self.client.get, self.client.get, self.client.gets])
            items = {key_name(keys[0]): await fetch(key_name(keys[0]))}
        else:
            items = await self.client.get_many([key_name(key) for key in keys])
        for key, acknowledged in zip(keys, before, strict=True):
            self.check(key, acknowledged, items.get(key_name(key)))

    async def write(self, key: int) -> None:
        version = self.oracle.begin(key)
        value = b"%d:%s" % (version, b"x" * random.choice([10, 10, 3000]))
        if version % 5 == 4:
            with contextlib.suppress(emcache.NotFoundCommandError):
                await self.client.delete(key_name(key))
            self.counts["deletes"] += 1
        else:
            await self.client.set(key_name(key), value, exptime=1000)
            self.counts["writes"] += 1
        self.oracle.acknowledge(key, version)

    async def increment(self) -> None:
        counter = random.randrange(COUNTERS)
        before = self.oracle.counted(counter)
        name = b"counter:%d" % counter
        value = await self.client.increment(name, 1, initial=1)
        assert value is not None
        if value <= before:
            if value < 100:
                self.counts["lost_counters"] += 1
            else:
                self.wrong.append(f"counter {counter}: {value} after {before}")
        self.oracle.count(counter, value)
        self.counts["increments"] += 1

    async def lock(self) -> None:
        try:
            await self.client.add(b"lock", b"%d" % self.process, exptime=30)
        except emcache.NotStoredStorageCommandError:
            return
        if self.oracle.holder:
            self.wrong.append(f"lock of {self.oracle.holder} taken by {self.process}")
        self.oracle.holder = self.process
        await asyncio.sleep(0.002)
        self.oracle.holder = 0
        await self.client.delete(b"lock")
        self.counts["locks"] += 1

    async def run(self, number: int) -> None:
        own = [key for key in range(KEYS) if key % WRITERS == self.process]
        own = [key for key in own if key // WRITERS % 3 == number] if number < 3 else []
        is_plain = "--plain" in sys.argv
        while not self.stop.is_set():
            try:
                choice = random.random()
                if choice < 0.25 and own:
                    await self.write(random.choice(own))
                elif choice < 0.3 and number == 3 and not is_plain:
                    await self.increment()
                elif choice < 0.4 and number == 4 and not is_plain:
                    await self.lock()
                else:
                    await self.read()
            except emcache.EmcacheError:
                self.counts["errors"] += 1
            await asyncio.sleep(0.001)


def nodes(ports: str) -> list[emcache.MemcachedHostAddress]:
    return [emcache.MemcachedHostAddress("127.0.0.1", int(port)) for port in ports.split(",")]


async def main() -> None:
    process, path, old, new, rule, phase = sys.argv[1:7]
    options = {"routing": "emcache" if phase == "old" else rule}
    if phase not in ("old", "new"):
        options["migrating_from"] = emcache.Cluster(nodes(old), phase=phase)
    addresses = nodes(old if phase == "old" else new)
    if "--back" in sys.argv:
        options = {"migrating_from": emcache.Cluster(addresses, routing=rule, phase=phase)}
        addresses = nodes(old)
    async with emcache.create_client(addresses, **options) as client:
        worker = Worker(int(process), Oracle(path), client)
        tasks = [asyncio.create_task(worker.run(number)) for number in range(5)]
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)
        worker.stop.set()
        await asyncio.gather(*tasks)
        migration = client.metrics().migration
        moved = migration.moved if migration else 0
        counts = dict(worker.counts) | {"wrong": worker.wrong[:20], "moved": moved}
        sys.stdout.write(json.dumps(counts))


if __name__ == "__main__":
    asyncio.run(main())
