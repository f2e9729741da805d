"""One process of a soak: ``python -m soak.worker JSON`` prints its counts as JSON."""

import asyncio
import contextlib
import gc
import json
import logging
import random
import resource
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import emcache
import emcache.sync

from .model import Counts, Programs, Unknown, WrongError, as_dict


def main(plan: dict[str, Any]) -> None:
    """Run programs for some seconds."""
    logging.getLogger("emcache").addHandler(logging.NullHandler())
    run = in_threads if plan["mode"] == "sync" else in_tasks
    peers = [name.encode() for name in plan["peers"]]
    programs = Programs(random.Random(plan["seed"]), plan["lossy"], peers, plan["only_newer"])
    names = [name.encode() for name in plan["names"]]
    shares = [names[number :: plan["workers"]] for number in range(plan["workers"])]
    wrong: list[str] = []
    # What a process keeps from its first client on is no leak.
    run(plan | {"seconds": 0.2, "strict": False}, programs, [[b"warm%d" % plan["seed"]]], wrong, [])
    programs.counts = Counts()
    with flat(plan, wrong) as memory:
        run(plan, programs, shares, wrong, memory)
    print(json.dumps(as_dict(programs.counts) | {"wrong": wrong, "memory": memory}))


@contextlib.contextmanager
def flat(plan: dict[str, Any], wrong: list[str]) -> Iterator[list[int]]:
    """Compare descriptors and threads before and after."""
    memory: list[int] = []
    before = open_descriptors(), threading.active_count(), os_threads()
    yield memory
    gc.collect()
    until = time.monotonic() + 10
    while (after := (open_descriptors(), threading.active_count(), os_threads())) > before:
        if time.monotonic() > until:
            wrong.append(f"descriptors, Python's threads and all threads: {before}, then {after}")
            break
        time.sleep(0.05)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def os_threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def used_memory() -> int:
    """Return the resident KiB."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize() // 1024


def result_of(plan: dict[str, Any], programs: Programs, error: Exception) -> object:
    """Return what a program gets instead of a result."""
    if isinstance(error, emcache.CommandError):
        return error
    if not isinstance(error, emcache.EmcacheError | TimeoutError):
        raise WrongError(f"an error of another kind: {error!r}") from error
    if plan["strict"]:
        raise WrongError(f"no fault explains {error!r}") from error
    return Unknown(error)


def in_tasks(plan, programs, shares, wrong, memory):
    """Run a program in each of many tasks."""

    async def call(client, name, args, kwargs):
        programs.counts.calls += 1
        calling = getattr(client, name)(*args, **kwargs)
        if plan["strict"] or programs.rng.random() > 0.01:
            return await calling
        # Callers leave.
        after = programs.rng.random() * 0.003
        if programs.rng.random() < 0.5:
            return await asyncio.wait_for(calling, after)
        task = asyncio.ensure_future(calling)
        asyncio.get_running_loop().call_later(after, task.cancel)
        try:
            return await task
        except asyncio.CancelledError:
            raise TimeoutError("cancelled") from None

    async def work(client, share):
        program = programs.program(share)
        request = next(program)
        history = deque(maxlen=30)
        while time.monotonic() < end:
            began = time.monotonic()
            try:
                result = await call(client, *request)
            except Exception as error:
                result = result_of(plan, programs, error)
            history.append((began, time.monotonic(), request, result))
            try:
                request = program.send(result)
            except WrongError as error:
                raise WrongError(f"{error}\n{story(history, error)}") from None

    async def watch():
        await asyncio.sleep(plan["seconds"] * 0.4)
        memory.append(used_memory())

    async def everything():
        async with emcache.create_client(plan["nodes"], **plan["options"]) as client:
            watching = asyncio.create_task(watch())
            results = await asyncio.gather(
                *(work(client, share) for share in shares), return_exceptions=True
            )
            memory.append(used_memory())
            watching.cancel()
            wrong.extend(told(error) for error in results if error is not None)

    end = time.monotonic() + plan["seconds"]
    if plan["loop"] == "uvloop":
        import uvloop

        uvloop.run(everything())
    else:
        asyncio.run(everything())


def in_threads(plan, programs, shares, wrong, memory):
    """Run a program in each of some threads, which share a client."""

    def work(share, rng):
        # Each has its own source of randomness and counts, so that nothing else needs a lock.
        mine = Programs(rng, programs.lossy, programs.peers, programs.only_newer)
        program = mine.program(share)
        try:
            request = next(program)
            while time.monotonic() < end:
                name, args, kwargs = request
                mine.counts.calls += 1
                try:
                    result = getattr(client, name)(*args, **kwargs)
                except Exception as error:
                    result = result_of(plan, mine, error)
                request = program.send(result)
        except BaseException as error:
            wrong.append(told(error))
        finally:
            counts.append(mine.counts)

    counts: list[Any] = []
    end = time.monotonic() + plan["seconds"]
    with emcache.sync.create_client(plan["nodes"], **plan["options"]) as client:
        threads = [
            threading.Thread(target=work, args=(share, random.Random(plan["seed"] + number)))
            for number, share in enumerate(shares)
        ]
        for thread in threads:
            thread.start()
        time.sleep(plan["seconds"] * 0.4)
        memory.append(used_memory())
        for thread in threads:
            thread.join()
        memory.append(used_memory())
    for each in counts:
        for name, number in as_dict(each).items():
            setattr(programs.counts, name, getattr(programs.counts, name) + number)


def story(history: Iterable[tuple[float, float, Any, object]], error: WrongError) -> str:
    """Return the calls with the key that an error names."""
    key = str(error).split("'")[1]
    lines = []
    for began, ended, (name, args, kwargs), result in history:
        text = f"{args!r} {kwargs or ''}"
        if f"'{key}'" in text:
            shown = result.get(key.encode()) if isinstance(result, dict) else result
            lines.append(f"  {began:.3f} {ended - began:.3f} {name} {text:.70} -> {shown!r:.90}")
    return "\n".join(lines)


def told(error: BaseException) -> str:
    """Return an error with where it was raised."""
    return "".join(traceback.format_exception(error)[-3:])


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
