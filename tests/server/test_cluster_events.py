"""What becomes of events, whatever their handlers do."""

import asyncio
import contextlib
import socket

import pytest

import emcache
from support.calls import until, within
from support.eager import make_eager
from support.memcached import memcached


@contextlib.contextmanager
def dead_addresses(count):
    """Ports that are taken and refuse."""
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in taken:
            each.bind(("127.0.0.1", 0))
        yield [emcache.MemcachedHostAddress(*each.getsockname()) for each in taken]


class Told(emcache.ClusterEvents):
    """Hears of each node that is down or up again, and then does what a test says."""

    def __init__(self, then=None):
        self.down, self.up = [], []
        self.then = then

    async def on_node_healthy(self, cluster_managment, host):
        self.up.append(host)

    async def on_node_unhealthy(self, cluster_managment, host):
        self.down.append(host)
        if self.then is not None:
            await self.then()


class Unusual(BaseException):
    pass


async def raises(error):
    raise error


async def awaits_what_is_cancelled():
    other = asyncio.create_task(asyncio.sleep(30))
    await asyncio.sleep(0)
    other.cancel()
    await other


async def is_cancelled():
    asyncio.current_task().cancel()
    await asyncio.sleep(30)


async def is_cancelled_and_returns():
    asyncio.current_task().cancel()


HANDLERS = {
    "returns": lambda: asyncio.sleep(0),
    "raises an Exception": lambda: raises(ValueError("handler")),
    "raises a BaseException": lambda: raises(Unusual("handler")),
    "raises CancelledError": lambda: raises(asyncio.CancelledError),
    "awaits a task that is cancelled": awaits_what_is_cancelled,
    "cancels itself": is_cancelled,
    "cancels itself and returns": is_cancelled_and_returns,
}


@within(30)
@pytest.mark.parametrize("eager", [False, True], ids=["", "eager tasks"])
@pytest.mark.parametrize("handler", HANDLERS.values(), ids=HANDLERS)
async def test_every_event_is_heard(handler, eager):
    if eager:
        make_eager(asyncio.get_running_loop())
    events = Told(handler)
    with dead_addresses(5) as dead:
        async with emcache.create_client(dead, cluster_events=events):
            await until(lambda: len(events.down) == 5)
        assert set(events.down) == set(dead)


@within(30)
@pytest.mark.parametrize("eager", [False, True], ids=["", "eager tasks"])
async def test_events_of_a_server_that_stops_and_starts_again(eager):
    if eager:
        make_eager(asyncio.get_running_loop())
    events = Told()
    with memcached() as server:
        options = {"timeout": 0.5, "cluster_events": events}
        async with emcache.create_client([server.address], **options) as client:
            for times in range(1, 3):
                await client.wait_ready(10)
                server.kill()
                await until(lambda times=times: len(events.down) == times)
                server.start()
                await until(lambda times=times: len(events.up) == times)


@within(30)
async def test_all_tasks_of_a_loop_are_cancelled_with_a_handler_under_way():
    """As `asyncio.run` does it at the end: what is still to be told waits no longer."""
    begun = asyncio.Event()

    async def waits():
        begun.set()
        await asyncio.Event().wait()

    events = Told(waits)
    with dead_addresses(2) as dead:
        async with emcache.create_client(dead, cluster_events=events) as client:
            await begun.wait()
            [handler] = asyncio.all_tasks() - {asyncio.current_task()}
            handler.cancel()
            await asyncio.wait([handler])
            # The other event is told by a task of its own.
            await until(lambda: len(events.down) == 2)
            await client.close()
        await asyncio.sleep(0.1)
        assert asyncio.all_tasks() == {asyncio.current_task()}
