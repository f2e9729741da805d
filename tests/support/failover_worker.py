"""A process that uses a cluster with failover, and knows what each read may return.

Arguments: the number of the process, the file of the oracle, and the ports of the nodes; with
--gutter also those of spare nodes. Each process writes keys of its own and reads all of them. It
says in the oracle whether it knows a node to be down, and prints its counts as JSON when its input
ends.
"""

import asyncio
import contextlib
import json
import random
import sys
import time
from collections import Counter, defaultdict, deque

import emcache

from .migration_worker import WORDS as OTHER_WORDS
from .migration_worker import Oracle as Versions

KEYS = 300
WRITERS = 3

_STATE, _AGREED = OTHER_WORDS, OTHER_WORDS + WRITERS
WORDS = _AGREED + 1
CALM, OUTAGE = 1, 2


class Oracle(Versions):
    """Also knows what the processes think of the nodes."""

    words = WORDS

    def state(self, process: int) -> int:
        """Whether a process knows a node to be down, or has outdated keys."""
        return self._get(_STATE + process)

    def set_state(self, process: int, state: int) -> None:
        self._set(_STATE + process, state)

    @property
    def agreed(self) -> int:
        """Odd: all processes use the same nodes, so each finds what the others have written."""
        return self._get(_AGREED)

    @agreed.setter
    def agreed(self, number: int) -> None:
        self._set(_AGREED, number)


class Worker:
    def __init__(self, process: int, oracle: Oracle, client: emcache.Client) -> None:
        self.process, self.oracle, self.client = process, oracle, client
        self.stop = asyncio.Event()
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.history: dict[int, deque[str]] = defaultdict(lambda: deque(maxlen=8))
        """What happened to each key, for a message about a wrong read."""

    def note(self, key: int, event: str) -> str:
        port = self.client.node_for(name(key)).port
        line = f"{time.monotonic():.3f} {event} at {port}"
        self.history[key].append(line)
        return line

    async def read(self) -> None:
        keys = random.sample(range(KEYS), random.choice([1, 1, 10]))
        agreed = self.oracle.agreed
        before = [self.oracle.acknowledged(key) for key in keys]
        if len(keys) == 1:
            items = {name(keys[0]): await self.client.get(name(keys[0]))}
        else:
            items = await self.client.get_many([name(key) for key in keys])
        is_agreed = agreed % 2 == 1 and self.oracle.agreed == agreed
        for key, acknowledged in zip(keys, before, strict=True):
            self.check(key, acknowledged, items.get(name(key)), is_agreed)

    def check(
        self, key: int, acknowledged: int, item: emcache.Item | None, is_agreed: bool
    ) -> None:
        is_own = key % WRITERS == self.process
        kind = "own" if is_own else "agreed" if is_agreed else "other"
        self.counts[f"{kind}_reads"] += 1
        if item is None:
            return
        self.counts[f"{kind}_hits"] += 1
        version = int(item.value)
        if acknowledged <= version <= self.oracle.begun(key):
            return
        if is_own or is_agreed:
            now = self.note(key, f"{kind} key {key} is {version} and not {acknowledged}")
            self.wrong.append("; ".join([now, *self.history[key]]))
        else:
            self.counts["old"] += 1

    async def write(self, key: int) -> None:
        version = self.oracle.begin(key)
        self.note(key, f"begin {version}")
        if random.random() < 0.2:
            with contextlib.suppress(emcache.NotFoundCommandError):
                await self.client.delete(name(key))
        else:
            await self.client.set(name(key), b"%d" % version, exptime=1000)
        self.oracle.acknowledge(key, version)
        self.note(key, f"acknowledged {version}")
        self.counts["writes"] += 1

    async def run(self, keys: list[int]) -> None:
        """Use the cluster; no other task writes these keys."""
        while not self.stop.is_set():
            try:
                if random.random() < 0.3:
                    await self.write(random.choice(keys))
                else:
                    await self.read()
            except (emcache.EmcacheError, TimeoutError):
                self.counts["errors"] += 1
            await asyncio.sleep(0.002)

    async def report(self) -> None:
        manager = self.client.cluster_managment()
        while not self.stop.is_set():
            outdated = self.client.metrics().failover.outdated_keys
            is_calm = not manager.unhealthy_nodes() and not outdated
            state = CALM if is_calm else OUTAGE
            if self.oracle.state(self.process) != state:
                sys.stderr.write(f"{self.process}: {time.monotonic():.3f} state {state}\n")
            self.oracle.set_state(self.process, state)
            await asyncio.sleep(0.01)


def name(key: int) -> bytes:
    return b"oracle:%d" % key


def nodes(ports: str) -> list[emcache.MemcachedHostAddress]:
    return [emcache.MemcachedHostAddress("127.0.0.1", int(port)) for port in ports.split(",")]


async def main() -> None:
    process, path, ports, *rest = sys.argv[1:]
    failover = emcache.Gutter(nodes(rest[1])) if rest else "next"
    # A rule that counts: a node has the same keys whether it is reached by a proxy or not.
    # The timeout is long, because a server that only pauses, as on a busy machine, may execute a
    # write that timed out after a newer one on another connection.
    options = {"routing": "crc", "failover": failover, "timeout": 1.0, "max_connections": 2}
    async with emcache.create_client(nodes(ports), **options) as client:
        worker = Worker(int(process), Oracle(path), client)
        own = [key for key in range(KEYS) if key % WRITERS == worker.process]
        tasks = [asyncio.create_task(worker.run(own[start::4])) for start in range(4)]
        tasks.append(asyncio.create_task(worker.report()))
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)
        worker.stop.set()
        await asyncio.gather(*tasks)
        counts = dict(worker.counts) | {"wrong": worker.wrong[:20]}
        sys.stdout.write(json.dumps(counts))


if __name__ == "__main__":
    asyncio.run(main())
