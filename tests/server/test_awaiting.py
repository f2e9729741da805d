"""How a call waits: the futures that tasks are parked on, and who else may drive a coroutine."""

import asyncio
import contextvars
import gc
import itertools
import sys
import weakref

import pytest

import emcache
from support.calls import client_of, within
from support.scripted import hold, scripted


@pytest.fixture
async def client(server):
    async with emcache.create_client([server.address], timeout=5.0) as client:
        await client.set(b"awaiting", b"v")
        yield client


class Counting(asyncio.SelectorEventLoop):
    count = 0

    def create_future(self):
        self.count += 1
        return super().create_future()


class Watching(asyncio.SelectorEventLoop):
    def __init__(self):
        super().__init__()
        self.made = []

    def create_future(self):
        future = super().create_future()
        self.made.append(weakref.ref(future))
        return future


def run_in(loop_factory, main):
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(main())


def test_a_future_serves_one_call_after_the_other(server):
    async def main():
        loop = asyncio.get_running_loop()
        async with emcache.create_client([server.address]) as client:
            await client.set(b"awaiting", b"v")

            async def some():
                for _ in range(50):
                    assert (await client.get(b"awaiting")).value == b"v"

            before = loop.count
            await asyncio.gather(*(some() for _ in range(20)))
            # One for each task that waits at a time, and some that asyncio makes.
            assert loop.count - before <= 30

    run_in(Counting, main)


async def drive(coroutine):
    """As a library would that has tasks of its own: waits for what the coroutine yields."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            yielded = coroutine.send(None)
        except StopIteration as stop:
            return stop.value
        assert asyncio.isfuture(yielded)
        assert yielded._asyncio_future_blocking
        yielded._asyncio_future_blocking = False
        woken = loop.create_future()
        seen = []
        yielded.add_done_callback(lambda future: (seen.append(future), woken.set_result(None)))  # noqa: B023
        await woken
        assert seen == [yielded]
        assert yielded.done()


@within(10)
async def test_a_coroutine_that_no_task_drives(client):
    for _ in range(5):
        assert (await drive(client.get(b"awaiting"))).value == b"v"
        assert (await client.get(b"awaiting")).value == b"v"
        with pytest.raises(emcache.NotFoundCommandError):
            await drive(client.delete(b"awaiting:none"))


@within(10)
async def test_a_future_that_somebody_keeps_is_not_used_again(client):
    async def get():
        return await client.get(b"awaiting")

    kept = []
    for _ in range(5):
        task = asyncio.create_task(get())
        await asyncio.sleep(0)
        kept.append(task._fut_waiter)
        await task
    kept = [future for future in kept if future is not None]
    assert len(set(map(id, kept))) == len(kept)


@within(10)
async def test_a_cancelled_future_is_not_used_again():
    async with scripted(hold) as server, client_of(server) as client:
        tasks = [asyncio.create_task(client.get(b"k%d" % n)) for n in range(10)]
        await asyncio.sleep(0.05)
        waiters = [task._fut_waiter for task in tasks]
        for task in tasks:
            assert task.cancel("because")
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(type(result) is asyncio.CancelledError for result in results)
        assert all(future.cancelled() for future in waiters)
        more = [asyncio.create_task(client.get(b"k%d" % n)) for n in range(10)]
        await asyncio.sleep(0.05)
        assert not set(map(id, waiters)) & {id(task._fut_waiter) for task in more}
        for task in more:
            task.cancel()
        await asyncio.gather(*more, return_exceptions=True)


@within(10)
async def test_a_coroutine_that_is_closed_while_it_waits():
    async with scripted(hold) as server, client_of(server) as client:
        coroutine = client.get(b"key")
        assert asyncio.isfuture(coroutine.send(None))
        coroutine.close()
        with pytest.raises(RuntimeError, match="cannot reuse"):
            coroutine.send(None)


@within(10)
async def test_what_is_thrown_into_a_coroutine_comes_out():
    async with scripted(hold) as server, client_of(server) as client:
        for thrown in (ValueError("text"), KeyError):
            coroutine = client.get(b"key")
            coroutine.send(None)
            with pytest.raises((ValueError, KeyError)):
                coroutine.throw(thrown)


@within(10)
async def test_a_task_is_woken_in_its_context(client):
    name = contextvars.ContextVar("name")

    async def get(number):
        name.set(number)
        for _ in range(20):
            await client.get(b"awaiting")
            assert name.get() == number

    await asyncio.gather(*(get(number) for number in range(20)))


class OwnTask(asyncio.Task):
    """As frameworks make them."""


@within(10)
async def test_tasks_of_another_class(client):
    loop = asyncio.get_running_loop()

    async def get():
        return (await client.get(b"awaiting")).value

    made = [OwnTask(get(), loop=loop), asyncio.tasks._PyTask(get(), loop=loop)]
    assert [await task for task in made] == [b"v", b"v"]


@within(10)
async def test_nothing_is_kept_of_tasks_that_ended(client):
    class Mark:
        pass

    async def get():
        mark = Mark()
        await client.get(b"awaiting")
        return weakref.ref(mark)

    marks = await asyncio.gather(*(get() for _ in range(10)))
    gc.collect()
    assert [mark() for mark in marks] == [None] * 10


@within(10)
async def test_the_loop_goes_on_while_thousands_are_woken(client):
    """However many answers come together, other callbacks are not kept waiting by all."""
    order = []

    async def get(number):
        await client.get(b"awaiting")
        order.append(number)
        await client.get(b"awaiting")

    async def tick():
        while len(order) < 5000:
            order.append("tick")
            await asyncio.sleep(0)

    await asyncio.gather(tick(), *(get(number) for number in range(5000)))
    woken = [n for n, what in enumerate(order) if what == "tick"]
    assert sum(a + 4000 < b for a, b in itertools.pairwise(woken)) == 0


async def await_what_is_yielded(coroutine):
    """As a library would whose tasks are asyncio's: they wait for the future itself."""
    while True:
        try:
            yielded = coroutine.send(None)
        except StopIteration as stop:
            return stop.value
        yielded._asyncio_future_blocking = False
        await yielded


@within(10)
async def test_a_task_that_awaits_what_a_coroutine_yields(client):
    for _ in range(5):
        assert (await await_what_is_yielded(client.get(b"awaiting"))).value == b"v"
        assert (await client.get(b"awaiting")).value == b"v"


class OwnFuture:
    """What a loop may give for a future: the methods, and nothing of asyncio's inside."""

    def __init__(self, loop):
        self._loop, self._future = loop, asyncio.Future(loop=loop)
        self._asyncio_future_blocking = False

    def get_loop(self):
        return self._loop

    def __getattr__(self, name):
        if name == "_callbacks":
            raise AttributeError(name)
        return getattr(self._future, name)

    def __await__(self):
        if not self.done():
            self._asyncio_future_blocking = True
            yield self
        return self.result()


class LoopOfOwnFutures(asyncio.SelectorEventLoop):
    def create_future(self):
        return OwnFuture(self)


def test_a_loop_that_makes_futures_of_its_own(server):
    async def main():
        async with emcache.create_client([server.address]) as client:
            await client.set(b"awaiting", b"v")
            for _ in range(5):
                assert (await client.get(b"awaiting")).value == b"v"

    with asyncio.Runner(loop_factory=LoopOfOwnFutures) as runner:
        runner.run(main())


@pytest.mark.skipif(sys.version_info < (3, 14), reason="futures do not know who awaits them")
class TestWhoAwaits:
    """`asyncio.print_call_graph` shows what futures and tasks know of each other."""

    def test_a_borrowed_future_forgets_its_tasks(self, server):
        async def main():
            loop = asyncio.get_running_loop()
            async with emcache.create_client([server.address]) as client:

                async def some():
                    for _ in range(5):
                        await client.get(b"awaiting")

                tasks = [asyncio.create_task(some()) for _ in range(20)]
                watched = [weakref.ref(task) for task in tasks]
                await asyncio.wait(tasks)
                tasks.clear()
                gc.collect()
                futures = [future for made in loop.made if (future := made()) is not None]
                assert not any(future._asyncio_awaited_by for future in futures)
                assert not any(task() for task in watched)

        run_in(Watching, main)

    @within(20)
    async def test_a_waiting_call_is_in_the_call_graph(self):
        async with scripted(hold) as peer, client_of(peer, timeout=None) as client:
            task = asyncio.create_task(client.get(b"awaiting"))
            await asyncio.sleep(0)
            graph = asyncio.format_call_graph(task)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert "Client.get()" in graph
