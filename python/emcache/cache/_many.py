"""Many values with one look and one computation: ``get_or_set_many``."""

import asyncio
import contextlib
import functools
import inspect
import time
from collections.abc import (
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from typing import Any, Generic, TypeVar

from .._errors import EmcacheError
from .._failures import SharedFailure, copy_exception
from ._cold_keys import ColdKeys
from ._computing import UnusableError
from ._counts import Counts
from ._deadlock import Run, waiting_for
from ._flights import Missing
from ._get_or_set import GetOrSet
from ._lost_keys import wait_for_others
from ._meta_leases import MetaLeases
from ._policy import Policy
from ._storage import Storage
from ._tags import TagNames, generations_in
from ._tasks import in_task

K = TypeVar("K")
T = TypeVar("T")

AT_ONCE = 250
"""How many keys take their leases, or store their values, in one iteration of the loop.

Ten thousand would keep it busy for longer than the timeout of their requests.
"""

BATCH_FROM = 16
"""How many missing keys share a task; fewer have one each, and need no command for all."""

Load = Callable[[list[K]], Awaitable[Mapping[K, T]]]


class AbsentError(Exception):
    """The computation of many values has none for this key."""


class Loader(Generic[K, T]):
    """Calls ``load`` once for all keys whose values one call must compute.

    It waits until that is known of every key. A key whose value another process computes is loaded
    later, if that process does not store it.
    """

    def __init__(self, load: Load[K, T], keys: Mapping[bytes, K], counts: Counts) -> None:
        self._load = load
        self._keys = keys
        self._counts = counts
        self._undecided = set(keys)
        self._next: _Call[K, T] | None = None

    def decide(self, name: bytes) -> None:
        """Note that the first call need not wait for this key any more."""
        self._undecided.discard(name)
        if self._next is not None and not self._undecided:
            # Others of the same iteration of the loop may follow.
            asyncio.get_running_loop().call_soon(self._start)

    def factory(self, name: bytes) -> Callable[[], Awaitable[T]]:
        """Return the factory of one key."""

        async def value() -> T:
            if self._next is None:
                self._next = _Call(self._load, self._counts)
            call = self._next
            future = call.expect(self._keys[name])
            self.decide(name)
            return await call.value(self._keys[name], future)

        return value

    def expect(self, names: Collection[bytes]) -> "_Expected[K, T]":
        """Add keys to the next call of ``load``."""
        if self._next is None:
            self._next = _Call(self._load, self._counts)
        call = self._next
        futures = {name: call.expect(self._keys[name]) for name in names}
        for name in names:
            self.decide(name)
        return _Expected(call, [self._keys[name] for name in names], futures)

    def _start(self) -> None:
        call, self._next = self._next, None
        if call is not None:
            call.start()


class _Call(Generic[K, T]):
    """One call of ``load``, and the flights that wait for it."""

    def __init__(self, load: Load[K, T], counts: Counts) -> None:
        self._load = load
        self._counts = counts
        self._run = Run()
        self._futures: dict[K, asyncio.Future[T]] = {}
        self._task: asyncio.Task[None] | None = None

    def expect(self, key: K) -> "asyncio.Future[T]":
        """Add a key; its value is the result of the future."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._futures[key] = future
        return future

    async def value(self, key: K, future: "asyncio.Future[T]") -> T:
        """Wait for the value of a key."""
        try:
            with waiting_for(self._run):
                return await future
        except asyncio.CancelledError:
            await self.give_up([key])
            raise

    async def wait(self, futures: Collection["asyncio.Future[T]"]) -> None:
        """Wait for the values of many keys."""
        with waiting_for(self._run):
            await asyncio.wait(futures)

    async def give_up(self, keys: Iterable[K]) -> None:
        """Forget keys; without any, cancel the call and wait for its end."""
        for key in keys:
            self._futures.pop(key, None)
        if not self._futures and self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])

    def start(self) -> None:
        """Call ``load`` in a task of its own."""
        if self._futures:
            self._task = in_task(self._run_load(), "emcache computes many values")

    async def _run_load(self) -> None:
        self._run.begin()
        keys = list(self._futures)
        self._counts.computed += len(keys)
        began = time.perf_counter()
        try:
            try:
                values = await _load_values(self._load, keys)
            finally:
                self._counts.seconds += time.perf_counter() - began
            for at, (key, future) in enumerate(list(self._futures.items())):
                if at and at % AT_ONCE == 0:
                    await asyncio.sleep(0)
                if future.done():
                    continue
                if key in values:
                    future.set_result(values[key])
                else:
                    future.set_exception(UnusableError(AbsentError(key)))
        except BaseException as error:
            # Also one of a mapping, or of a signal handler: nobody may wait for ever.
            self._fail(error)
            raise

    def _fail(self, error: BaseException) -> None:
        own_error = error.error if isinstance(error, UnusableError) else None
        failure = SharedFailure(error)
        for future in self._futures.values():
            if future.done():
                continue
            if not isinstance(error, Exception):
                future.cancel()
            elif own_error is not None:
                future.set_exception(UnusableError(copy_exception(own_error)))
            else:
                # Each flight raises its own, since they would add their frames to the same one.
                future.set_exception(failure.take())


class _Expected(Generic[K, T]):
    """The keys of one call that a batch waits for."""

    def __init__(
        self, call: _Call[K, T], keys: list[K], futures: dict[bytes, "asyncio.Future[T]"]
    ) -> None:
        self._call = call
        self._keys = keys
        self.futures = futures

    async def wait(self) -> None:
        """Wait until all futures are done; a cancelled wait gives up these keys."""
        try:
            await self._call.wait(self.futures.values())
        except asyncio.CancelledError:
            await self._call.give_up(self._keys)
            for future in self.futures.values():
                if future.done() and not future.cancelled():
                    future.exception()  # nobody else retrieves it
            raise


async def _load_values(load: Load[K, T], keys: list[K]) -> Mapping[K, T]:
    """Call ``load``.

    Raises:
        UnusableError: it is not an async function that returns a mapping.
    """
    loading = load(keys)
    if not inspect.isawaitable(loading):
        kind = type(loading).__name__
        raise UnusableError(TypeError(f"load must be an async function, but it returned {kind}"))
    values = await loading
    if not isinstance(values, Mapping):
        kind = type(values).__name__
        error = TypeError(f"load must return a mapping of keys to values, not {kind}")
        raise UnusableError(error)
    return values


async def get_or_set_many(
    storage: Storage[T],
    policy: Policy,
    counts: Counts,
    names: Mapping[K, bytes],
    load: Load[K, T],
    tags: Mapping[K, TagNames],
    since: float | None = None,
) -> dict[K, T]:
    """See :meth:`emcache.Cache.get_or_set_many`.

    ``since`` is the ``time.monotonic()`` at which a call has begun to wait for other processes.
    """
    if not names:
        return {}
    keys = {name: key for key, name in names.items()}
    loader = Loader(load, keys, counts)
    calls: dict[bytes, GetOrSet[T]] = {}
    found: dict[bytes, T] = {}
    for name, key in keys.items():
        if storage.local is not None:
            value = storage.local.find(name, tags[key])
            if not isinstance(value, Missing):
                found[name] = value
                loader.decide(name)
                continue
        factory = loader.factory(name)
        calls[name] = GetOrSet(storage, policy, counts, name, factory, None, tags[key], loader)
        calls[name].since = since
    counts.hits += len(found)
    counts.local += len(found)
    if not calls:
        return {key: found[name] for key, name in names.items()}
    began = storage.flights.clock
    outdated = storage.flights.late.outdated(calls)
    all_tags = {tag: None for name in calls for tag in tags[keys[name]]}
    items = await storage.client.get_many((*calls, *all_tags), True, on_error="partial")
    generations = generations_in(items, all_tags)
    reading: list[tuple[bytes, Callable[[], Coroutine[Any, Any, T]]]] = []
    missing: dict[bytes, GetOrSet[T]] = {}
    for name, call in calls.items():
        error: Exception | None = items.errors.get(name)
        read = None
        if error is None:
            try:
                read = await call.read(items.get(name), outdated, generations)
            except EmcacheError as unreadable:
                error = unreadable
        if error is not None:
            if not isinstance(error, EmcacheError):
                raise error
            call.ignore(error)
        if read is not None and read.freshness == "fresh":
            found[name] = read.value
            if since is None:
                counts.hits += 1
            else:
                counts.misses += 1
                counts.waited += 1
            call.keep(read)
            loader.decide(name)
        elif read is None and error is None:
            missing[name] = call
        else:
            reading.append((name, functools.partial(call.after_many, read, began)))
    batch: ColdKeys[T] | None = None
    cold = {name: call for name, call in missing.items() if call.is_cold}
    if len(cold) < BATCH_FROM or not isinstance(storage.leases, MetaLeases):
        cold = {}
    for name, call in missing.items():
        if name not in cold:
            reading.append((name, functools.partial(call.after_many, None, began)))
    later: asyncio.Task[dict[K, T]] | None = None
    if cold and isinstance(storage.leases, MetaLeases):
        batch = ColdKeys(storage, storage.leases, cold)
        unwon = await batch.take()
        if since is None and policy.longest_wait and len(batch.lost) >= BATCH_FROM:
            lost = {keys[name]: name for name in batch.lost}
            for name in batch.lost:
                del unwon[name]
                loader.decide(name)
            later = asyncio.create_task(
                _after_others(storage, policy, counts, lost, load, {key: tags[key] for key in lost})
            )
        for name, error in unwon.items():
            after = functools.partial(calls[name].after_many, None, began)
            if error is not None:
                after = functools.partial(calls[name].after_error, error, began)
            reading.append((name, after))
        batch.start(loader)
    try:
        with contextlib.nullcontext() if batch is None else waiting_for(batch.run):
            results = await _results_of([_decided(loader, name, end) for name, end in reading])
            if batch is not None:
                await batch.wait()
            if later is not None:
                found.update((names[key], value) for key, value in (await later).items())
    except BaseException:
        if later is not None:
            later.cancel()
            await asyncio.gather(later, return_exceptions=True)
        if batch is not None:
            await batch.leave()
        raise
    everything: dict[bytes, T | BaseException] = {} if batch is None else {**batch.results()}
    everything.update(zip((name for name, _ in reading), results, strict=True))
    for name, result in everything.items():
        if isinstance(result, AbsentError):
            continue
        if isinstance(result, BaseException):
            raise result
        found[name] = result
    return {key: found[name] for key, name in names.items() if name in found}


async def _after_others(
    storage: Storage[T],
    policy: Policy,
    counts: Counts,
    names: Mapping[K, bytes],
    load: Load[K, T],
    tags: Mapping[K, TagNames],
) -> dict[K, T]:
    """Wait for the processes that compute these values, and get or compute them then."""
    since = time.monotonic()
    await wait_for_others(storage, names.values(), policy)
    return await get_or_set_many(storage, policy, counts, names, load, tags, since)


async def _results_of(calls: Sequence[Coroutine[Any, Any, T]]) -> list[T | BaseException]:
    """Run calls at the same time; return their results and exceptions."""
    tasks: list[asyncio.Task[T]] = []
    try:
        for call in calls:
            if tasks and len(tasks) % AT_ONCE == 0:
                await asyncio.sleep(0)
            tasks.append(asyncio.create_task(call))
    except asyncio.CancelledError:
        for call in calls[len(tasks) :]:
            call.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
    return await asyncio.gather(*tasks, return_exceptions=True)


async def _decided(loader: Loader[K, T], name: bytes, finish: Callable[[], Awaitable[T]]) -> T:
    try:
        return await finish()
    finally:
        loader.decide(name)
