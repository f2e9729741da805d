"""A cluster grows from three nodes to four under load, while one of the old nodes dies and returns.

A Python service writes and reads. A PHP and a Ruby service read the same items with their own
clients. Every read is compared with the last write that was acknowledged before it began.
Run it with `make demo-cluster`.
"""

import argparse
import asyncio
import logging
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.logging import RichHandler
from rich.table import Table

import emcache
from emcache.testing import MemcachedServer

READERS = {
    "PHP": ("ketama", ["php", "reader.php"]),
    "Ruby": ("dalli", ["ruby", "reader.rb"]),
}
"""The rule and the program of each neighbour."""
FOLDER = Path(__file__).with_name("cluster")
KEYS = 2000
console = Console()


@dataclass
class Family:
    """The items that one neighbour reads. The value of an item is the number of its last write."""

    name: str
    begun: list[int] = field(default_factory=lambda: [0] * KEYS)
    written: list[int] = field(default_factory=lambda: [0] * KEYS)
    """The last write that was acknowledged."""
    deleted: list[bool] = field(default_factory=lambda: [True] * KEYS)
    """Whether the item may be missing because of a delete, or of a write that failed."""

    def key(self, at: int) -> bytes:
        return f"{self.name.lower()}:{at}".encode()


@dataclass
class Reads:
    """What one service saw."""

    total: Counter[str] = field(default_factory=Counter)
    stage: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def add(self, what: str) -> None:
        self.total[what] += 1
        self.stage[what] += 1

    def judge(self, family: Family, at: int, before: tuple[int, bool], value: str | None) -> None:
        """Compare a read with the state of its item before it began."""
        floor, may_miss = before
        if value == "error":
            self.add("errors")
        elif value in (None, "miss"):
            self.add("deleted" if may_miss or family.deleted[at] else "misses")
        elif floor <= int(value) <= family.begun[at]:
            self.add("hits")
        else:
            self.add("wrong")
            self.wrong.append(f"{family.key(at).decode()}: {value} after {floor} was acknowledged")


class Service:
    """The Python service: a client, tasks that write and tasks that read."""

    def __init__(self, client: emcache.Client, family: Family, reads: Reads) -> None:
        self.client, self.family, self.reads = client, family, reads
        self.failed_writes = 0
        self.writes = 0

    async def write(self, lane: int, lanes: int) -> None:
        family = self.family
        while True:
            at = random.randrange(lane, KEYS, lanes)
            family.begun[at] = number = family.begun[at] + 1
            is_delete = random.random() < 0.1
            family.deleted[at] = family.deleted[at] or is_delete
            try:
                if is_delete:
                    await self.client.delete(family.key(at))
                else:
                    await self.client.set(family.key(at), b"%d" % number, exptime=600)
            except emcache.NotFoundCommandError:
                pass
            except emcache.EmcacheError:
                # It may have happened, so older and newer values are right from now on.
                self.failed_writes += 1
                family.deleted[at] = True
                await asyncio.sleep(0.01)
                continue
            self.writes += 1
            family.written[at] = number
            family.deleted[at] = is_delete
            await asyncio.sleep(0.002)

    async def read(self) -> None:
        family = self.family
        while True:
            at = random.randrange(KEYS)
            before = family.written[at], family.deleted[at]
            try:
                item = await self.client.get(family.key(at))
            except emcache.EmcacheError:
                self.reads.add("errors")
                await asyncio.sleep(0.01)
                continue
            self.reads.judge(family, at, before, item.value.decode() if item else None)
            await asyncio.sleep(0.001)


class Neighbour:
    """A service in another language; restarted when its list of nodes changes."""

    def __init__(self, command: list[str], family: Family, reads: Reads) -> None:
        self.command = [command[0], str(FOLDER / command[1])]
        self.family, self.reads = family, reads

    async def run(self, nodes: list[str]) -> None:
        """Read at random until cancelled."""
        family = self.family
        process = await asyncio.create_subprocess_exec(
            *self.command,
            ",".join(nodes),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            while True:
                at = random.randrange(KEYS)
                before = family.written[at], family.deleted[at]
                process.stdin.write(family.key(at) + b"\n")
                line = (await process.stdout.readline()).decode().strip()
                if not line:
                    raise RuntimeError(f"{self.command[0]} ended")
                self.reads.judge(family, at, before, line)
                await asyncio.sleep(0.001)
        finally:
            process.kill()
            await process.wait()


class Demo:
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.servers: dict[str, MemcachedServer] = {}
        self.reads: dict[str, Reads] = {}
        self.services: list[Service] = []
        self.stage = ""
        self.history: list[tuple[str, dict[str, Counter[str]]]] = []
        self.began = time.monotonic()

    @property
    def nodes(self) -> list[str]:
        return [str(server.address) for server in self.servers.values()]

    async def run(self) -> bool:
        with ExitStack() as servers:
            for name in ("node 1", "node 2", "node 3"):
                self.servers[name] = servers.enter_context(MemcachedServer())
            await self._run(servers)
        return self._verdict()

    async def _run(self, servers: ExitStack) -> None:
        async with AsyncExitStack() as stack:
            neighbours = []
            for name, (routing, command) in READERS.items():
                family = Family(name)
                client = await stack.enter_async_context(
                    emcache.create_client(self.nodes, routing=routing, timeout=0.5)
                )
                self.reads[f"Python, {routing}"] = ours = Reads()
                self.reads[name] = theirs = Reads()
                self.services.append(Service(client, family, ours))
                neighbours.append(Neighbour(command, family, theirs))
            await self._fill()
            stack.enter_context(Live(console=console, get_renderable=self.table))
            async with asyncio.TaskGroup() as group:
                running = [
                    group.create_task(task)
                    for service in self.services
                    for task in (service.write(0, 2), service.write(1, 2), service.read())
                ]
                reading = [group.create_task(each.run(self.nodes)) for each in neighbours]
                await self._stages(servers, group, neighbours, reading)
                for task in running + reading:
                    task.cancel()

    async def _stages(
        self,
        servers: ExitStack,
        group: asyncio.TaskGroup,
        neighbours: list[Neighbour],
        reading: list["asyncio.Task[None]"],
    ) -> None:
        async with self._stage("three nodes"):
            pass
        self.servers["node 4"] = servers.enter_context(MemcachedServer())
        migrations = [await each.client.migrate(self.nodes) for each in self.services]
        async with self._stage("node 4 joins: Python migrates"):
            pass
        async with self._stage("node 2 is killed"):
            self.servers["node 2"].kill()
        async with self._stage("node 2 returns, empty"):
            self.servers["node 2"].start()
        async with self._stage("PHP and Ruby get the new list"):
            for task in reading:
                task.cancel()
            reading[:] = [group.create_task(each.run(self.nodes)) for each in neighbours]
        async with self._stage("the migration ends: four nodes"):
            for migration in migrations:
                await migration.finish()

    async def _fill(self) -> None:
        for service in self.services:
            family = service.family
            keys = {family.key(at): b"1" for at in range(KEYS)}
            await service.client.set_many(keys, exptime=600)
            family.begun[:] = family.written[:] = [1] * KEYS
            family.deleted[:] = [False] * KEYS

    @asynccontextmanager
    async def _stage(self, name: str) -> AsyncIterator[None]:
        self.stage = name
        for reads in self.reads.values():
            reads.stage.clear()
        yield
        await asyncio.sleep(self.seconds)
        self.history.append((name, {who: reads.stage.copy() for who, reads in self.reads.items()}))

    def table(self) -> Table:
        """The state of all services."""
        seconds = time.monotonic() - self.began
        table = Table(title=f"{seconds:4.0f} s  {self.stage}", title_justify="left")
        for column in ("service", "reads", "hit ratio", "missing", "errors", "wrong"):
            table.add_column(column, justify="left" if column == "service" else "right")
        for who, reads in self.reads.items():
            table.add_row(who, *_cells(reads.stage))
        for name, server in self.servers.items():
            state = "[green]up" if server.running else "[red]down"
            table.add_row(f"[dim]{name}", state)
        for service in self.services:
            status = service.client.metrics().migration
            if status is not None:
                moved = f"{status.moved} moved, {status.fallback_hits} found at their old node"
                table.add_row(f"[dim]migration, {service.family.name}", f"[dim]{moved}")
        return table

    def _verdict(self) -> bool:
        table = Table(title="Hit ratio by stage", title_justify="left")
        table.add_column("stage", no_wrap=True)
        for who in self.reads:
            table.add_column(who, justify="right")
        for name, stages in self.history:
            table.add_row(name, *(_ratio(stages[who]) for who in self.reads))
        console.print(table)
        wrong = [text for reads in self.reads.values() for text in reads.wrong]
        writes = sum(service.writes for service in self.services)
        failed = sum(service.failed_writes for service in self.services)
        total = sum(sum(reads.total.values()) for reads in self.reads.values())
        console.print(f"{total} reads, {writes} writes, {failed} writes that failed")
        console.print(f"{len(wrong)} reads returned a value that is not the newest")
        for text in wrong[:10]:
            console.print(f"  [red]{text}")
        return not wrong and total > 0


def _ratio(counts: Counter[str]) -> str:
    present = counts["hits"] + counts["misses"] + counts["errors"]
    return f"{counts['hits'] / present:.1%}" if present else "-"


def _cells(counts: Counter[str]) -> tuple[str, ...]:
    wrong = counts["wrong"]
    return (
        str(counts.total()),
        _ratio(counts),
        str(counts["misses"]),
        str(counts["errors"]),
        f"[red]{wrong}" if wrong else "0",
    )


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=float, default=4.0, help="for each stage")
    handler = RichHandler(console=console, show_path=False)
    logging.basicConfig(format="%(message)s", handlers=[handler])
    sys.exit(0 if asyncio.run(Demo(arguments.parse_args().seconds).run()) else 1)
